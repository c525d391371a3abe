"""`log.jsonl` in the state directory: what commands did, and when.

It holds counts, ids and codes, never a text or a key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from spectron_migrate import __version__
from spectron_migrate.files.locks import try_lock
from spectron_migrate.files.private import make_private_directory
from spectron_migrate.records import Json, format_time

FILE = "log.jsonl"
LARGEST = 5_000_000
"""After this many bytes the file is renamed to `log.jsonl.1`, and a new one begins."""
KEPT = 3
"""How many older files are kept."""
TAIL_BYTES = 64_000


class EventLog:
    """Appends events. A disk error must not hide how the command ended."""

    def __init__(
        self, folder: Path, *, now: Callable[[], datetime], warn: Callable[[str], None] = lambda message: None
    ) -> None:
        """Until `folder` exists, events are kept in memory: a command that refuses its input creates nothing.

        `warn` is called once, if the file cannot be written. It is not called if the whole folder cannot be written,
        because the command itself finds that out, or does not need it.
        """
        self.folder = folder
        self.warn = warn
        self._now = now
        self._waiting: list[str] = []
        self._has_warned = False

    def hold(self, event: str, **fields: Json) -> None:
        """Append the event together with the next one."""
        self._waiting.append(self._line(event, fields))

    def write(self, event: str, **fields: Json) -> None:
        """Append an event, if the state directory exists."""
        self.hold(event, **fields)
        self.flush()

    def flush(self) -> bool:
        """Append waiting events; returns whether they are on disk."""
        if not self.folder.is_dir():
            return False
        lines, self._waiting = self._waiting, []
        try:
            _append(self.folder / FILE, "".join(lines).encode())
        except OSError as error:
            if not self._has_warned and os.access(self.folder, os.W_OK):
                self._has_warned = True
                reason = error.strerror or type(error).__name__
                self.warn(f"{self.folder / FILE} cannot be written: {reason[:1].lower()}{reason[1:]}")
            return False
        return True

    def write_bug(self, **fields: Json) -> Path | None:
        """Append an event about a bug, if need be in a new state directory.

        Returns the file, or None if that is not possible.
        """
        self.hold("bug", **fields)
        with suppress(OSError):
            make_private_directory(self.folder)
        return self.folder / FILE if self.flush() else None

    def _line(self, event: str, fields: dict[str, Json]) -> str:
        at = format_time(self._now())
        return json.dumps({"at": at, "version": __version__, "pid": os.getpid(), "event": event, **fields}) + "\n"


def _append(path: Path, data: bytes) -> None:
    """Append in one write, so that lines of several processes do not mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, data)
        is_large = os.fstat(descriptor).st_size > LARGEST
    finally:
        os.close(descriptor)
    if is_large:
        _rotate(path)


def _rotate(path: Path) -> None:
    """Rename the file and the older ones.

    One process does this, and others that come right after it do not repeat it.
    """
    lock = try_lock(path.with_name("log.lock"))
    if lock is None:
        return
    with lock:
        if path.stat().st_size <= LARGEST:
            return
        for number in range(KEPT, 0, -1):
            older = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
            with suppress(FileNotFoundError):
                older.replace(path.with_name(f"{path.name}.{number}"))


def read_tail(folder: Path, most: int) -> Sequence[dict[str, Json]]:
    """The last events, oldest first; none if there is no log. The cost does not grow with the file."""
    try:
        with (folder / FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the first line may be cut off
        if isinstance(event, dict):
            found.append(event)
    return found[-most:]
