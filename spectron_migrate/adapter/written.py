"""Who wrote when, shared by all processes of a host: a user has to find what they just said.

Until what a user wrote to Mem0 is known to be in Spectron, their reads come from Mem0. Whether it is, the routing
tells only some time later, so the adapter remembers the time of each write itself: in a small file that all
processes of the host map into memory, one slot an id. Ids share slots by chance; then somebody's reads come from
Mem0 without need, and nothing worse. The file holds times and nothing else.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

SLOTS = 1 << 16
_SLOT = struct.Struct("<d")
_SIZE = (SLOTS + 1) * _SLOT.size
EVERYBODY = SLOTS
"""The slot of writes that could be about anybody."""
FILE = "written.map"


class Written:
    """Times in seconds since 1970; without a directory, or where it cannot be written, of this process alone."""

    def __init__(self, folder: Path | None) -> None:
        """`folder`: where the file lies; it is made there."""
        self._lock = threading.Lock()
        self.shared = False
        self._map: mmap.mmap | bytearray = bytearray(_SIZE)
        if folder is not None:
            self.share(folder)

    def share(self, folder: Path) -> None:
        """From now on together with the other processes; what was noted so far comes along."""
        try:
            handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if os.fstat(handle).st_size < _SIZE:
                    os.ftruncate(handle, _SIZE)
                mapped = mmap.mmap(handle, _SIZE)
            finally:
                os.close(handle)
        except OSError:
            return
        with self._lock:
            alone, self._map, self.shared = self._map, mapped, True
            for slot in range(SLOTS + 1):
                (when,) = _SLOT.unpack_from(alone, slot * _SLOT.size)
                if when:
                    self._raise(slot, when)

    def note(self, ids: Iterable[str], when: float) -> None:
        """Something is written by `when` that a read by any of these ids can find; without an id, by any at all."""
        with self._lock:
            for slot in {_slot(each) for each in ids} or {EVERYBODY}:
                self._raise(slot, when)

    def since(self, subject: str, moment: float) -> bool:
        """Whether anything that a read by this id finds may have been written at `moment` or after it."""
        (own,) = _SLOT.unpack_from(self._map, _slot(subject) * _SLOT.size)
        (everybody,) = _SLOT.unpack_from(self._map, EVERYBODY * _SLOT.size)
        return bool(own >= moment or everybody >= moment)

    def forget_after_fork(self) -> None:
        """In a child process: a lock that another thread of the parent held would stay closed."""
        self._lock = threading.Lock()

    def _raise(self, slot: int, when: float) -> None:
        # Two processes may do this at once: the times are then within a moment of each other.
        (known,) = _SLOT.unpack_from(self._map, slot * _SLOT.size)
        if when > known:
            _SLOT.pack_into(self._map, slot * _SLOT.size, when)


def _slot(subject: str) -> int:
    hashed = hashlib.blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(hashed, "big") % SLOTS
