"""Memories, and the dump that a scan of them leaves."""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from spectron_migrate.dump import Dump
from spectron_migrate.dump.changes_writer import ChangesWriter, RoundChanges, TextAt
from spectron_migrate.dump.merge import DumpUpdate
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.records import Memory, Skipped, SourceInfo

SOURCE = SourceInfo(kind="oss", place="qdrant:/store:mem0", provider="qdrant", version="2.2.1")
START = datetime(2026, 1, 1, tzinfo=UTC)


def memory(memory_id: str, text: str = "likes tea", user: str | None = "alice", **more: Any) -> Memory:
    times = {"created_at": "2025-01-01T00:00:00.000000Z", "text_at": "2025-01-01T00:00:00.000000Z"}
    return Memory(id=memory_id, memory=text, user_id=user, text_at_source="created_at", **{**times, **more})


def scan(
    path: Path,
    rows: list[Memory | Skipped],
    *,
    day: int = 0,
    complete: bool = True,
    source: SourceInfo = SOURCE,
    **options: Any,
) -> DumpUpdate:
    began = START + timedelta(days=day)
    with DumpWriter(path, source, began, rereads=source.kind != "files", **options) as writer:
        for row in rows:
            writer.add(row)
        return writer.commit(complete=complete, native_count=len(rows), ended=began + timedelta(minutes=1))


def begin_changes(
    path: Path, rows: list[Memory | Skipped], *, day: int = 0, text_at: TextAt | None = None
) -> ChangesWriter:
    """A dump that was read whole, and what lays changes over it."""
    began = START + timedelta(days=day)
    with DumpWriter(path, SOURCE, began, rereads=True) as writer:
        for row in rows:
            known = text_at(row.id, row.memory) if text_at is not None and isinstance(row, Memory) else None
            writer.add(row, text_at=known)
        writer.commit(complete=True, native_count=len(rows), ended=began + timedelta(minutes=1))
        changes = writer.begin_changes()
        assert changes is not None
        return changes


def lay(
    changes: ChangesWriter,
    day: int,
    *memories: Memory,
    gone: tuple[str, ...] = (),
    retimed: tuple[str, ...] = (),
    text_at: TextAt | None = None,
    native_count: int = 0,
) -> RoundChanges | None:
    """Lay over the dump what changed."""
    began = START + timedelta(days=day)
    ended = began + timedelta(minutes=1)
    return changes.write_changes(
        memories, gone, retimed, text_at=text_at, native_count=native_count, began=began, ended=lambda: ended
    )


def texts(dump: Dump) -> dict[str, str]:
    return {row.id: row.memory for row in dump.memories()}


def kill_at_step(path: Path, at: int) -> None:
    """Kill this process by -9 at its step of this number below `path`: a file opened, renamed, removed or truncated."""
    step = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal step
        if event in ("open", "os.rename", "os.remove", "os.truncate") and str(path) in str(arguments[0]):
            step += 1
            if step == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
