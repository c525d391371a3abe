"""States in Postgres for tests that were written for a directory.

A test marked `both_engines` runs twice, with its states in files and with its states in Postgres. With
SPECTRON_MIGRATE_LEDGER=postgres every test runs with them there, but those marked `ledger_file`. A process that a test
starts has them there if it is told `named(state)`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from spectron_migrate.database.location import PostgresLocation, parse_location
from spectron_migrate.state import store

if TYPE_CHECKING:
    from spectron_migrate.state.postgres import PostgresState
    from spectron_migrate.state.postgres_calls import PostgresCallLog

VARIABLE = "SPECTRON_MIGRATE_LEDGER"


def engines_of(item: pytest.Metafunc) -> list[str]:
    """The engines with which a test runs."""
    marked = {marker.name for marker in item.definition.iter_markers()}
    if os.environ.get(VARIABLE) == "postgres":
        return ["sqlite" if "ledger_file" in marked else "postgres"]
    return ["sqlite", "postgres"] if "both_engines" in marked and "ledger_file" not in marked else ["sqlite"]


_states: dict[str, PostgresState] = {}
"""Those that are open, by schema."""


def named(state: Path) -> str:
    """As a command of another process takes it, `--state`."""
    place = store.store_at(state).place
    return f"{place.url}&schema={place.schema}" if isinstance(place, PostgresLocation) else str(place)


def forget(location: PostgresLocation) -> None:
    """Close what this process has open of a state: it is to be another one."""
    if location.schema in _states:
        _states.pop(location.schema).close()


@contextmanager
def states_in_postgres(server: str) -> Iterator[None]:
    """States that this process opens in a directory lie in a schema of the directory's own, their ledgers too."""
    import psycopg

    from spectron_migrate.state.postgres import PostgresState

    def located(folder: Path) -> PostgresState:
        schema = f"t_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:20]}"
        if schema not in _states:
            _states[schema] = PostgresState(parse_location(f"{server}&schema={schema}"))
        return _states[schema]

    logs: list[PostgresCallLog] = []
    open_log = PostgresState.call_log

    def kept_log(state: PostgresState, **named: Any) -> PostgresCallLog:
        logs.append(open_log(state, **named))
        return logs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "DirectoryState", located)
        patch.setattr(PostgresState, "call_log", kept_log)
        yield
    for log in logs:  # tests leave them open, as files may be: a server has a hundred connections
        log.close()
    with psycopg.connect(server, autocommit=True) as db:
        while _states:
            schema, state = _states.popitem()
            state.close()
            db.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
