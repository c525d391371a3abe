"""Which of two texts of a memory is newer: by descent of the dumps, else by a strictly earlier or later time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.dump import open_any, read_manifest
from spectron_migrate.errors import InputError
from spectron_migrate.files.scratch import Scratch
from spectron_migrate.ledger import Ledger, plan
from spectron_migrate.ledger.merge import Merge
from spectron_migrate.ledger.read import memories, plans
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.planning import make_plan
from spectron_migrate.records import Filters, Memory, Placement, format_time
from tests.support.dumping import memory, scan
from tests.support.engines import VARIABLE
from tests.support.examples import examples
from tests.support.scene import RecordingReporter

pytestmark = pytest.mark.slow

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
WRITTEN = "2026-05-01T10:00:00.000000Z"
TIMES = {
    "equal": WRITTEN,
    "missing": None,
    "1970": "1970-01-01T00:00:00.000000Z",
    "earlier": "2026-04-01T10:00:00.000000Z",
    "later": "2026-05-02T10:00:00.000000Z",
}
EDITS = {
    "once": ("likes tea", "likes coffee"),
    "twice": ("likes tea", "likes coffee", "likes milk"),
    "back to the old text": ("likes tea", "likes coffee", "likes tea"),
}


@dataclass(frozen=True)
class Outcome:
    """What the ledger makes of the memory `m` after a plan."""

    text: str | None
    pending: bool
    warned: bool
    gone: bool = False

    @property
    def named(self) -> bool:
        return self.pending or self.warned


def row(text: str, at: str | None = WRITTEN) -> Memory:
    return memory("m", text, created_at=at, text_at=at)


def plan_dump(state: Path, *paths: Path, choices: dict[str, str] | None = None) -> Outcome:
    """Plan a dump, or raw files."""
    reporter = RecordingReporter()
    with Ledger.open_for_writing(state) as ledger, open_any(paths) as dump:
        made = make_plan(
            ledger,
            dump,
            load_mapping(None),
            Filters(),
            context="here",
            now=format_time(NOON),
            reporter=reporter,
            choices=choices,  # type: ignore[arg-type]
        )
        last = memories.last_version(ledger, "m")
        texts = memories.texts_of_memory(ledger, "m")
        return Outcome(
            text=texts[-1].text if texts else None,
            pending=plans.count_pending(ledger, made.id) > 0,
            warned=any("older text" in line and line.endswith(": m") for line in reporter.warnings),
            gone=last is not None and last.tombstoned_at is not None,
        )


def capture(state: Path, text: str, completed: datetime) -> None:
    """Merge a captured row, as draining the outbox does."""
    at = format_time(completed)
    with Ledger.open_for_writing(state) as ledger, ledger.transaction():
        last = plan.last_plan(ledger)
        migration = ledger.migration()
        assert last is not None
        assert migration is not None
        live = plan.ScanRow(f"{plan.LIVE} {at}", plan.LIVE, at, at, None, "")
        plan.keep_scan(ledger, live)
        merge = Merge(ledger, last[0], live, migration=migration.id, same_mapping=True, now=at)
        placed = load_mapping(None).map_memory(row(text))
        assert isinstance(placed, Placement)
        merge.add(replace(row(text, at), updated_at=at), placed, seen_again=at)


def write_raw(path: Path, text: str, at: str | None = WRITTEN) -> Path:
    times = {} if at is None else {"created_at": at, "updated_at": at}
    path.write_text(json.dumps({"results": [{"id": "m", "memory": text, "user_id": "alice", **times}]}))
    return path


@pytest.mark.parametrize("clock", ["on", "back"])
@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("texts", EDITS.values(), ids=EDITS)
def test_an_edit_arrives_by_a_dump_that_descends_from_the_last_one(
    tmp_path: Path, texts: Sequence[str], time: str, clock: str
) -> None:
    for number, text in enumerate(texts):
        day = -number if clock == "back" else number
        scan(tmp_path / "dump", [row(text, TIMES[time] if number else WRITTEN)], day=day)
        found = plan_dump(tmp_path / "state", tmp_path / "dump")
        assert Outcome(text, pending=False, warned=False) == found


@pytest.mark.parametrize("times", [("equal", "equal"), ("missing", "missing"), ("earlier", "later")])
def test_an_edit_arrives_over_generations_that_were_never_planned(tmp_path: Path, times: tuple[str, str]) -> None:
    first, second = times
    scan(tmp_path / "dump", [row("likes tea", TIMES[second])], day=9)
    plan_dump(tmp_path / "state", tmp_path / "dump")
    for day in (3, 2, 1):
        scan(tmp_path / "dump", [row(f"edited on day {day}", TIMES[first])], day=day)
    assert "edited on day 1" == plan_dump(tmp_path / "state", tmp_path / "dump").text


@pytest.mark.parametrize("time", ["equal", "missing", "1970"])
@pytest.mark.parametrize("texts", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("source", ["raw", "fresh dump"])
def test_an_edit_that_no_time_and_no_descent_tells_is_pending(
    tmp_path: Path, source: str, texts: Sequence[str], time: str
) -> None:
    known = plan_source(tmp_path, source, 0, texts[0], TIMES[time]).text
    for number, text in enumerate(texts[1:], 1):
        found = plan_source(tmp_path, source, number, text, TIMES[time])
        assert known == found.text
        assert (text != known) == found.pending


@pytest.mark.parametrize("source", ["raw", "fresh dump"])
def test_a_strictly_later_time_is_newer_without_descent(tmp_path: Path, source: str) -> None:
    plan_source(tmp_path, source, 0, "likes tea", WRITTEN)
    found = plan_source(tmp_path, source, 1, "likes coffee", TIMES["later"])
    assert Outcome("likes coffee", pending=False, warned=False) == found


@pytest.mark.parametrize("source", ["raw", "fresh dump"])
def test_a_strictly_earlier_time_is_older_without_descent_and_the_memory_is_named(tmp_path: Path, source: str) -> None:
    plan_source(tmp_path, source, 0, "likes tea", WRITTEN)
    found = plan_source(tmp_path, source, 1, "likes coffee", TIMES["earlier"])
    assert Outcome("likes tea", pending=False, warned=True) == found


def plan_source(tmp_path: Path, source: str, number: int, text: str, at: str | None) -> Outcome:
    """Plan a text that comes from a raw file, or from a dump in a directory of its own."""
    path = tmp_path / f"{source} {number}"
    if source == "raw":
        write_raw(path, text, at)
    else:
        scan(path, [row(text, at)], day=number)
    return plan_dump(tmp_path / "state", path)


def test_a_scan_later_than_the_ledger_with_an_earlier_time_contradicts_itself(tmp_path: Path) -> None:
    scan(tmp_path / "one", [row("likes tea")])
    plan_dump(tmp_path / "state", tmp_path / "one")
    scan(tmp_path / "two", [row("likes coffee", TIMES["earlier"])], day=300)
    assert Outcome("likes tea", pending=True, warned=False) == plan_dump(tmp_path / "state", tmp_path / "two")


def test_a_dump_from_which_the_last_one_descends_is_older_whatever_its_times(tmp_path: Path) -> None:
    scan(tmp_path / "dump", [row("likes tea", TIMES["later"])], day=5)
    plan_dump(tmp_path / "state", tmp_path / "dump")
    shutil.copytree(tmp_path / "dump", tmp_path / "copy")
    scan(tmp_path / "dump", [row("likes coffee")], day=1)
    plan_dump(tmp_path / "state", tmp_path / "dump")
    found = plan_dump(tmp_path / "state", tmp_path / "copy")
    assert Outcome("likes coffee", pending=False, warned=True) == found


def test_two_dumps_that_went_apart_do_not_descend_from_each_other(tmp_path: Path) -> None:
    scan(tmp_path / "dump", [row("likes tea")], day=1)
    plan_dump(tmp_path / "state", tmp_path / "dump")
    shutil.copytree(tmp_path / "dump", tmp_path / "copy")
    scan(tmp_path / "dump", [row("likes coffee")], day=2)
    plan_dump(tmp_path / "state", tmp_path / "dump")
    scan(tmp_path / "copy", [row("likes milk")], day=3)
    assert Outcome("likes coffee", pending=True, warned=False) == plan_dump(tmp_path / "state", tmp_path / "copy")


# --- captured rows


@pytest.mark.parametrize("time", TIMES)
def test_a_captured_row_is_newer_than_the_scan_before_it(tmp_path: Path, time: str) -> None:
    scan(tmp_path / "dump", [row("likes tea", TIMES[time])])
    plan_dump(tmp_path / "state", tmp_path / "dump")
    capture(tmp_path / "state", "likes coffee", datetime(2026, 1, 1, 1, tzinfo=UTC))
    assert "likes coffee" == newest_text(tmp_path / "state")


@pytest.mark.parametrize("time", TIMES)
def test_a_scan_is_newer_than_a_captured_row_only_if_it_began_after_it(tmp_path: Path, time: str) -> None:
    scan(tmp_path / "dump", [row("likes tea")])
    plan_dump(tmp_path / "state", tmp_path / "dump")
    capture(tmp_path / "state", "likes coffee", datetime(2026, 1, 3, 12, tzinfo=UTC))
    scan(tmp_path / "dump", [row("likes milk", TIMES[time])], day=2)
    assert "likes coffee" == plan_dump(tmp_path / "state", tmp_path / "dump").text
    scan(tmp_path / "dump", [row("likes milk", TIMES[time])], day=3)
    assert "likes milk" == plan_dump(tmp_path / "state", tmp_path / "dump").text


def test_a_captured_row_that_is_drained_again_changes_nothing(tmp_path: Path) -> None:
    scan(tmp_path / "dump", [row("likes tea")])
    plan_dump(tmp_path / "state", tmp_path / "dump")
    for hour, text in ((1, "likes coffee"), (2, "likes milk"), (1, "likes coffee")):
        capture(tmp_path / "state", text, datetime(2026, 1, 1, hour, tzinfo=UTC))
    assert "likes milk" == newest_text(tmp_path / "state")


def newest_text(state: Path) -> str:
    with Ledger.open_for_reading(state) as ledger:
        return memories.texts_of_memory(ledger, "m")[-1].text


# --- tombstones


def test_a_dump_that_does_not_descend_from_the_one_that_missed_a_memory_does_not_bring_it_back(tmp_path: Path) -> None:
    other = memory("other")
    scan(tmp_path / "dump", [row("likes tea"), other], day=1)
    plan_dump(tmp_path / "state", tmp_path / "dump")
    scan(tmp_path / "dump", [other], day=2)
    assert plan_dump(tmp_path / "state", tmp_path / "dump").gone
    scan(tmp_path / "fresh", [row("likes tea"), other], day=3)
    found = plan_dump(tmp_path / "state", tmp_path / "fresh")
    assert found.gone
    assert found.pending
    assert not plan_dump(tmp_path / "state", tmp_path / "fresh", choices={"m": "newer"}).gone


def test_a_memory_seen_again_lifts_its_tombstone_although_the_clock_was_set_back(tmp_path: Path) -> None:
    other = memory("other")
    scan(tmp_path / "dump", [row("likes tea"), other], day=8)
    plan_dump(tmp_path / "state", tmp_path / "dump")
    scan(tmp_path / "dump", [other], day=7)
    assert plan_dump(tmp_path / "state", tmp_path / "dump").gone
    scan(tmp_path / "dump", [row("likes tea"), other], day=1)
    assert not plan_dump(tmp_path / "state", tmp_path / "dump").gone


def test_a_later_complete_dump_of_another_directory_that_does_not_show_a_memory_tombstones_it(tmp_path: Path) -> None:
    """As that of a follower on another host, which took over after the memory was deleted."""
    other = memory("other")
    scan(tmp_path / "dump", [row("likes tea"), other], day=1)
    plan_dump(tmp_path / "state", tmp_path / "dump")
    scan(tmp_path / "fresh", [other], day=2)
    assert plan_dump(tmp_path / "state", tmp_path / "fresh").gone
    scan(tmp_path / "fresh", [row("likes tea"), other], day=3)
    assert not plan_dump(tmp_path / "state", tmp_path / "fresh").gone
    scan(tmp_path / "dump", [other], day=4)
    assert plan_dump(tmp_path / "state", tmp_path / "dump").gone


@pytest.mark.parametrize(
    "options", [{"day": 0}, {"day": 2, "complete": None}, {"day": 2, "filters": Filters(users=frozenset({"bob"}))}]
)
def test_an_earlier_or_a_partial_dump_of_another_directory_tombstones_nothing(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    other = memory("other", user="bob")
    scan(tmp_path / "dump", [row("likes tea"), other], day=1)
    plan_dump(tmp_path / "state", tmp_path / "dump")
    scan(tmp_path / "fresh", [other], **options)
    assert not plan_dump(tmp_path / "state", tmp_path / "fresh").gone


def test_a_captured_memory_that_a_dump_of_another_directory_cannot_show_yet_is_not_gone(tmp_path: Path) -> None:
    other = memory("other")
    scan(tmp_path / "dump", [row("likes tea"), other], day=1)
    plan_dump(tmp_path / "state", tmp_path / "dump")
    scan(tmp_path / "fresh", [other], day=2)
    capture(tmp_path / "state", "likes coffee", datetime(2026, 1, 3, 12, tzinfo=UTC))
    assert not plan_dump(tmp_path / "state", tmp_path / "fresh").gone


# --- a person decides


@pytest.mark.parametrize(("answer", "text"), [("newer", "likes coffee"), ("older", "likes tea")])
def test_a_person_says_which_text_is_newer_and_is_not_asked_again(tmp_path: Path, answer: str, text: str) -> None:
    state = tmp_path / "state"
    plan_dump(state, write_raw(tmp_path / "one.json", "likes tea"))
    two = write_raw(tmp_path / "two.json", "likes coffee")
    assert plan_dump(state, two).pending
    decided = plan_dump(state, two, choices={"m": answer})
    assert text == decided.text
    assert not decided.pending
    write_raw(tmp_path / "more.json", "something else")
    assert not plan_dump(state, two).pending


def test_a_decision_about_a_memory_that_is_not_pending_is_refused(tmp_path: Path) -> None:
    one = write_raw(tmp_path / "one.json", "likes tea")
    plan_dump(tmp_path / "state", one)
    with pytest.raises(InputError, match="memory m is not pending"):
        plan_dump(tmp_path / "state", one, choices={"m": "newer"})


# --- lineage in the manifest


def test_a_manifest_counts_generations_and_names_the_one_before(tmp_path: Path) -> None:
    first = scan(tmp_path / "dump", [row("likes tea")]).manifest
    second = scan(tmp_path / "dump", [row("likes tea")], day=1).manifest
    assert (1, None) == (first.generation, first.previous)
    assert (2, first.digest) == (second.generation, second.previous)
    assert second == read_manifest(tmp_path / "dump")


def test_a_manifest_made_before_generations_were_kept_is_read_and_brought_up_to_date(tmp_path: Path) -> None:
    made = scan(tmp_path / "dump", [row("likes tea")]).manifest
    older = replace(made, generation=0)
    (tmp_path / "dump" / "manifest.json").write_text(json.dumps(older.to_json()))
    assert "generation" not in older.to_json()
    assert older == read_manifest(tmp_path / "dump")
    plan_dump(tmp_path / "state", tmp_path / "dump")
    assert 2 == scan(tmp_path / "dump", [row("likes coffee")], day=1).manifest.generation
    assert "likes coffee" == plan_dump(tmp_path / "state", tmp_path / "dump").text


# --- all of it at random

TIME_OF_EDIT = st.sampled_from(["equal", "missing", "later"])
STEP = st.one_of(
    st.tuples(st.just("edit"), TIME_OF_EDIT, st.integers(0, 3)),
    st.tuples(st.just("export"), st.sampled_from(["a", "b"]), st.integers(-40, 40)),
    st.tuples(st.just("copy"), st.sampled_from(["a", "b"]), st.integers(0, 1)),
    st.tuples(st.just("replay"), st.sampled_from(["a", "b", "copy"]), st.integers(0, 1)),
)


# Each makes a ledger, which takes a schema longer than a file; the rule is the same.
@settings(max_examples=examples(30 if os.environ.get(VARIABLE) == "postgres" else 120), deadline=None)
@given(st.sampled_from(["oss", "files"]), st.lists(STEP, min_size=4, max_size=16))
def test_the_ledgers_newest_text_is_mem0s_newest_text_or_the_memory_is_named(
    source: str, steps: Sequence[tuple[str, str, int]]
) -> None:
    """One memory, edited with a time that never goes back, or none; host clocks jump by weeks between readings."""
    with Scratch() as folder:
        play = Play(folder, source)
        for what, name, number in [("export", "a", 0), ("replay", "a", 0), *steps, ("export", "a", 0)]:
            getattr(play, what)(name, number)
        play.replay("a", 0)
        assert play.reached == play.edits or play.named, "an edit did not arrive, and nobody is told"


class Play:
    """Mem0, its dumps and copies of them, and one ledger."""

    def __init__(self, folder: Path, source: str) -> None:
        self.folder = folder
        self.source = source
        self.edits = 0
        self.text = "text 0"
        self.at: str | None = WRITTEN
        self.reached = -1
        """The newest edit that the ledger has."""
        self.named = False
        """Whether the last replay named the memory."""
        self.read_at: dict[str, int] = {}
        """Which edit each dump shows."""

    def edit(self, time: str, number: int) -> None:
        self.edits += 1
        self.text = f"text {self.edits}"
        if time == "later":
            self.at = format_time(datetime(2026, 5, 1, 10, tzinfo=UTC) + timedelta(minutes=self.edits))
        elif time == "missing":
            self.at = None

    def export(self, name: str, day: int) -> None:
        if self.source == "files":
            write_raw(self.folder / name, self.text, self.at)
        else:
            scan(self.folder / name, [row(self.text, self.at)], day=day)
        self.read_at[name] = self.edits

    def copy(self, name: str, _: int) -> None:
        if name in self.read_at:
            if self.source == "files":
                shutil.copy(self.folder / name, self.folder / "copy")
            else:
                shutil.rmtree(self.folder / "copy", ignore_errors=True)
                shutil.copytree(self.folder / name, self.folder / "copy")
            self.read_at["copy"] = self.read_at[name]

    def replay(self, name: str, _: int) -> None:
        if name not in self.read_at:
            return
        found = plan_dump(self.folder / "state", self.folder / name)
        assert found.text is not None
        has = int(found.text.split()[1])
        assert has >= self.reached, "an older text over a newer one"
        assert has >= self.read_at[name] or found.named, "an edit did not arrive, and nobody is told"
        self.reached, self.named = has, found.named
