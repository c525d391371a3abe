"""States of both kinds, by their names."""

from __future__ import annotations

from pathlib import Path

from spectron_migrate.database.location import is_url, parse_location
from spectron_migrate.state.directory import DirectoryState
from spectron_migrate.state.postgres import PostgresState
from spectron_migrate.state.store import StateStore


def open_store(place: str) -> StateStore:
    """The state in this directory, or at this URL."""
    return PostgresState(parse_location(place)) if is_url(place) else DirectoryState(Path(place))
