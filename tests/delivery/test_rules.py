"""What is sent, what is not, and what is refused before anything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from spectron_migrate.errors import (
    ExitCode,
    InputError,
    KeyRefused,
    LedgerLocked,
    NotLegal,
    Unreachable,
    WrongLedger,
)
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.mapping import segment
from spectron_migrate.migration.replay import ReplayOptions
from spectron_migrate.records import Filters, NullReporter
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, replay, turns_of, write_raw


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
    assert (3, 3, 3) == (summary.written, summary.late, summary.already)


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
    assert (0, 1) == (summary.written, summary.skipped)


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


def test_a_refused_memory_goes_to_review_with_the_servers_words_and_its_lane_goes_on(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    mapping = tmp_path / "mapping.yaml"
    # A label the server refuses: keys that begin with an underscore are its own.
    mapping.write_text("version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {user: '{user_id}'}\n")

    def refuse_second(seen: Seen) -> Fault:
        return "400" if b"number 1" in seen.body else "none"

    with misbehaving(spectron.base_url, refuse_second) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url, mapping=mapping)
    assert (ExitCode.REFUSED, 2, 1) == (summary.exit_code, summary.written, summary.refused)
    assert summary.review is not None
    row = json.loads(Path(summary.review).read_text())
    assert (f"{user}-0001", "400 not this one", "refused") == (row["id"], row["reason"], row["state"])
    assert f"{user} remembers thing number 1" == row["memory"]["memory"]
    assert 0o600 == Path(summary.review).stat().st_mode & 0o777

    again = replay(spectron, tmp_path / "state", [dump], mapping=mapping, options=ReplayOptions(retry_failed=True))
    assert (ExitCode.DONE, 1, 1, None) == (again.exit_code, again.written, again.late, again.review)


def test_a_limit_stops_with_a_remainder_and_the_next_run_goes_on(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])
    first = replay(spectron, tmp_path / "state", [dump], options=ReplayOptions(limit=7))
    assert (ExitCode.LIMIT, 7, 13) == (first.exit_code, first.written, first.remaining)
    second = replay(spectron, tmp_path / "state", [dump])
    assert (ExitCode.DONE, 13, 7) == (second.exit_code, second.written, second.already)
    expected = [f"{user} remembers thing number {number}" for number in range(20)]
    assert expected == [turn.content for turn in turns_of(spectron, user)]


def test_filters_choose_memories_and_leave_the_others_for_later(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, f"{user}{letter}") for letter in "ab" for number in range(3)]
    dump = write_raw(tmp_path / "all.json", rows)
    only = ReplayOptions(filters=Filters(users=frozenset([f"{user}a"])))
    first = replay(spectron, tmp_path / "state", [dump], options=only)
    assert (3, 3) == (first.planned, first.written)
    assert [] == turns_of(spectron, f"{user}b")
    second = replay(spectron, tmp_path / "state", [dump])
    assert (6, 3, 3) == (second.planned, second.written, second.already)


def test_a_run_takes_sessions_of_its_own_and_none_is_larger_than_the_mapping_says(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, user, run_id=f"run{number % 2}" if number < 6 else None) for number in range(16)]
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        "version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {user: '{user_id}'}\nsession: {by: run_id, size: 4}\n"
    )
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)], mapping=mapping)
    sessions: dict[str, list[int]] = {}
    for turn in turns_of(spectron, user):
        sessions.setdefault(turn.session, []).append(turn.seq)
    assert [2, 3, 3, 4, 4] == sorted(len(each) for each in sessions.values())
    assert all(each == sorted(each) for each in sessions.values())


def test_scopes_that_others_made_are_refused_before_anything_is_sent(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    replay(spectron, tmp_path / "first", [dump])
    with pytest.raises(NotLegal, match=f"user/{user}"):
        replay(spectron, tmp_path / "lost-ledger", [dump])
    assert 1 == len(turns_of(spectron, user))


def test_a_lost_ledger_meets_its_own_keys_where_somebody_insists(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    replay(spectron, tmp_path / "first", [dump])
    summary = replay(spectron, tmp_path / "lost-ledger", [dump], options=ReplayOptions(into_existing=True))
    assert (ExitCode.REFUSED, 1) == (summary.exit_code, summary.refused)
    assert 1 == len(turns_of(spectron, user))


def test_a_fresh_server_behind_the_same_endpoint_is_noticed(user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with running_server(context="tests") as first:
        replay(first, tmp_path / "state", [dump])
    more = write_raw(tmp_path / "more.json", [memory(1, user), memory(2, user)])
    with running_server(context="tests") as second, pytest.raises(WrongLedger, match="does not have what the ledger"):
        replay(second, tmp_path / "state", [more])


def test_a_ledger_of_another_source_is_refused(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    replay(spectron, tmp_path / "state", [dump])
    with Ledger.open_for_writing(tmp_path / "state") as ledger, ledger.transaction() as db:
        db.execute("UPDATE migration SET source = 'oss:elsewhere'")
    with pytest.raises(WrongLedger, match="source oss:elsewhere, not files"):
        replay(spectron, tmp_path / "state", [dump])


def test_a_ledger_that_another_process_writes_is_locked_and_names_it(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with Ledger.open_for_writing(tmp_path / "state"), pytest.raises(LedgerLocked, match="written by process"):
        replay(spectron, tmp_path / "state", [dump])


def test_a_wrong_key_and_a_server_that_is_down_leave_everything_planned(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with pytest.raises(KeyRefused, match="401"):
        replay(spectron, tmp_path / "state", [dump], api_key="wrong")
    with pytest.raises(Unreachable, match="no connection"):
        replay(spectron, tmp_path / "state", [dump], endpoint="http://127.0.0.1:9")
    assert 1 == replay(spectron, tmp_path / "state", [dump]).written


def test_a_server_that_dies_on_the_way_ends_the_run_with_a_remainder(user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(30)])
    with running_server(tmp_path / "data", context="tests") as server:

        def die(seen: Seen) -> Fault:
            if seen.path.endswith("/facts") and seen.number == 20:
                server.kill()
            return "none"

        with misbehaving(server.base_url, die) as proxy:
            first = replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url)
        assert ExitCode.UNREACHABLE == first.exit_code
        assert 30 == first.written + first.in_doubt + first.remaining
        server.restart()
        second = replay(server, tmp_path / "state", [dump])
        assert (ExitCode.DONE, 30) == (second.exit_code, first.written + second.written)
        assert 30 == len(turns_of(server, user))


def test_memories_without_a_place_are_all_named_and_nothing_is_written(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(1, user), *({"id": f"nobody-{number}", "memory": "lost"} for number in range(3))]
    with pytest.raises(InputError) as told:
        replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)])
    assert all(f"nobody-{number}" in told.value.message for number in range(3))
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


def test_ids_that_look_like_paths_and_patterns_stay_in_scopes_of_their_own(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    ids = [f"{user}{tail}" for tail in ("/../bob", "/*", "*", "..", "/", " ", "%2e", "É", "\x00", "x" * 80)]
    rows = [{**memory(1, one, f"secret of {number}"), "id": f"{user}-{number}"} for number, one in enumerate(ids)]
    summary = replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)])
    assert (ExitCode.DONE, len(ids), len(ids)) == (summary.exit_code, summary.written, summary.scopes)
    for number, one in enumerate(ids):
        assert [f"secret of {number}"] == [turn.content for turn in turns_of(spectron, segment(one))]


def test_a_dry_run_needs_no_server_and_leaves_no_trace(tmp_path: Path, user: str) -> None:
    from spectron_migrate.dump import open_any
    from spectron_migrate.mapping import load_mapping
    from spectron_migrate.migration.replay import Replay

    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(9)])
    before = sorted(tmp_path.rglob("*"))
    with open_any([dump]) as opened:
        step = Replay(tmp_path / "state", opened, load_mapping(None), ReplayOptions(), reporter=NullReporter())
        summary = step.dry_run(context="anything")
    assert (9, 9, 1, 1) == (summary.planned, summary.remaining, summary.scopes, summary.lanes)
    assert before == sorted(tmp_path.rglob("*"))


@pytest.mark.parametrize(("answer", "texts"), [("present", 2), ("absent", 3)])
def test_a_person_decides_what_evidence_does_not(
    spectron: RunningServer, user: str, tmp_path: Path, answer: Literal["present", "absent"], texts: int
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])

    def cut_second(seen: Seen) -> Fault:
        return "cut_before" if b"number 1" in seen.body else "none"

    with misbehaving(spectron.base_url, cut_second) as proxy:
        first = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert (ExitCode.UNREACHABLE, 1, 1, 1) == (first.exit_code, first.written, first.in_doubt, first.remaining)
    with Ledger.open_for_writing(tmp_path / "state") as ledger, ledger.transaction() as db:
        db.execute("UPDATE fact SET state = 'undecidable', reason = 'for this test' WHERE state = 'intended'")
    held = replay(spectron, tmp_path / "state", [dump])
    assert (ExitCode.REFUSED, 1, 1) == (held.exit_code, held.undecidable, held.remaining)
    resolved = ReplayOptions(resolve={f"{user}-0001": answer})
    assert ExitCode.DONE == replay(spectron, tmp_path / "state", [dump], options=resolved).exit_code
    assert texts == len(turns_of(spectron, user))
    with pytest.raises(InputError, match="is not undecidable"):
        replay(spectron, tmp_path / "state", [dump], options=resolved)


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
