"""States in Postgres for tests that were written for a directory.

A test marked `both_engines` runs twice, with its states in files and with its states in Postgres. With
SPECTRON_MIGRATE_LEDGER=postgres every test runs with them there, but those marked `ledger_file`. Processes that a test
starts still have their states in files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spectron_migrate.database.location import parse_location
from spectron_migrate.state import store

VARIABLE = "SPECTRON_MIGRATE_LEDGER"


def engines_of(item: pytest.Metafunc) -> list[str]:
    """The engines with which a test runs."""
    marked = {marker.name for marker in item.definition.iter_markers()}
    if os.environ.get(VARIABLE) == "postgres":
        return ["sqlite" if "ledger_file" in marked else "postgres"]
    return ["sqlite", "postgres"] if "both_engines" in marked and "ledger_file" not in marked else ["sqlite"]


@contextmanager
def states_in_postgres(server: str) -> Iterator[None]:
    """States that this process opens in a directory lie in a schema of the directory's own, their ledgers too."""
    import psycopg

    from spectron_migrate.state.postgres import PostgresState

    states: dict[str, PostgresState] = {}

    def located(folder: Path) -> PostgresState:
        schema = f"t_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:20]}"
        if schema not in states:
            states[schema] = PostgresState(parse_location(f"{server}&schema={schema}"))
        return states[schema]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "DirectoryState", located)
        yield
    for state in states.values():
        state.close()
    with psycopg.connect(server, autocommit=True) as db:
        for schema in states:
            db.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
