"""Checksums of the files of a dump, kept beside them so that a large file is not read again at every start."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from spectron_migrate.files.atomic import replace_file

NAME = ".checked"
KEEP_FROM = 16 * 2**20
"""In bytes. For a smaller file, hashing again is cheaper than keeping the checksum."""
_SETTLED_NS = 2 * 10**9
"""A file written within this time may be written again without a new modification time, because clocks have ticks."""
_MOST = 100

Stamp = tuple[int, ...]
_known: dict[Stamp, str] = {}
"""Checksums of files that this process has hashed, because a follower opens the same dump again and again."""


def stamp_of(status: os.stat_result) -> Stamp:
    """Device, inode, size and times of a file, which change with every write once the clock has ticked."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Checksums:
    """SHA-256 of files of one dump, by device, inode, size and times, which every write changes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._kept: dict[Stamp, str] | None = None
        self._new: dict[Stamp, str] = {}

    def sha256(self, file: io.BufferedReader) -> str:
        """The checksum of an open file."""
        stamp = stamp_of(os.fstat(file.fileno()))
        if stamp not in _known:
            kept = self._read().get(stamp) if stamp[2] >= KEEP_FROM else None
            if len(_known) > _MOST:
                _known.clear()
            _known[stamp] = kept or self._hash(file, stamp)
        return _known[stamp]

    def _hash(self, file: io.BufferedReader, stamp: Stamp) -> str:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        if (
            stamp[2] >= KEEP_FROM
            and stamp == stamp_of(os.fstat(file.fileno()))
            and time.time_ns() - max(stamp[3:]) > _SETTLED_NS
        ):
            self._new[stamp] = checksum
        return checksum

    def keep(self) -> None:
        """Save the checksums. If the folder is not writable, the files are hashed again next time."""
        if not self._new:
            return
        inodes = {stamp[1] for stamp in self._new}
        older = [(stamp, checksum) for stamp, checksum in self._read().items() if stamp[1] not in inodes]
        rows = [[*stamp, checksum] for stamp, checksum in [*older, *self._new.items()][-_MOST:]]
        with suppress(OSError):
            replace_file(self._path, json.dumps(rows).encode())

    def _read(self) -> dict[Stamp, str]:
        if self._kept is None:
            try:
                rows = json.loads(self._path.read_bytes())
                self._kept = {(dev, ino, *rest): checksum for dev, ino, *rest, checksum in rows}
            except (OSError, ValueError, TypeError):
                self._kept = {}
        return self._kept
