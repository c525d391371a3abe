"""Who wrote when, shared by all processes of a host: a user has to find what they just said.

Until what a user wrote to Mem0 is known to be in Spectron, their reads come from Mem0. Whether it is, the routing
tells only some time later, so the adapter remembers the time of each write itself: in a small file that all
processes of the host map into memory, one slot an id. Ids share slots by chance; then somebody's reads come from
Mem0 without need, and nothing worse. The file holds times and nothing else, in seconds since 1970.

Two things are told apart. A write that is captured waits until the outbox was drained since (`as_of` of the routing
has passed it). One that nobody could capture waits until all of Mem0 was read since. So that no clock that is put
back lets a write look older than a draining that missed it, no time is ever noted below the last draining's.
Standard library alone, because applications import this.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

SLOTS = 1 << 16
EVERYBODY = SLOTS
"""The slot of writes that could be about anybody."""
FILE = "written.map"
_MISSED = SLOTS + 1
"""Where the slots of writes begin that were not captured."""
_DRAINED, _READ = 2 * _MISSED, 2 * _MISSED + 1
"""When the outbox was drained last, and when the last whole reading of Mem0 began."""
_SIZE = 8 * (_READ + 1)
_TRIES = 100
"""A slot is held for a microsecond; whoever was stopped while holding one is not waited for."""


class Written:
    """Safe to use from several threads; without a directory, or where it cannot be written, of this process alone."""

    def __init__(self, folder: Path | None) -> None:
        """`folder`: where the file lies; it is made there."""
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._times: memoryview[float] = memoryview(bytearray(_SIZE)).cast("d")
        if folder is not None:
            self.share(folder)

    @property
    def shared(self) -> bool:
        """Whether other processes see what is noted here."""
        return self._handle is not None

    def share(self, folder: Path) -> None:
        """From now on together with the other processes; what was noted so far comes along."""
        with self._lock:
            if self._handle is not None:
                return
            alone = self._times
            with suppress(OSError):
                self._handle, self._times = _mapped(folder / FILE)
                if alone.tobytes().strip(b"\0"):
                    for slot, when in enumerate(alone):
                        self._raise(slot, when)

    def note(self, ids: Iterable[str], when: float, *, captured: bool = True) -> None:
        """Something is written by `when` that a read by any of these ids can find; without an id, by any at all."""
        with self._lock:
            when = max(when, self._times[_DRAINED])
            for slot in {_slot(each) for each in ids} or {EVERYBODY}:
                self._raise(slot, when)
                if not captured:
                    self._raise(_MISSED + slot, when)

    def since(self, subject: str, moment: float) -> bool:
        """Whether anything that a read by this id finds may be missing in Spectron, drained up to `moment`."""
        times, own = self._times, _slot(subject)
        if times[own] >= moment or times[EVERYBODY] >= moment:
            return True
        read = times[_READ]
        return times[_MISSED + own] > read or times[_MISSED + EVERYBODY] > read

    def draining(self, now: datetime) -> datetime:
        """The outbox is about to be read: the moment up to which it is drained then, after every earlier one."""
        with self._lock:
            last = datetime.fromtimestamp(self._times[_DRAINED], UTC)
            moment = max(now, last + timedelta(microseconds=1))
            self._raise(_DRAINED, moment.timestamp())
        return moment

    def was_read(self, began: datetime) -> None:
        """All of Mem0 was read and planned, beginning at this moment."""
        with self._lock:
            self._raise(_READ, began.timestamp())

    def forget_after_fork(self) -> None:
        """In a child process: a lock that another thread of the parent held would stay closed."""
        self._lock = threading.Lock()

    def _raise(self, slot: int, when: float) -> None:
        if when > self._times[slot]:
            held = self._hold(slot)
            if when > self._times[slot]:
                self._times[slot] = when
            if held:
                fcntl.lockf(self._handle or 0, fcntl.LOCK_UN, 8, 8 * slot)

    def _hold(self, slot: int) -> bool:
        """Keep other processes from raising the slot at the same moment, and so from losing what one of them notes."""
        for _ in range(_TRIES if self._handle is not None else 0):
            with suppress(OSError):
                fcntl.lockf(self._handle or 0, fcntl.LOCK_EX | fcntl.LOCK_NB, 8, 8 * slot)
                return True
        return False


def _mapped(path: Path) -> tuple[int, memoryview[float]]:
    """The file and its times; its space is taken now, because a full disk would kill whoever writes to it later."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(handle, 0, _SIZE)
        return handle, memoryview(mmap.mmap(handle, _SIZE)).cast("d")
    except OSError:
        os.close(handle)
        raise


def _slot(subject: str) -> int:
    hashed = hashlib.blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(hashed, "big") % SLOTS
