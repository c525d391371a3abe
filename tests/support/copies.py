"""Copies of a state, taken while a process may be writing it; and states that are lost. In files, and in Postgres."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.state.store import store_at
from tests.support import engines

LEFT_OUT = ("ledger.db-wal", "ledger.db-shm", "ledger.lock", "round.lock", "follow.lock", "cutover.lock")


def copy_state(state: Path, copy: Path) -> None:
    """What a backup of a running system is: everything as of one moment."""
    place, target = store_at(state).place, store_at(copy).place
    if isinstance(place, PostgresLocation):
        assert isinstance(target, PostgresLocation)
        engines.forget(target)
        _copy_schema(place, target.schema)
        return
    shutil.copytree(state, copy, ignore=shutil.ignore_patterns("ledger.db", *LEFT_OUT), dirs_exist_ok=True)
    for path in state.rglob("ledger.db"):
        copied = copy / path.relative_to(state)
        copied.parent.mkdir(parents=True, exist_ok=True)
        read_only = f"{path.as_uri()}?mode=ro"
        with closing(sqlite3.connect(read_only, uri=True)) as original, closing(sqlite3.connect(copied)) as database:
            original.backup(database)
            database.execute("PRAGMA journal_mode = WAL")
        copied.chmod(0o600)


def lose_state(state: Path) -> None:
    """Nothing is left of it."""
    place = store_at(state).place
    if not isinstance(place, PostgresLocation):
        shutil.rmtree(state)
        return
    engines.forget(place)
    with _connected(place) as db:
        db.execute(f'DROP SCHEMA "{place.schema}" CASCADE')


def _copy_schema(place: PostgresLocation, target: str) -> None:
    """Every row as of one moment, as the restored backup of a database has them."""
    with _connected(place) as db:
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        db.execute(f'DROP SCHEMA IF EXISTS "{target}" CASCADE')
        db.execute(f'CREATE SCHEMA "{target}"')
        for (name,) in db.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (place.schema,)).fetchall():
            old, new = f'"{place.schema}".{name}', f'"{target}".{name}'
            db.execute(f"CREATE TABLE {new} (LIKE {old} INCLUDING ALL)")
            db.execute(f"INSERT INTO {new} OVERRIDING SYSTEM VALUE SELECT * FROM {old}")
            numbered = db.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attidentity != ''", (old,)
            )
            for (column,) in numbered.fetchall():
                db.execute(
                    f"SELECT setval(pg_get_serial_sequence(%s, %s), (SELECT greatest(max({column}), 1) FROM {new}))",
                    (new, column),
                )
        db.execute("SET search_path = pg_catalog")  # so that definitions name their schema
        views = db.execute("SELECT viewname, definition FROM pg_views WHERE schemaname = %s", (place.schema,))
        for name, definition in views.fetchall():
            moved = definition.replace(f"{place.schema}.", f"{target}.")
            db.execute(f'CREATE VIEW "{target}".{name} AS {moved}')


def _connected(place: PostgresLocation) -> Any:
    import psycopg

    return psycopg.connect(place.url)
