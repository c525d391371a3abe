"""Which of two places is the state, during and after a move by `state copy`.

The old place gets a *seal*, which says where the state went. The new place has a *mark* until everything is there and
the old place is sealed. Nobody uses a state that has either. While a state is copied, its `copy.lock` is held. A
process that takes any other lock of the state checks for all three after it has the lock, so nobody can begin unseen.
"""

from __future__ import annotations

import json
import secrets
import shlex
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.errors import InputError, LedgerLocked
from spectron_migrate.files.locks import holder_of, is_held

SEAL = "sealed.json"
MARK = "copying.json"
LOCK = "copy.lock"
LEFT = "routing.json"
"""Files that applications in other languages would go on reading in the old directory: they know no seals."""

Read = Callable[[str], bytes | None]
"""Reads a document of a state."""


class StateMoved(InputError, OSError):
    """The state is not here, or not yet. It is an OSError, so that the adapter treats it like a full disk."""

    kind = "moved"


class StateBusy(LedgerLocked, OSError):
    """The state is being copied by another process, or is in use and should be copied."""


@dataclass(frozen=True, slots=True)
class Move:
    """A copy of a state, as its seal and its mark describe it."""

    copy: str
    """A random name, which the seal and the mark of one copy share."""
    source: str
    target: str
    source_host: str
    """The host whose directory the source is; empty for a database."""
    target_host: str
    at: str

    @classmethod
    def between(cls, source: Path | PostgresLocation, target: Path | PostgresLocation, *, now: str) -> Move:
        """A copy that begins now."""
        return cls(secrets.token_hex(8), name_of(source), name_of(target), _host_of(source), _host_of(target), now)

    @classmethod
    def read(cls, read: Read, name: str) -> Move | None:
        """The seal or the mark of a state; None if there is none."""
        data = read(name)
        if data is None:
            return None
        value = json.loads(data)
        return cls(**{each: str(value[each]) for each in cls.__slots__})

    def to_bytes(self) -> bytes:
        """The inverse of `read`."""
        return f"{json.dumps(asdict(self), indent=1)}\n".encode()


def name_of(place: Path | PostgresLocation) -> str:
    """A place in a form that can be typed from any directory, without a password."""
    return str(place) if isinstance(place, PostgresLocation) else str(place.absolute())


def refuse_left(read: Read) -> None:
    """Raises StateMoved for a state that was moved away, or was not copied completely."""
    left, filled = Move.read(read, SEAL), Move.read(read, MARK)
    if left is not None:
        raise StateMoved(
            f"the state in {left.source} was moved to {_shown(left.target, left.target_host)} on {left.at}",
            hint=f"continue there: --state {shlex.quote(left.target)}",
        )
    if filled is not None:
        raise StateMoved(
            f"the state in {filled.target} is an unfinished copy of {_shown(filled.source, filled.source_host)}",
            hint=f"finish it: spectron-migrate state copy {shlex.join((filled.source, filled.target))}",
        )


def refuse_left_directory(folder: Path) -> None:
    """Raises StateMoved as `refuse_left` does, and StateBusy while the state is copied. Call with a lock held."""
    if is_held(folder / LOCK):
        raise StateBusy(
            f"the state in {folder} is being copied by {holder_of(folder / LOCK)}",
            hint="wait until the copy is finished",
        )
    refuse_left(lambda name: read_file(folder, name))


def read_file(folder: Path, name: str) -> bytes | None:
    """A document of a state directory."""
    try:
        return (folder / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _host_of(place: Path | PostgresLocation) -> str:
    return "" if isinstance(place, PostgresLocation) else socket.gethostname()


def _shown(place: str, host: str) -> str:
    return f"{place} on host {host}" if host and host != socket.gethostname() else place
