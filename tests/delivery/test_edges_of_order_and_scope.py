"""Order, scope and time: what a crash, an older dump or a changed mapping may never turn round."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.errors import InputError
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay import ReplayOptions
from spectron_migrate.records import Filters, Memory, NullReporter, SourceInfo, format_time
from tests.delivery.playing import killed
from tests.support.proxy import misbehaving
from tests.support.spectron import memory, replay, turns_of, write_raw

SOURCE = SourceInfo(kind="oss", place="qdrant:/review:mem0", provider="qdrant", version="2.2.1")
NOW = datetime.now(UTC).replace(microsecond=0)


def scanned(path: Path, rows: list[Memory], began: datetime) -> Path:
    """A dump directory as a complete scan leaves it."""
    with DumpWriter(path, SOURCE, began, rereads=True) as writer:
        for row in rows:
            writer.add(row)
        writer.commit(complete=True, native_count=len(rows), ended=began + timedelta(seconds=1))
    return path


def row(user: str, number: int, text: str) -> Memory:
    """A memory as a reader gives it."""
    at = format_time(datetime(2025, 1, 1, number, tzinfo=UTC))
    return Memory(
        id=f"{user}-{number}", memory=text, user_id=user, created_at=at, text_at=at, text_at_source="created_at"
    )


def test_after_kill_9_the_runs_of_a_user_are_settled_in_the_order_of_the_lane(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, user, f"text {number}", run_id=f"run{number % 2}") for number in range(8)]
    dump = write_raw(tmp_path / "all.json", rows)
    killed(spectron, tmp_path, dump, "cut_before", lambda seen: b'"text 1"' in seen.body)
    with misbehaving(spectron.base_url) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
        bodies = [json.loads(seen.body) for seen in proxy.seen if seen.writes_fact]
    assert 8 == summary.written + summary.already
    sent_full = [body["text"] for body in bodies if body["infer"] == "full"]
    assert sorted(sent_full) == sent_full


def test_an_older_dump_does_not_bring_back_what_mem0_has_deleted_since(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    kept, gone = row(user, 1, "kept"), row(user, 2, "deleted since")
    older = scanned(tmp_path / "older", [kept, gone], NOW - timedelta(days=3))
    scanned(tmp_path / "dump", [kept, gone], NOW - timedelta(days=2))
    replay(spectron, tmp_path / "state", [tmp_path / "dump"], options=ReplayOptions(limit=1))
    replay(spectron, tmp_path / "state", [scanned(tmp_path / "dump", [kept], NOW - timedelta(days=1))])
    replay(spectron, tmp_path / "state", [older])
    assert ["kept"] == [turn.content for turn in turns_of(spectron, user)]


def test_a_tombstone_of_an_older_dump_does_not_skip_what_a_newer_one_saw_again(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    first, again = row(user, 1, "first"), row(user, 2, "came back")
    scanned(tmp_path / "older", [first, again], NOW - timedelta(days=4))
    scanned(tmp_path / "older", [first], NOW - timedelta(days=3))
    newer = scanned(tmp_path / "newer", [first, again], NOW - timedelta(days=1))
    replay(spectron, tmp_path / "state", [newer], options=ReplayOptions(limit=1))
    summary = replay(spectron, tmp_path / "state", [tmp_path / "older"])
    assert {} == summary.skipped_by_reason


def test_a_memory_deleted_in_mem0_is_not_sent_because_a_killed_run_meant_to(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [row(user, number, f"text {number}") for number in range(4)]
    dump = scanned(tmp_path / "dump", rows, NOW - timedelta(days=2))
    killed(spectron, tmp_path, dump, "cut_before", lambda seen: b'"text 1"' in seen.body)
    scanned(dump, rows[:3], NOW - timedelta(days=1))
    replay(spectron, tmp_path / "state", [dump])
    assert ["text 0", "text 1", "text 2"] == [turn.content for turn in turns_of(spectron, user)]


def moved(folder: Path) -> Path:
    """A mapping that puts users under an organisation."""
    path = folder / "moved.yaml"
    path.write_text("version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {org: acme, user: '{user_id}'}\n")
    return path


def test_a_changed_mapping_does_not_put_the_next_text_of_a_sent_memory_into_another_scope(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    before = memory(1, user, "likes tea")
    after = memory(1, user, "likes coffee", updated_at="2025-03-01T00:00:00+00:00")
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "a.json", [before])])
    with pytest.raises(InputError, match=f"memory {user}-0001 was sent to"):
        replay(spectron, tmp_path / "state", [write_raw(tmp_path / "b.json", [after])], mapping=moved(tmp_path))


def test_a_changed_mapping_does_not_move_a_planned_text_whose_older_one_was_sent(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    before = memory(1, user, "likes tea")
    after = memory(1, user, "likes coffee", updated_at="2025-03-01T00:00:00+00:00")
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "a.json", [before])])
    dump = write_raw(tmp_path / "b.json", [after])
    planned = replay(spectron, tmp_path / "state", [dump], options=ReplayOptions(max_seconds=0.0))
    assert (0, 1) == (planned.written, planned.remaining)
    with pytest.raises(InputError, match=f"memory {user}-0001 was sent to"):
        replay(spectron, tmp_path / "state", [dump], mapping=moved(tmp_path))


def test_a_refused_memory_is_retried_where_the_mapping_of_now_puts_it(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with misbehaving(spectron.base_url, lambda seen: "400" if seen.writes_fact else "none") as proxy:
        replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    with misbehaving(spectron.base_url) as proxy:
        summary = replay(
            spectron,
            tmp_path / "state",
            [dump],
            endpoint=proxy.base_url,
            mapping=moved(tmp_path),
            options=ReplayOptions(retry_failed=True),
        )
        scopes = [json.loads(seen.body)["scopes"] for seen in proxy.seen if seen.writes_fact]
    assert 1 == summary.written
    assert [[[f"org/acme/user/{user}"]]] == scopes


def test_filters_that_leave_older_rows_of_a_lane_behind_say_how_many_will_be_late(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, user, run_id=f"run{number % 2}") for number in range(6)]
    reporter = NullReporter()
    replay(
        spectron,
        tmp_path / "state",
        [write_raw(tmp_path / "all.json", rows)],
        options=ReplayOptions(filters=Filters(runs=frozenset(["run1"]))),
        reporter=reporter,
    )
    assert any("late" in warning for warning in reporter.warnings)


def test_half_a_letter_in_a_memory_is_refused_or_named_and_no_crash(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user), memory(2, user, "half \ud83d of it")])
    try:
        summary = replay(spectron, tmp_path / "state", [dump])
    except InputError:
        return
    assert 1 == summary.written + summary.already
    assert 1 == summary.refused + summary.skipped
