"""Checks the Postgres of a state: whether it answers, what the user may do there, its version, clock and distance."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.database.opening import connect
from spectron_migrate.database.session_locks import check_session
from spectron_migrate.doctor.check import Check, failed
from spectron_migrate.errors import MigrateError

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase

SLOW_S = 0.02
"""A capture waits for one round trip, and gives up after 50 ms."""
SKEW_S = 5.0
_TRIPS = 9


def check_database(
    location: PostgresLocation, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Iterator[Check]:
    """Check a state in Postgres. Writes nothing and makes no schema. `now`: with its zone."""
    try:
        with closing(connect(location)) as database:
            check_session(database, lambda: connect(location))
            yield _check_rights(database)
            yield _check_clock(database, now)
            yield _check_distance(database)
    except MigrateError as error:
        yield failed("database", error)


def _check_rights(database: PostgresDatabase) -> Check:
    schema = database.location.schema
    row = database.execute(
        "SELECT current_setting('server_version') AS version, pg_is_in_recovery() AS replica,"
        " has_database_privilege(current_database(), 'CREATE') AS may_create,"
        " EXISTS (SELECT FROM pg_namespace WHERE nspname = ?) AS present,"
        " coalesce((SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = ?), false)"
        " AS may_fill",
        (schema, schema),
    ).fetchone()
    if row["replica"]:
        finding = f"{database.location} is a read-only replica"
        return Check("database", "fail", finding, "name the primary server, not a replica of it")
    if not (row["may_fill"] if row["present"] else row["may_create"]):
        finding = f"the user may not create {'tables in' if row['present'] else ''} the schema {schema}"
        hint = f"as the database's owner: CREATE SCHEMA {schema} AUTHORIZATION <user>"
        return Check("database", "fail", " ".join(finding.split()), hint)
    there = "is there" if row["present"] else "is made by the first replay"
    return Check("database", "ok", f"Postgres {row['version']}, the schema {schema} {there}")


def _check_clock(database: PostgresDatabase, now: Callable[[], datetime]) -> Check:
    before = now().timestamp()
    theirs = float(database.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()[0])
    skew = theirs - (before + now().timestamp()) / 2
    if abs(skew) < SKEW_S:
        return Check("database: clock", "ok", f"within {SKEW_S:g} s of this machine's")
    finding = f"the server's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    hint = "set both by NTP: captured writes and readings of Mem0 are compared by time"
    return Check("database: clock", "warn", finding, hint)


def _check_distance(database: PostgresDatabase) -> Check:
    trips = []
    for _ in range(_TRIPS):
        began = time.monotonic()
        database.execute("SELECT 1").fetchone()
        trips.append(time.monotonic() - began)
    took = median(trips)
    finding = f"a round trip takes {took * 1000:.1f} ms"
    if took < SLOW_S:
        return Check("database: distance", "ok", finding)
    hint = "an application waits 50 ms at most for it; what is not noted by then is found by the next reading of Mem0"
    return Check("database: distance", "warn", finding, hint)
