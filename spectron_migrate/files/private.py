"""Small files and locks of the state directory, and what they are called."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from spectron_migrate.errors import LedgerLocked
from spectron_migrate.records import Json

FOLLOW_FILE = "follow.json"
FOLLOW_LOCK = "follow.lock"


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Held by the process, released by its death whatever kind; raises LedgerLocked naming the holder."""
    with open_private(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another one"
            raise LedgerLocked(f"process {holder} {what} already", hint="one is enough; stop it first") from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


def write_json(path: Path, value: Mapping[str, Json]) -> None:
    """Replace a small file of the state directory as a whole; for its owner alone."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(draft, "w", encoding="utf-8", opener=_private) as file:
        json.dump(value, file, indent=1)
        file.write("\n")
    draft.replace(path)


def read_json(path: Path) -> dict[str, Json] | None:
    """What `write_json` wrote; None where there is nothing, or nothing that can be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def open_private(path: Path) -> TextIO:
    """Open a file to lock and to write a word into; made for its owner alone."""
    return open(path, "a+", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
