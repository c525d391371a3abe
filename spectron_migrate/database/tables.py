"""Creates a schema and the tables of its parts, and records the format of each part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectron_migrate.database.dialect import postgres_tables
from spectron_migrate.database.session_locks import lock_key
from spectron_migrate.errors import InputError, KeyRefused

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase

_OWN = """
CREATE TABLE format(part TEXT PRIMARY KEY, number INTEGER NOT NULL);
CREATE TABLE commit_count(holder TEXT PRIMARY KEY, commits INTEGER NOT NULL, at TIMESTAMPTZ NOT NULL DEFAULT now());
"""
"""`format`: of each part of the schema. `commit_count`: transactions of each process that writes, so that it finds out
where the database has forgotten some."""


def make_schema(database: PostgresDatabase) -> None:
    """Create the schema if it is not there; raises KeyRefused if the user may not, InputError if it is another's."""
    schema = database.location.schema
    with database.transaction() as db:
        db.execute("SELECT pg_advisory_xact_lock(?)", (lock_key(schema, "tables"),))
        if db.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", (schema,)).fetchone() is None:
            db.execute(f'CREATE SCHEMA "{schema}"')
            database.made_schema = True
        if is_made(database):
            return
        for statement in postgres_tables(_OWN):
            db.execute(statement)


def drop_schema(database: PostgresDatabase) -> None:
    """Remove the schema again if this connection made it and no part has a table in it."""
    schema = database.location.schema
    with database.transaction() as db:
        db.execute("SELECT pg_advisory_xact_lock(?)", (lock_key(schema, "tables"),))
        if not database.made_schema or db.execute("SELECT 1 FROM format").fetchone() is not None:
            return
        database.count_commits(None)  # this drops the table of the counts, too
        db.execute(f'DROP SCHEMA "{schema}" CASCADE')


def _tables(database: PostgresDatabase) -> list[str]:
    schema = database.location.schema
    rows = database.execute(
        "SELECT relname, has_schema_privilege(pg_namespace.oid, 'USAGE') AS may_use"
        " FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE nspname = ? AND relkind IN ('r', 'p', 'v') ORDER BY relname",
        (schema,),
    ).fetchall()
    if rows and not rows[0]["may_use"]:
        raise KeyRefused(
            f"the user of {database.location} may not use the schema {schema}",
            hint=f"as its owner: GRANT USAGE, CREATE ON SCHEMA {schema} TO <user>, and all rights on its tables",
        )
    return [row["relname"] for row in rows]


def is_made(database: PostgresDatabase) -> bool:
    """Whether the schema exists, with our tables; raises InputError if it holds tables of something else."""
    tables = _tables(database)
    if tables and "format" not in tables:
        raise InputError(
            f"the schema {database.location.schema} of {database.location} holds tables of something else:"
            f" {', '.join(tables[:3])}",
            hint="name a schema of its own: postgresql://…?schema=NAME",
        )
    return bool(tables)


def commits_of(database: PostgresDatabase, holder: str | None) -> int:
    """How many transactions of a holder are durable."""
    if not is_made(database):
        return 0
    row = database.execute("SELECT commits FROM commit_count WHERE holder = ?", (holder,)).fetchone()
    return int(row["commits"]) if row else 0


def format_of(database: PostgresDatabase, part: str) -> int | None:
    """The format of a part; None if the schema or the part does not exist."""
    if not is_made(database):
        return None
    row = database.execute("SELECT number FROM format WHERE part = ?", (part,)).fetchone()
    return int(row["number"]) if row else None


def check_format(database: PostgresDatabase, part: str, found: int, newest: int) -> None:
    """Raises InputError for a format that this version does not know."""
    if found != newest:
        raise InputError(
            f"the {part} in {database.location} has format {found}, this version reads format {newest}",
            hint="go on with the version of spectron-migrate that wrote it last",
        )


def make_tables(database: PostgresDatabase, part: str, ddl: str, newest: int) -> None:
    """Create the tables of a part, and the schema, if they do not exist. Of several processes, only one does.

    `ddl` is written as for SQLite (`dialect.postgres_tables`). Raises what `make_schema` does.
    """
    make_schema(database)
    with database.transaction() as db:
        db.execute("SELECT pg_advisory_xact_lock(?)", (lock_key(database.location.schema, "tables"),))
        found = format_of(database, part)
        if found is None:
            for statement in postgres_tables(ddl):
                db.execute(statement)
            db.execute("INSERT INTO format(part, number) VALUES (?, ?)", (part, newest))
        else:
            check_format(database, part, found, newest)
