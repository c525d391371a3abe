"""A memory that came back is planned again, however the scan that saw it was limited."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from spectron_migrate.dump import open_dump
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay import ReplayOptions
from spectron_migrate.records import Filters, Memory, SourceInfo, format_time
from tests.support.spectron import replay, turns_of

SOURCE = SourceInfo(kind="oss", place="qdrant:/review:mem0", provider="qdrant", version="2.2.1")
NOW = datetime.now(UTC).replace(microsecond=0)


def row(user: str, number: int, text: str) -> Memory:
    """A memory as a reader gives it."""
    at = format_time(datetime(2025, 1, 1, number, tzinfo=UTC))
    return Memory(
        id=f"{user}-{number}", memory=text, user_id=user, created_at=at, text_at=at, text_at_source="created_at"
    )


def scanned(path: Path, rows: list[Memory], began: datetime, users: frozenset[str] = frozenset()) -> Path:
    """A dump directory as a complete scan, perhaps of some users alone, leaves it."""
    with DumpWriter(path, SOURCE, began, rereads=True, filters=Filters(users=users)) as writer:
        for one in rows:
            writer.add(one)
        writer.commit(complete=True, native_count=len(rows), ended=began + timedelta(seconds=1))
    return path


def test_a_memory_seen_again_by_a_scan_of_its_user_alone_is_planned(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    a, b = f"{user}a", f"{user}b"
    kept, other, back = row(a, 1, "kept"), row(b, 1, "another user's"), row(a, 2, "came back")
    dump = tmp_path / "dump"
    scanned(dump, [kept, other, back], NOW - timedelta(days=4))
    replay(spectron, tmp_path / "state", [dump], options=ReplayOptions(max_seconds=0.0))
    scanned(dump, [kept, other], NOW - timedelta(days=3))
    replay(spectron, tmp_path / "state", [dump])
    scanned(dump, [kept, back, other], NOW - timedelta(days=1), users=frozenset([a]))
    assert (back.id,) == open_dump(dump).manifest.returned
    summary = replay(spectron, tmp_path / "state", [dump])
    assert {} == summary.skipped_by_reason
    assert ["came back", "kept"] == sorted(turn.content for turn in turns_of(spectron, a))
