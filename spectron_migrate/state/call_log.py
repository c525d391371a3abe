"""The log of calls that change Mem0, `outbox.log`, which all processes of a host write.

Every process appends one line before and one line after each such call. It writes each with one `write` to a file
opened with O_APPEND, so lines never mix, and they stand in the order in which they were written: if one call returned
before another began, its results come first. Lines are:

    begin <call> <epoch> <time> <subject>     the call is about to be made, in this step of the cutover
    end <call> <time> <results>               it is over; its results as JSON, or `-` if results are not captured
    unknown <call> <until> <subject>          it is over, and only a reading of Mem0 after `until` tells its results
    mark <time> .                             the outbox was drained up to here, as of this time

`<call>` is the process and the number of the call in it, `<subject>` whose memories it is about (`CallSubject`), times
are seconds since 1970, to the microsecond, as `as_of` in `routing.json` is. Nothing in the file ever moves: space that
is no longer needed is freed as a hole. A line survives the end of its process at once, and a power cut shortly
afterwards. Zeros or a torn line after a power cut count as an unknown call that could be about anybody. Standard
library alone, because applications import this.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from spectron_migrate.files.space import release_space

FILE = "outbox.log"
MISSED_FILE = "outbox.missed"
"""Its modification time is that of the last call for which the log had no room. It can be set even on a full disk."""
BUDGET_S = 0.05
"""How long a call of an application waits for a log in a database."""
LARGE = 4_000_000
"""Space is freed once there are this many bytes of it."""
NEVER = float("-inf")
_NAME = b"filling "
_KEPT = 512
"""Bytes at the beginning, with the name of the file, that are never freed."""
_CHUNK = 1 << 18
_BLOCK = 4096
_encode = json.JSONEncoder(check_circular=False, allow_nan=False).encode

Event = Literal["ADD", "UPDATE", "DELETE", "MESSAGE"]
"""What a call did to a memory; or, as MESSAGE, what the application said, followed by what Mem0 made of it."""


class CallSubject(NamedTuple):
    """Whose memories a call is about."""

    owners: tuple[str, ...]
    """Their ids; empty if it could be anybody's."""
    memory: str | None = None
    """The one memory that it changes."""

    def to_json(self) -> str:
        """The form in a line of the log."""
        return _subject_to_json(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> CallSubject:
        """The inverse of `to_json`; raises ValueError for anything else."""
        return _subject_from_json(text)


# Cached, because the same few users write again and again, and somebody waits for each call.
@lru_cache(maxsize=4096)
def _subject_to_json(subject: CallSubject) -> str:
    return _encode(subject)


@lru_cache(maxsize=4096)
def _subject_from_json(text: str | bytes) -> CallSubject:
    try:
        owners, memory = json.loads(text)
        return CallSubject(tuple(map(str, owners)), memory)
    except TypeError as error:
        raise ValueError(str(error)) from None


ANYBODY = CallSubject(())


@dataclass(frozen=True, slots=True)
class CallResult:
    """One memory that a call left in Mem0."""

    event: Event
    mem0_id: str
    text: str | None = None
    record: dict[str, Any] | None = None
    """What else is known of it, as fields of a memory."""


def encode_results(results: Sequence[CallResult]) -> str:
    """The form in an `end` line. Raises TypeError or ValueError for anything that is not JSON, NaN included."""
    return _encode([[each.event, each.mem0_id, each.text, each.record or {}] for each in results])


class CallLines(Protocol):
    """The log, wherever it is kept.

    A position says where a line begins, and positions rise. All methods raise OSError.
    """

    @property
    def name(self) -> str:
        """Distinguishes this log from one that was there before."""

    @property
    def size(self) -> int:
        """The position after the last line."""

    def connect(self, patience_s: float) -> None:
        """Prepare what would take too long within a call."""

    def append(self, line: str) -> None:
        """Append a line, in bounded time. After an error it may still be there, but not after later lines."""

    def lines_from(self, start: int) -> list[tuple[bytes, int]]:
        """Some lines from this position on, each with the position of the next one; none if there are none yet."""

    def first_line(self) -> int:
        """The position of the first line that is kept."""

    def sync(self) -> None:
        """Make appended lines durable."""

    def release(self, end: int) -> None:
        """Free the space before this position, once all readers have seen it."""

    def close(self) -> None:
        """May be called twice."""

    def forget_after_fork(self) -> None:
        """In a child process."""


class CallLog:
    """The log in a file. Safe to use from several threads and processes of one host."""

    def __init__(self, state: Path) -> None:
        """Open the file, or create it; raises OSError."""
        self._lock = threading.Lock()
        self._file = open(state / FILE, "ab+", buffering=0, opener=_private)  # noqa: SIM115 - open as long as this
        self._handle = self._file.fileno()
        self._released = _KEPT
        if not self.size:
            # A new file gets a name of its own, because how far an earlier file was drained says nothing about it.
            os.write(self._handle, b"%s%d" % (_NAME, time.time_ns()) + b"\n")

    # -- appending: as little as possible, because a user waits for it --

    def connect(self, patience_s: float) -> None:
        """Does nothing: the file is open."""

    def append(self, line: str) -> None:
        """Append a line; raises OSError if that is not possible."""
        # Begin with a newline, in case a torn line stands before.
        data = f"\n{line}\n".encode()
        with self._lock:  # meanwhile `close` must not free the file's number for another file
            written = os.write(self._handle, data)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # -- reading --

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return os.fstat(self._handle).st_size

    def lines_from(self, start: int) -> list[tuple[bytes, int]]:
        """Some whole lines from `start` on, which is the beginning of a line, each with the start of the next one."""
        length = _CHUNK
        while True:
            data = os.pread(self._handle, length, start)
            end = data.rfind(b"\n") + 1
            if end or len(data) < length:
                break
            length *= 2
        lines = data[:end].splitlines(keepends=True)
        ends = accumulate(map(len, lines), initial=start)
        next(ends)
        return [(line.rstrip(b"\n"), end) for line, end in zip(lines, ends, strict=True)]

    def first_line(self) -> int:
        """The offset of the first line whose space was not freed."""
        head = os.pread(self._handle, _KEPT + 1, 0)
        if len(head) <= _KEPT or head[_KEPT]:
            return 0
        position = _KEPT
        while data := os.pread(self._handle, _BLOCK, position):
            rest = data.lstrip(b"\0")
            if rest:
                return position + len(data) - len(rest)
            position += len(data)
            with suppress(OSError, AttributeError):  # only a hole follows, or the system knows no holes
                position = os.lseek(self._handle, position, os.SEEK_DATA)
        return position

    @property
    def name(self) -> str:
        """Distinguishes this file from one that was there before."""
        line = os.pread(self._handle, _KEPT, 0).split(b"\n", 1)[0]
        return line[len(_NAME) :].decode("ascii", "replace") if line.startswith(_NAME) else ""

    # -- giving space back --

    def sync(self) -> None:
        """Make appended lines durable. Raises OSError."""
        os.fdatasync(self._handle)

    def release(self, end: int) -> None:
        """Free the space before `end`, which is the beginning of a line, once there is enough of it."""
        if end - self._released < LARGE:
            return
        with suppress(OSError):  # some file systems cannot free space in this way
            release_space(self._handle, _KEPT, end)
        self._released = end

    def close(self) -> None:
        """Close the file; may be called twice."""
        with self._lock:
            self._file.close()
            self._handle = -1

    def forget_after_fork(self) -> None:
        """In a child process: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()


def note_missed(state: Path, at: float) -> None:
    """A call could not be noted in the log: whose it was, only a reading of Mem0 after `at` tells. Raises OSError."""
    path = state / MISSED_FILE
    at = max(at, missed_at(state))
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    os.utime(path, (at, at))


def missed_at(state: Path) -> float:
    """When the last call could not be noted, in seconds since 1970. Raises OSError."""
    try:
        return os.stat(state / MISSED_FILE).st_mtime
    except FileNotFoundError:
        return NEVER


class CallView:
    """What the lines of the log add up to: the running calls, and until when reads of each owner have to wait."""

    def __init__(self) -> None:
        """An empty view; `fold` adds lines."""
        self.running: dict[bytes, tuple[CallSubject, int]] = {}
        """Calls that have begun and not ended, each with the offset of its line."""
        self.torn = 0
        """Lines that could not be read."""
        self._until: dict[str, float] = {}
        self._until_anybody = NEVER
        self._marked = NEVER

    def fold(self, line: bytes, offset: int) -> None:
        """Add a line, which begins at `offset`."""
        kind, _, rest = line.partition(b" ")
        try:
            if kind == b"begin":
                call, _, _, subject = rest.split(b" ", 3)
                self.running[call] = (CallSubject.from_json(subject), offset)
            elif kind == b"end":
                call, at, _ = rest.split(b" ", 2)
                self._wait(self._ended(call), float(at))
            elif kind == b"unknown":
                call, until, about = rest.split(b" ", 2)
                subject_of_call = CallSubject.from_json(about)
                self.running.pop(call, None)
                self._wait(subject_of_call, float(until))
            elif kind == b"mark":
                at, _ = rest.split(b" ")
                self._marked = max(self._marked, float(at))
            elif line.startswith(b"["):  # a call of the previous version, whose owners are at best in its results
                at, _ = line[1:].split(b",", 1)
                self._wait(ANYBODY, float(at))
            elif line and not line.startswith(_NAME):
                raise ValueError("not a line of the log")
        except ValueError:
            self.torn += 1
            self._wait(ANYBODY, time.time())

    def must_wait(self, owner: str, as_of: float) -> bool:
        """Whether Spectron, caught up as of this time, may lack something that a read by this id should find."""
        if self._until_anybody >= as_of or self._until.get(owner, NEVER) >= as_of:
            return True
        return any(owner in subject.owners or not subject.owners for subject, _ in list(self.running.values()))

    def forget_before(self, as_of: float) -> None:
        """Forget owners for whom Spectron has everything."""
        self._until = {owner: until for owner, until in self._until.items() if until >= as_of}

    @property
    def owners(self) -> int:
        """How many owners are remembered."""
        return len(self._until)

    def oldest_running(self, otherwise: int) -> int:
        """The start of the line of the oldest running call."""
        return min((offset for _, offset in self.running.values()), default=otherwise)

    def _ended(self, call: bytes) -> CallSubject:
        known = self.running.pop(call, None)
        return known[0] if known is not None else ANYBODY

    def _wait(self, subject: CallSubject, until: float) -> None:
        # The order of lines decides, not the clock: a line after a mark was not drained with it.
        until = max(until, self._marked)
        if not subject.owners:
            self._until_anybody = max(self._until_anybody, until)
        for owner in subject.owners:
            self._until[owner] = max(self._until.get(owner, NEVER), until)


def begin_line(call: str, epoch: int, at: float, subject: CallSubject) -> str:
    """The line before a call is made."""
    return f"begin {call} {epoch} {at:.6f} {subject.to_json()}"


def end_line(call: str, at: float, results: str = "-") -> str:
    """The line after a call; `results` as `encode_results` returns them."""
    return f"end {call} {at:.6f} {results}"


def unknown_line(call: str, until: float, subject: CallSubject) -> str:
    """The line after a call whose results in Mem0, which may come until this time, are not known."""
    return f"unknown {call} {until:.6f} {subject.to_json()}"


def mark_line(at: float) -> str:
    """The line before which everything is being drained."""
    return f"mark {at:.6f} ."


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
