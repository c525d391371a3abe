"""Calls to Mem0 that a process is making right now, kept where others find them should it die in the middle.

One small file a process, one slot a call: noting that a call begins and ends is one write to the page cache each,
because a user waits for it. The process holds a lock on its file while it lives; what a file holds that nobody locks
is *unknown*: nobody can say what such calls left in Mem0, and whoever drains the outbox keeps their owners with Mem0
until it was read. Standard library alone, because applications import this.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spectron_migrate.disk import is_held

FOLDER = "running"
SLOT = 512
"""Bytes; a call whose owners do not fit is kept as one about anybody."""


@dataclass(frozen=True, slots=True)
class About:
    """Whose memories a call is about."""

    owners: tuple[str, ...]
    """Nobody by name where it could be anybody's."""
    memory: str | None = None
    """The one memory that it changes."""

    def to_json(self) -> str:
        """As it lies on disk."""
        return json.dumps([self.owners, self.memory])

    @classmethod
    def from_json(cls, text: str) -> About:
        """The inverse; what cannot be read could be about anybody."""
        try:
            owners, memory = json.loads(text)
            return cls(tuple(map(str, owners)), memory)
        except (ValueError, TypeError):
            return cls(())


class Running:
    """The calls of this process. Safe to use from several threads."""

    def __init__(self, state: Path) -> None:
        """Make the file; raises OSError where that is not possible."""
        folder = state / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._slots = 0
        path = folder / f"{os.getpid()}-{time.time_ns()}"
        draft = path.with_name(f".{path.name}")
        self._handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        draft.rename(path)  # nobody sees it unlocked

    def begin(self, owners: Sequence[str], memory: str | None) -> int:
        """A call is about to be made; its slot. Raises OSError."""
        told = About(tuple(owners), memory).to_json().encode()
        with self._lock:
            slot = self._free.pop() if self._free else self._slots
            self._slots = max(self._slots, slot + 1)
        data = told if len(told) < SLOT else About(()).to_json().encode()
        os.pwrite(self._handle, data + b"\n", slot * SLOT)
        return slot

    def end(self, slot: int) -> None:
        """What it left in Mem0 is known, or noted as unknown."""
        os.pwrite(self._handle, b"\n", slot * SLOT)
        with self._lock:
            self._free.append(slot)

    def close(self) -> None:
        """Let go of the file; in a child process, of its share in it."""
        os.close(self._handle)


def left_by_the_dead(state: Path) -> Iterator[tuple[Path, list[About]]]:
    """Files of processes that are no more, and the calls that they were making."""
    for path in sorted((state / FOLDER).glob("[0-9]*")):
        if is_held(path):
            continue
        data = path.read_bytes()
        slots = [data[start : start + SLOT].split(b"\n", 1)[0] for start in range(0, len(data), SLOT)]
        yield path, [About.from_json(slot.decode("utf-8", "replace")) for slot in slots if slot]
