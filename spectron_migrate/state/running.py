"""How far running commands are, for `status --watch`: a small file for each, renewed every few seconds."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from spectron_migrate.files.atomic import read_json, write_json
from spectron_migrate.records import Json, format_time, parse_time

FOLDER = "progress"
SILENT_S = 15.0
"""A file that was not renewed for so long is that of a command that was killed or hangs."""
FORGOTTEN_S = 3600.0
"""After this time another command removes it."""


@dataclass(frozen=True, slots=True)
class RunningCommand:
    """A command at work on this state directory."""

    command: str
    host: str
    pid: int
    at: str
    progress: dict[str, Json]
    """As the command's own progress line has it."""


class ProgressFile:
    """The file of this process."""

    def __init__(self, command: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`now` with its zone."""
        self._command = command
        self._now = now
        self._path: Path | None = None

    def write(self, state: Path, progress: Mapping[str, Json]) -> None:
        """Renew the file, if the state directory exists. What the disk does not take is left out."""
        host, pid = socket.gethostname(), os.getpid()
        path = state / FOLDER / f"{host}-{pid}.json"
        about = {"command": self._command, "host": host, "pid": pid, "at": format_time(self._now())}
        with suppress(OSError):
            if self._path is None:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                self._sweep(path.parent)
            self._path = path
            write_json(path, {**about, "progress": dict(progress)})

    def remove(self) -> None:
        """Remove the file; may be called twice."""
        path, self._path = self._path, None
        if path is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)
                path.parent.rmdir()

    def _sweep(self, folder: Path) -> None:
        for path in folder.iterdir():
            if self._now().timestamp() - path.stat().st_mtime > FORGOTTEN_S:
                path.unlink(missing_ok=True)


def read_running(state: Path, *, now: datetime) -> list[RunningCommand]:
    """The commands that are at work, by name."""
    found = []
    for path in (state / FOLDER).glob("*.json"):
        value = read_json(path)
        with suppress(KeyError, TypeError, ValueError):
            if value is not None and (now - parse_time(value["at"])).total_seconds() <= SILENT_S:
                progress = dict(value["progress"])
                found.append(
                    RunningCommand(
                        str(value["command"]), str(value["host"]), int(value["pid"]), str(value["at"]), progress
                    )
                )
    return sorted(found, key=lambda each: (each.command, each.host, each.pid))
