"""Checks that a place is the state, before it is used."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spectron_migrate.database.location import PostgresLocation, is_url, parse_location
from spectron_migrate.errors import MigrateError
from spectron_migrate.state.seal import LEFT, MARK, SEAL, Move, Read, read_file, refuse_left, refuse_left_directory
from spectron_migrate.state.shards import refuse_shards


def use_state(place: Path | PostgresLocation) -> None:
    """Begin to use a state. Raises StateMoved, StateBusy, and InputError for one in shards.

    A copy whose source is sealed is complete. If `state copy` ended before it removed the mark, it is removed now, and
    so is the routing of the source, which applications in other languages would go on reading.
    """
    read, remove = _documents_of(place)
    mark = Move.read(read, MARK)
    if mark is not None:
        seal = _seal_of_source(mark)
        if seal is not None and seal.copy == mark.copy:
            if not is_url(mark.source):
                with suppress(OSError):
                    (Path(mark.source) / LEFT).unlink(missing_ok=True)
            remove(MARK)
    if isinstance(place, Path):
        refuse_left_directory(place)
        refuse_shards(place)
    else:
        refuse_left(read)


def _documents_of(place: Path | PostgresLocation) -> tuple[Read, Callable[[str], None]]:
    if isinstance(place, Path):
        return lambda name: read_file(place, name), lambda name: (place / name).unlink(missing_ok=True)
    # Not needed for a directory.
    from spectron_migrate.state import seal_postgres

    return lambda name: seal_postgres.read(place, name), lambda name: seal_postgres.remove(place, name)


def _seal_of_source(mark: Move) -> Move | None:
    """The seal of the place that a copy was made from; None if it has none, or cannot be read from here."""
    if mark.source_host not in ("", socket.gethostname()):
        return None
    place = parse_location(mark.source) if is_url(mark.source) else Path(mark.source)
    try:
        return Move.read(_documents_of(place)[0], SEAL)
    except (OSError, MigrateError):
        return None
