"""Calls to Mem0 that a process is making right now, kept where others find them should it die in the middle.

One small file a process, mapped into memory, one slot a call: noting that a call begins and ends is a copy of a few
bytes each, because a user waits for it. The kernel holds them from then on, whatever becomes of the process. It holds
a lock on its file while it lives; what a file holds that nobody locks is *unknown*: nobody can say what such calls
left in Mem0, and whoever drains the outbox keeps their owners with Mem0 until it was read. Standard library alone,
because applications import this.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from spectron_migrate.files.locks import is_held, lock_handle
from spectron_migrate.files.space import reserve_space

FOLDER = "running"
SLOT = 512
"""Bytes; a call whose owners do not fit is kept as one about anybody."""
FIRST = 64
"""Slots of a new file; a process that makes more calls at once doubles them."""
_FREE = 0
"""The first byte of a slot that holds no call."""
_encode = json.JSONEncoder(check_circular=False).encode


class About(NamedTuple):
    """Whose memories a call is about."""

    owners: tuple[str, ...]
    """Nobody by name where it could be anybody's."""
    memory: str | None = None
    """The one memory that it changes."""

    def to_json(self) -> str:
        """As it lies on disk."""
        return _encode(self)

    @classmethod
    def from_json(cls, text: str) -> About:
        """The inverse; what cannot be read could be about anybody."""
        try:
            owners, memory = json.loads(text)
            return cls(tuple(map(str, owners)), memory)
        except (ValueError, TypeError):
            return cls(())


_ANYBODY = f"{About(()).to_json()}\n".encode()


class Running:
    """The calls of this process. Safe to use from several threads."""

    def __init__(self, state: Path) -> None:
        """Make the file; raises OSError where that is not possible."""
        folder = state / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{os.getpid()}-{time.time_ns()}"
        draft = path.with_name(f".{path.name}")
        self._handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        lock_handle(self._handle)
        self._lock = threading.Lock()
        self._slots = _mapped(self._handle, FIRST)
        self._free = list(range(FIRST))[::-1]
        draft.rename(path)  # nobody sees it unlocked

    def begin(self, owners: Sequence[str], memory: str | None) -> int:
        """A call is about to be made; its slot. Raises OSError."""
        told = f"{_encode([owners, memory])}\n".encode()
        if len(told) > SLOT:
            told = _ANYBODY
        with self._lock:
            if not self._free:
                self._grow()
            slot = self._free.pop()
            start = slot * SLOT
            # Whoever is killed while this is copied had not made the call yet.
            self._slots[start : start + len(told)] = told
        return slot

    def end(self, slot: int) -> None:
        """What it left in Mem0 is known, or noted as unknown. Raises OSError in a process that closed the file."""
        with self._lock:
            if self._slots.closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._slots[slot * SLOT] = _FREE
            self._free.append(slot)

    def close(self) -> None:
        """Let go of the file; in a child process, of its share in it."""
        self._slots.close()
        os.close(self._handle)

    def _grow(self) -> None:
        had = len(self._slots) // SLOT
        self._slots = _mapped(self._handle, 2 * had)
        self._free += range(2 * had - 1, had - 1, -1)


def under_way(state: Path) -> list[About]:
    """Calls that any process makes at this moment, or made when it died."""
    return [call for path in _files(state) for call in _calls(path)]


def left_by_the_dead(state: Path) -> Iterator[tuple[Path, list[About]]]:
    """Files of processes that are no more, and the calls that they were making."""
    for path in _files(state):
        if not is_held(path):
            yield path, _calls(path)


def _files(state: Path) -> list[Path]:
    return sorted((state / FOLDER).glob("[0-9]*"))


def _calls(path: Path) -> list[About]:
    data = path.read_bytes()
    taken = (data[start : start + SLOT] for start in range(0, len(data), SLOT) if data[start] != _FREE)
    return [About.from_json(slot.split(b"\n", 1)[0].decode("utf-8", "replace")) for slot in taken]


def _mapped(handle: int, slots: int) -> mmap.mmap:
    """So much of the file; its space is taken now, because a full disk would kill whoever writes to it later."""
    reserve_space(handle, slots * SLOT)
    return mmap.mmap(handle, slots * SLOT)
