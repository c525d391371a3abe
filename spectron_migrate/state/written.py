"""Who wrote when, shared by all processes of a host: a user has to find what they just said.

Until what a user wrote to Mem0 is known to be in Spectron, their reads come from Mem0. Whether it is, the routing
tells only some time later, so the adapter remembers the time of each write itself: in small files that all processes
of the host map into memory, one slot an id. Each process writes to a file of its own, and reads all of them: nobody
waits, and nobody takes back what another one notes. Ids share slots by chance; then somebody's reads come from Mem0
without need, and nothing worse. The files hold times and nothing else, in seconds since 1970.

Two things are told apart. A write that is captured waits until the outbox was drained since (`as_of` of the routing
has passed it). One that nobody could capture waits until all of Mem0 was read since. So that no clock that is put
back lets a write look older than a draining that missed it, no time is ever noted below the last draining's.
Standard library alone, because applications import this.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import zlib
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from spectron_migrate.files.locks import try_lock_handle
from spectron_migrate.files.space import reserve_space

SLOTS = 1 << 14
EVERYBODY = SLOTS
"""The slot of writes that could be about anybody."""
FILE = "written.{}.map"
"""Of one process, and after its death of another one: there are as many as processes ever ran at once."""
MARKS_FILE = "written.map"
_MISSED = SLOTS + 1
"""Where the slots of writes begin that were not captured."""
_TIMES = 2 * _MISSED
_DRAINED, _READ, _THERE = 0, 1, 2
"""Marks: when the outbox was drained last, when the last whole reading of Mem0 began, and for each file that it is."""
MOST = 1000
"""Processes at once; what more of them note is seen by themselves alone."""

Times: TypeAlias = "memoryview[float]"


class Written:
    """Safe to use from several threads; without a directory, or where it cannot be written, of this process alone."""

    def __init__(self, folder: Path | None) -> None:
        """`folder`: where the files lie; they are made there."""
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._folder = Path()
        self._marks = _alone(_THERE + MOST + 1)
        self._own = _alone(_TIMES)
        self._files: list[Times] = []
        if folder is not None:
            self.share(folder)

    @property
    def shared(self) -> bool:
        """Whether other processes see what is noted here."""
        return self._pid == os.getpid()

    def share(self, folder: Path) -> None:
        """From now on together with the other processes; what was noted so far comes along."""
        if self._pid not in (None, os.getpid()):
            self.forget_after_fork()
        with self._lock:
            if self.shared:
                return
            with suppress(OSError):
                marks = _mapped(folder / MARKS_FILE, len(self._marks))
                own = _taken(folder, marks)
                if self._own.tobytes().strip(b"\0"):
                    for slot, when in enumerate(self._own):
                        own[slot] = max(own[slot], when)
                self._marks, self._own, self._files = marks, own, []
                self._folder, self._pid = folder, os.getpid()
                self._meet()

    def note(self, ids: Iterable[str], when: float, *, captured: bool = True) -> None:
        """Something is written by `when` that a read by any of these ids can find; without an id, by any at all."""
        slots = {_slot(each) for each in ids} or {EVERYBODY}
        with self._lock:
            when = max(when, self._marks[_DRAINED])
            for slot in slots:
                self._own[slot] = max(self._own[slot], when)
                if not captured:
                    self._own[_MISSED + slot] = max(self._own[_MISSED + slot], when)

    def since(self, subject: str, moment: float) -> bool:
        """Whether anything that a read by this id finds may be missing in Spectron, drained up to `moment`."""
        if self._marks[_THERE + len(self._files)]:
            try:
                with self._lock:
                    self._meet()
            except OSError:
                return True  # what another process notes cannot be seen
        own, read = _slot(subject), self._marks[_READ]
        for times in (self._own, *self._files):
            if times[own] >= moment or times[EVERYBODY] >= moment:
                return True
            if times[_MISSED + own] > read or times[_MISSED + EVERYBODY] > read:
                return True
        return False

    def draining(self, now: datetime) -> datetime:
        """The outbox is about to be read: the moment up to which it is drained then, after every earlier one.

        One process at a time may do so.
        """
        last = datetime.fromtimestamp(self._marks[_DRAINED], UTC)
        moment = max(now, last + timedelta(microseconds=1))
        self._marks[_DRAINED] = moment.timestamp()
        return moment

    def was_read(self, began: datetime) -> None:
        """All of Mem0 was read and planned, beginning at this moment. One process at a time may say so."""
        self._marks[_READ] = max(self._marks[_READ], began.timestamp())

    def forget_after_fork(self) -> None:
        """In a child process: file and lock are the parent's; what is noted there can still be seen."""
        self._lock = threading.Lock()
        if self._pid is not None:
            self._pid, self._own = None, _alone(_TIMES)

    def _meet(self) -> None:
        """Map the files of processes that came since. Raises OSError."""
        while self._marks[_THERE + len(self._files)]:
            self._files.append(_mapped(self._folder / FILE.format(len(self._files)), _TIMES))


def _taken(folder: Path, marks: Times) -> Times:
    """The first file that no living process writes to: held as long as this one lives, and told to all of them."""
    for number in range(MOST):
        with suppress(BlockingIOError):
            own = _mapped(folder / FILE.format(number), _TIMES, hold=True)
            for there in range(number + 1):  # whoever holds an earlier one may not have come to say so
                marks[_THERE + there] = 1.0
            return own
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _mapped(path: Path, times: int, *, hold: bool = False) -> Times:
    """A file of times; its space is taken now, because a full disk would kill whoever writes to it later.

    `hold` it, as long as what is given lives. Raises BlockingIOError while another process does, and OSError.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if hold and not try_lock_handle(handle):
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        reserve_space(handle, 8 * times)
        return memoryview(mmap.mmap(handle, 8 * times)).cast("d")  # it keeps the file open, and with it the lock
    finally:
        os.close(handle)


def _alone(times: int) -> Times:
    return memoryview(bytearray(8 * times)).cast("d")


def _slot(subject: str) -> int:
    return zlib.crc32(subject.encode("utf-8", "surrogatepass")) % SLOTS
