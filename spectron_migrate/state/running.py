"""Progress of running commands, for `status --watch`: a small document for each command, renewed every few seconds."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from spectron_migrate.records import Json, format_time, parse_time
from spectron_migrate.state.store import StateStore, read_object, store_at, write_object

FOLDER = "progress"
SILENT_S = 15.0
"""If a document was not renewed for this long, its command was killed or hangs."""
FORGOTTEN_S = 3600.0
"""After this time another command removes the document."""


@dataclass(frozen=True, slots=True)
class RunningCommand:
    """A command at work on this state."""

    command: str
    host: str
    pid: int
    at: str
    progress: dict[str, Json]
    """The text of the command's own progress line."""


class ProgressFile:
    """The document of this process."""

    def __init__(self, command: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`now` with its zone."""
        self._command = command
        self._now = now
        self._store: StateStore | None = None
        self._name = f"{FOLDER}/{socket.gethostname()}-{os.getpid()}.json"

    def write(self, state: Path | StateStore, progress: Mapping[str, Json]) -> None:
        """Renew the document, if there is a state. Errors of the disk are ignored."""
        store = store_at(state)
        host, pid = socket.gethostname(), os.getpid()
        about = {"command": self._command, "host": host, "pid": pid, "at": format_time(self._now())}
        with suppress(OSError):
            if not store.is_there():
                return
            if self._store is None:
                _sweep(store)
            self._store = store
            write_object(store, self._name, {**about, "progress": dict(progress)})

    def remove(self) -> None:
        """Remove the document; may be called twice."""
        store, self._store = self._store, None
        if store is not None:
            with suppress(OSError):
                store.remove(self._name)
                if store.folder is not None:
                    (store.folder / FOLDER).rmdir()  # the last document of the folder


def _sweep(store: StateStore) -> None:
    for name in store.names(FOLDER):
        if store.age_s(name) > FORGOTTEN_S:
            store.remove(name)


def read_running(state: Path | StateStore, *, now: datetime) -> list[RunningCommand]:
    """The running commands, by name."""
    store = store_at(state)
    found = []
    for name in store.names(FOLDER):
        value = read_object(store, name)
        with suppress(KeyError, TypeError, ValueError):
            if value is not None and (now - parse_time(value["at"])).total_seconds() <= SILENT_S:
                progress = dict(value["progress"])
                found.append(
                    RunningCommand(
                        str(value["command"]), str(value["host"]), int(value["pid"]), str(value["at"]), progress
                    )
                )
    return sorted(found, key=lambda each: (each.command, each.host, each.pid))
