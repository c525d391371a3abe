"""What version 0.1 kept beside the outbox. It is read once, so that an outbox begun with that version can be continued.

It noted running calls in `running/`, in one mapped file for each process with slots of 512 bytes, and the times of
writes in `processes/written.map` and `written.<n>.map`, with one slot for each hash of an id. A process of that version
that still runs has its files locked. They are removed when it has ended. Standard library alone, because applications
import this.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from spectron_migrate.files.locks import is_held
from spectron_migrate.state.call_log import ANYBODY, CallSubject

RUNNING_FOLDER = "running"
WRITTEN_FOLDER = "processes"
_SLOT = 512
_WRITTEN_SLOTS = (1 << 14) + 1
"""Slots of captured writes. The slots of other writes follow."""


@dataclass(frozen=True, slots=True)
class CallsBefore:
    """Calls that processes of version 0.1 noted."""

    running: tuple[CallSubject, ...]
    unknown: tuple[tuple[datetime, CallSubject], ...]
    files: tuple[Path, ...]
    """Files to remove once the unknown calls are kept elsewhere."""


NO_CALLS = CallsBefore((), (), ())


def is_in_use(state: Path) -> bool:
    """Whether there are times of writes that no drain has taken over yet."""
    return (state / WRITTEN_FOLDER / "written.map").exists()


def absorb_calls(state: Path, now: datetime) -> CallsBefore:
    """The running calls and the unknown calls."""
    running: list[CallSubject] = []
    unknown: list[tuple[datetime, CallSubject]] = []
    files: list[Path] = []
    for path in sorted((state / RUNNING_FOLDER).glob("[0-9]*")):
        calls = _calls(path)
        if is_held(path):
            running += calls
        else:
            unknown += [(now, subject) for subject in calls]
            files.append(path)
    marks = state / WRITTEN_FOLDER / "written.map"
    written = sorted(marks.parent.glob("written.[0-9]*.map"))
    if marks.exists() and not any(map(is_held, written)):
        missed = max((each for path in written for each in _times(path)[_WRITTEN_SLOTS:]), default=0.0)
        read = _times(marks)[1]
        if missed > read:
            unknown.append((datetime.fromtimestamp(missed, UTC), ANYBODY))
        files += [*written, marks]
    return CallsBefore(tuple(running), tuple(unknown), tuple(files))


def _calls(path: Path) -> list[CallSubject]:
    data = path.read_bytes()
    slots = (data[start : start + _SLOT] for start in range(0, len(data), _SLOT) if data[start])
    return [_subject(slot.split(b"\n", 1)[0]) for slot in slots]


def _subject(text: bytes) -> CallSubject:
    try:
        return CallSubject.from_json(text)
    except ValueError:
        return ANYBODY


def _times(path: Path) -> tuple[float, ...]:
    data = path.read_bytes()
    return struct.unpack(f"{len(data) // 8}d", data[: len(data) // 8 * 8])
