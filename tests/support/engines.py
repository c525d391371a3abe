"""Ledgers in Postgres for tests that were written for a directory.

A test marked `both_engines` runs twice, with its ledgers in files and with its ledgers in Postgres. With
SPECTRON_MIGRATE_LEDGER=postgres every test runs with them there, but those marked `ledger_file`. Processes that a test
starts still have their ledgers in files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.database.location import parse_location
from spectron_migrate.ledger import Ledger, ledger
from spectron_migrate.state.store import place_of

VARIABLE = "SPECTRON_MIGRATE_LEDGER"


def engines_of(item: pytest.Metafunc) -> list[str]:
    """The engines with which a test runs."""
    marked = {marker.name for marker in item.definition.iter_markers()}
    if os.environ.get(VARIABLE) == "postgres":
        return ["sqlite" if "ledger_file" in marked else "postgres"]
    return ["sqlite", "postgres"] if "both_engines" in marked and "ledger_file" not in marked else ["sqlite"]


@contextmanager
def ledgers_in_postgres(server: str) -> Iterator[None]:
    """Ledgers that this process opens in a directory lie in a schema of the directory's own."""
    import psycopg

    schemas: set[str] = set()

    def located(state: Any) -> Any:
        place = place_of(state)
        if not isinstance(place, Path):
            return place
        schema = f"t_{hashlib.sha256(str(place.resolve()).encode()).hexdigest()[:20]}"
        schemas.add(schema)
        return parse_location(f"{server}&schema={schema}")

    def mark(state: Any) -> None:
        place = place_of(state)
        if isinstance(place, Path):
            ledger.make_private_directory(place)
            (place / "ledger.db").touch()  # what looks for ledgers looks for files

    def writing(cls: type[Ledger], state: Any, *, create: bool = True) -> Ledger:
        opened = _writing(cls, located(state), create=create)
        mark(state)
        discard, place = opened._discard, place_of(state)

        def discarded() -> None:
            assert discard is not None
            discard()
            if isinstance(place, Path):
                ledger._discard(place / "ledger.db")

        opened._discard = discarded
        return opened

    def delivering(cls: type[Ledger], state: Any, *, lost: Any = None) -> Ledger:
        mark(state)
        return _delivering(cls, located(state), lost=lost)

    def here(original: Callable[..., Any]) -> classmethod[Ledger, ..., Any]:
        return classmethod(lambda cls, state: original(cls, located(state)))

    _delivering = Ledger.open_for_delivery.__func__  # type: ignore[attr-defined]
    _writing = Ledger.open_for_writing.__func__  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "open_for_reading", here(Ledger.open_for_reading.__func__))  # type: ignore[attr-defined]
        patch.setattr(Ledger, "scratch_copy", here(Ledger.scratch_copy.__func__))  # type: ignore[attr-defined]
        patch.setattr(Ledger, "open_for_writing", classmethod(writing))
        patch.setattr(Ledger, "open_for_delivery", classmethod(delivering))
        yield
    with psycopg.connect(server, autocommit=True) as db:
        for schema in schemas:
            db.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
