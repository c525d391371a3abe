"""What is planned, late, skipped or refused: versions, filters, older dumps and changed mappings."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.errors import InputError
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read.memories import last_version
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.records import Filters
from spectron_migrate.reporter import NullReporter
from tests.support.proxy import Seen, misbehaving
from tests.support.replaying import TODAY, complete_scan, mapping_file, mem0_row, texts
from tests.support.spectron import memory, replay, turns_of, write_raw

pytestmark = pytest.mark.slow


def infers(server: RunningServer, seen: list[Seen]) -> dict[str, str]:
    """Of every fact that was sent: its text and how."""
    bodies = [json.loads(each.body) for each in seen if each.path.endswith("/facts")]
    return {body["text"]: body["infer"] for body in bodies}


def test_an_older_memory_that_comes_later_supersedes_nothing(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, user, f"text {number}") for number in range(6)]
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "new.json", rows[3:])])
    with misbehaving(spectron.base_url) as proxy:
        summary = replay(
            spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)], endpoint=proxy.base_url
        )
        assert {f"text {number}": "none" for number in range(3)} == infers(spectron, proxy.seen)
    assert 3 == summary.written
    assert 3 == summary.late
    assert 3 == summary.already


def test_a_newer_memory_that_comes_later_is_not_late(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [memory(number, user, f"text {number}") for number in range(4)]
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "old.json", rows[:2])])
    with misbehaving(spectron.base_url) as proxy:
        summary = replay(
            spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)], endpoint=proxy.base_url
        )
        assert {"text 2": "full", "text 3": "full"} == infers(spectron, proxy.seen)
    assert 0 == summary.late


def test_a_memory_without_a_time_goes_in_without_superseding(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(1, user, "timed"), {"id": f"{user}-t", "memory": "timeless", "user_id": user}]
    with misbehaving(spectron.base_url) as proxy:
        replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)], endpoint=proxy.base_url)
        assert {"timed": "full", "timeless": "none"} == infers(spectron, proxy.seen)
        timeless = next(seen.body for seen in proxy.seen if b'"timeless"' in seen.body)
    assert b"observed_at" not in timeless


def test_a_changed_text_becomes_the_next_version_and_an_old_copy_of_the_file_changes_nothing(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    before = memory(1, user, "likes tea")
    after = memory(1, user, "likes coffee", updated_at="2025-03-01T00:00:00+00:00")
    for name, row in (("a", before), ("b", after), ("c", before)):
        summary = replay(spectron, tmp_path / "state", [write_raw(tmp_path / f"{name}.json", [row])])
    assert ["likes tea", "likes coffee"] == [turn.content for turn in turns_of(spectron, user)]
    assert 0 == summary.written
    assert 1 == summary.skipped


def test_guessed_times_are_warned_of_where_they_are_many_in_one_scope(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, user) for number in range(60)]
    rows += [memory(number, f"{user}b", updated_at="2025-09-01T10:30:00+00:00") for number in range(2)]
    reporter = NullReporter()
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)], reporter=reporter)
    assert [
        "2 of 62 memories have a guessed time (`updated_at`, which metadata edits change too), more than 5% of those in"
        " 1 scope: their order may differ from the order of the texts; `text_at: created_at` in the mapping takes"
        " `created_at` instead"
    ] == [each for each in reporter.warnings if "guessed time" in each]


def test_what_mem0_no_longer_shows_is_skipped_by_name(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [
        memory(1, user, "kept"),
        memory(2, user, "expired", expiration_date="2020-01-01"),
        memory(3, user, "   "),
    ]
    summary = replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)])
    assert ["kept"] == [turn.content for turn in turns_of(spectron, user)]
    assert {"expired": 1, "empty text": 1} == summary.skipped_by_reason
    assert summary.planned == summary.written + summary.skipped


def test_filters_choose_memories_and_leave_the_others_for_later(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, f"{user}{letter}") for letter in "ab" for number in range(3)]
    dump = write_raw(tmp_path / "all.json", rows)
    only = ReplayOptions(filters=Filters(users=frozenset([f"{user}a"])))
    first = replay(spectron, tmp_path / "state", [dump], options=only)
    assert 3 == first.planned
    assert 3 == first.written
    assert [] == turns_of(spectron, f"{user}b")
    second = replay(spectron, tmp_path / "state", [dump])
    assert 6 == second.planned
    assert 3 == second.written
    assert 3 == second.already


def test_memories_without_a_rule_are_counted_by_owner_and_nothing_is_written(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(1, user), *({"id": f"nobody-{number}", "memory": "lost"} for number in range(3))]
    with pytest.raises(InputError, match="3 memories, of nobody"):
        replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)])
    assert not (tmp_path / "state").exists()
    assert [] == turns_of(spectron, user)


def test_a_mapping_that_moves_what_was_sent_is_refused_with_the_memories_named(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    replay(spectron, tmp_path / "state", [dump])
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {org: acme, user: '{user_id}'}\n")
    with pytest.raises(InputError, match=f"memory {user}-0001 was sent to"):
        replay(spectron, tmp_path / "state", [dump], mapping=mapping)


def test_a_memory_that_moves_in_mem0_stays_where_it_was_sent_and_is_named(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    here = memory(1, user, "likes tea")
    there = memory(1, user, "likes coffee", updated_at="2025-03-01T00:00:00+00:00", agent_id="cook")
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "a.json", [here])])
    reporter = NullReporter()
    after = write_raw(tmp_path / "b.json", [there])
    summary = replay(spectron, tmp_path / "state", [after], reporter=reporter)
    assert {"moved to another scope in Mem0 after it was sent": 1} == summary.skipped_by_reason
    assert ["likes tea"] == [turn.content for turn in turns_of(spectron, user)]
    assert any("another scope" in warning for warning in reporter.warnings)


def test_an_older_dump_does_not_bring_back_what_mem0_has_deleted_since(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    kept, gone = mem0_row(user, 1, "kept"), mem0_row(user, 2, "deleted since")
    older = complete_scan(tmp_path / "older", [kept, gone], TODAY - timedelta(days=3))
    complete_scan(tmp_path / "dump", [kept, gone], TODAY - timedelta(days=2))
    replay(spectron, tmp_path / "state", [tmp_path / "dump"], options=ReplayOptions(limit=1))
    replay(spectron, tmp_path / "state", [complete_scan(tmp_path / "dump", [kept], TODAY - timedelta(days=1))])
    replay(spectron, tmp_path / "state", [older])
    assert ["kept"] == [turn.content for turn in turns_of(spectron, user)]


def test_a_tombstone_of_an_older_dump_does_not_skip_what_a_newer_one_saw_again(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    first, again = mem0_row(user, 1, "first"), mem0_row(user, 2, "came back")
    complete_scan(tmp_path / "older", [first, again], TODAY - timedelta(days=4))
    complete_scan(tmp_path / "older", [first], TODAY - timedelta(days=3))
    newer = complete_scan(tmp_path / "newer", [first, again], TODAY - timedelta(days=1))
    replay(spectron, tmp_path / "state", [newer], options=ReplayOptions(limit=1))
    summary = replay(spectron, tmp_path / "state", [tmp_path / "older"])
    assert {} == summary.skipped_by_reason


def test_a_memory_seen_again_by_a_scan_of_its_user_alone_is_planned(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    a, b = f"{user}a", f"{user}b"
    kept, other, back = mem0_row(a, 1, "kept"), mem0_row(b, 1, "another user's"), mem0_row(a, 2, "came back")
    dump = tmp_path / "dump"
    complete_scan(dump, [kept, other, back], TODAY - timedelta(days=4))
    replay(spectron, tmp_path / "state", [dump], options=ReplayOptions(max_seconds=0.0))
    complete_scan(dump, [kept, other], TODAY - timedelta(days=3))
    replay(spectron, tmp_path / "state", [dump])
    complete_scan(dump, [kept, back, other], TODAY - timedelta(days=1), users=frozenset([a]))
    assert (back.id,) == open_dump(dump).manifest.returned
    summary = replay(spectron, tmp_path / "state", [dump])
    assert {} == summary.skipped_by_reason
    assert ["came back", "kept"] == sorted(turn.content for turn in turns_of(spectron, a))


def test_a_scan_of_one_user_says_nothing_of_what_another_dump_showed_of_others(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    """When the dump was read whole, nobody else had a memory."""
    first, other = mem0_row(f"{user}a", 1, "of the first"), mem0_row(f"{user}b", 1, "of another")
    complete_scan(tmp_path / "dump", [first], TODAY - timedelta(days=4))
    replay(spectron, tmp_path / "state", [complete_scan(tmp_path / "whole", [first, other], TODAY - timedelta(days=3))])
    only_a = frozenset([f"{user}a"])
    replay(spectron, tmp_path / "state", [complete_scan(tmp_path / "dump", [first, other], TODAY, users=only_a)])
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        known = last_version(ledger, other.id)
    assert known is not None
    assert known.tombstoned_at is None


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
    assert 0 == planned.written
    assert 1 == planned.remaining
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


@pytest.mark.parametrize("by", ["filter", "file"])
def test_a_changed_mapping_is_held_against_all_that_was_sent_not_only_what_this_run_is_about(
    spectron: RunningServer, user: str, tmp_path: Path, by: str
) -> None:
    """Else one user lies in the old mapping's scopes and another in the new one's, and no lens finds both."""
    one, other = f"{user}a", f"{user}b"
    rows = [memory(1, one), memory(2, other)]
    dump = write_raw(tmp_path / "all.json", rows)
    only = {name: ReplayOptions(filters=Filters(users=frozenset({name}))) for name in (one, other)}
    replay(spectron, tmp_path / "state", [dump], options=only[one], mapping=mapping_file(tmp_path, ""))
    changed = tmp_path / "changed.yaml"
    changed.write_text("version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {org: acme, user: '{user_id}'}\n")
    second = dump if by == "filter" else write_raw(tmp_path / "other.json", rows[1:])
    options = only[other] if by == "filter" else ReplayOptions()
    with pytest.raises(InputError, match="moves 1 memory"):
        replay(spectron, tmp_path / "state", [second], options=options, mapping=changed)
    assert [] == texts(spectron, other)


def test_a_mapping_that_gives_a_scope_another_lane_lets_no_older_fact_supersede_newer_ones(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    def mapped(name: str, who: str) -> Path:
        path = tmp_path / name
        rule = f"  - when: {{user_id: '*', agent_id: '*'}}\n    scope: {{user: {who}, agent: '{{agent_id}}'}}\n"
        path.write_text(f"version: 1\nrules:\n{rule}")
        return path

    newer, older = memory(9, user, agent_id="x"), memory(3, user, agent_id="x")
    first = write_raw(tmp_path / "one.json", [newer])
    replay(spectron, tmp_path / "state", [first], mapping=mapped("one.yaml", "'{user_id}'"))
    second = write_raw(tmp_path / "two.json", [newer, older])
    done = replay(spectron, tmp_path / "state", [second], mapping=mapped("two.yaml", user))
    assert 1 == done.written
    assert 1 == done.late


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
