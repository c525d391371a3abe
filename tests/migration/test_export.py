"""Export reads everything, proves it with counts, and says so when it cannot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.dump import open_dump
from spectron_migrate.dump.manifest import RELATIONS
from spectron_migrate.errors import ExitCode, Incomplete, InputError, Unreachable
from spectron_migrate.mem0.formats.files import FilesReader
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.mem0.reader import ReaderBase
from spectron_migrate.migration.export import ExportSummary, run_export
from spectron_migrate.records import Filters, Memory, Skipped, SourceInfo, canonical_json
from spectron_migrate.reporter import NullReporter
from tests.mem0.conftest import NOW, VERSIONS, App, mem0_app, sample_config, sample_rows
from tests.support.dumping import memory
from tests.support.examples import examples

pytestmark = [pytest.mark.slow, pytest.mark.ledger_file]  # it has no state

__all__ = ["mem0_app"]

ANY_OWNER = Filters()


class Clock:
    """A clock that advances by a minute with each call."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


def export(reader: Any, path: Path, **options: Any) -> ExportSummary:
    asked = {"filters": ANY_OWNER, "since": None, "keep_history": False, "reporter": NullReporter(), "clock": Clock()}
    with reader:
        return run_export(reader, path, **{**asked, **options})


class Moving(ReaderBase):
    """A store with prepared listings and counts: `passes[n]` is what the n-th reading yields."""

    info = SourceInfo("server", "http://mem0")

    def __init__(self, passes: Sequence[Sequence[Memory | Skipped]], counts: Sequence[int | None]) -> None:
        super().__init__()
        self._passes = iter(passes)
        self._counts = iter(counts)

    def native_count(self) -> int | None:
        return next(self._counts)

    def rows(self) -> Iterator[Memory | Skipped]:
        return iter(next(self._passes))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_store_of_every_version_is_exported_row_for_row(tmp_path: Path, version: str) -> None:
    summary = export(open_oss(sample_config(version), now=NOW), tmp_path / "dump")

    stored = sample_rows(version)
    assert ExitCode.DONE == summary.exit_code
    assert summary.complete
    assert len(stored) == summary.native_count
    assert len(stored) == summary.memories
    assert len(stored) == summary.new
    assert 0 == summary.changed
    assert 0 == summary.deleted
    found = {row.id: row for row in open_dump(tmp_path / "dump").memories()}
    assert set(stored) == set(found)
    for memory_id, payload in stored.items():
        row = found[memory_id]
        assert payload["data"] == row.memory
        assert payload.get("user_id") == row.user_id
        assert datetime.fromisoformat(payload["created_at"]) == datetime.fromisoformat(row.created_at or "")
        assert "history" == row.text_at_source


def test_exporting_again_changes_nothing(tmp_path: Path) -> None:
    export(open_oss(sample_config("2.2.1"), now=NOW), tmp_path / "dump")
    before = (tmp_path / "dump" / "memories.jsonl").read_bytes()

    again = export(open_oss(sample_config("2.2.1"), now=NOW), tmp_path / "dump")

    assert 0 == again.new
    assert 0 == again.changed
    assert 0 == again.deleted
    assert again.complete
    assert before == (tmp_path / "dump" / "memories.jsonl").read_bytes()


def test_a_real_store_is_followed_through_additions_edits_and_deletions(
    tmp_path: Path, mem0_app: Callable[..., App]
) -> None:
    app = mem0_app()
    [same] = app("add", "stays", {"user_id": "alice"})
    [text] = app("add", "likes tea", {"user_id": "alice", "metadata": {"topic": "drinks"}})
    [meta] = app("add", "has a cat", {"user_id": "bob", "agent_id": "bot", "run_id": "r1"})
    [gone] = app("add", "will go", {"user_id": "bob"})
    first = export(open_oss(app.config, now=NOW), tmp_path / "dump")
    assert 4 == first.memories
    assert 4 == first.new
    assert 2 == first.users
    assert 1 == first.agents
    assert 1 == first.runs

    app("update", text, "likes coffee")
    app("update", meta, None, {"edited": True})
    app("delete", gone)
    [new] = app("add", "is new", {"user_id": "carol"})
    second = export(open_oss(app.config, now=NOW), tmp_path / "dump", keep_history=True)

    assert 4 == second.memories
    assert 1 == second.new
    assert 1 == second.changed_text
    assert 1 == second.changed_otherwise
    assert 1 == second.deleted
    dump = open_dump(tmp_path / "dump")
    found = {row.id: row for row in dump.memories()}
    assert {same: "stays", text: "likes coffee", meta: "has a cat", new: "is new"} == {
        memory_id: row.memory for memory_id, row in found.items()
    }
    assert {"topic": "drinks"} == found[text].metadata
    assert found[meta].created_at == found[meta].text_at != found[meta].updated_at
    assert {gone} == set(dump.tombstones)
    assert {"ADD", "UPDATE", "DELETE"} == {event["event"] for event in dump.history()}
    assert {same, text, meta, gone, new} == {event["memory_id"] for event in dump.history()}


def test_an_export_beside_a_writing_application_is_complete(tmp_path: Path, mem0_app: Callable[..., App]) -> None:
    app = mem0_app()
    before = [app("add", f"note {number}", {"user_id": "alice"})[0] for number in range(20)]
    app.begin("churn", 0, 150)

    summaries = [export(open_oss(app.config, now=NOW), tmp_path / "dump") for _ in range(4)]

    app.answer()
    assert all(summary.complete for summary in summaries)
    assert set(before) <= {row.id for row in open_dump(tmp_path / "dump").memories()}
    last = export(open_oss(app.config, now=NOW), tmp_path / "dump")
    held = {row["id"]: row["payload"]["data"] for row in app("all")}
    assert held == {row.id: row.memory for row in open_dump(tmp_path / "dump").memories()}
    assert 0 == last.deleted
    assert len(held) == last.native_count


def test_a_filter_leaves_the_rest_out_and_counts_it(tmp_path: Path) -> None:
    stored = [payload for payload in sample_rows("2.2.1").values() if payload.get("user_id") == "alice"]

    summary = export(
        open_oss(sample_config("2.2.1"), now=NOW), tmp_path / "dump", filters=Filters(users=frozenset({"alice"}))
    )

    assert len(stored) == summary.memories
    assert 1 == summary.users
    assert summary.complete
    assert len(sample_rows("2.2.1")) == summary.filtered + summary.memories
    assert not open_dump(tmp_path / "dump").whole


def test_history_is_kept_for_the_owners_in_the_filter(tmp_path: Path, mem0_app: Callable[..., App]) -> None:
    app = mem0_app()
    [alices] = app("add", "likes tea", {"user_id": "alice"})
    [bobs] = app("add", "likes rum", {"user_id": "bob"})
    for user in ("alice", "bob"):
        export(
            open_oss(app.config, now=NOW),
            tmp_path / "dump",
            filters=Filters(users=frozenset({user})),
            keep_history=True,
        )
        found = {event["memory_id"] for event in open_dump(tmp_path / "dump").history()}
        assert found == ({alices} if user == "alice" else {alices, bobs})


def test_without_a_history_the_times_of_the_row_make_a_guess(tmp_path: Path) -> None:
    settings = {**sample_config("2.2.1"), "history_db_path": str(tmp_path / "none.db")}

    export(open_oss(settings, now=NOW), tmp_path / "dump")

    found = list(open_dump(tmp_path / "dump").memories())
    assert {"created_at", "updated_at"} == {row.text_at_source for row in found}


def test_since_only_shortens_the_reading(tmp_path: Path) -> None:
    old, new = "2025-01-01T00:00:00.000000Z", "2025-06-01T00:00:00.000000Z"
    rows = [memory("m1"), memory("m2"), memory("m3", updated_at=new)]
    export(Moving([rows], [3, 3]), tmp_path / "dump")
    changed = [memory("m1", updated_at=old, role="user"), memory("m3", "edited", updated_at=new), memory("m4")]

    summary = export(Moving([changed], [3, 3]), tmp_path / "dump", since="2025-05-01T00:00:00.000000Z")

    assert 0 == summary.new
    assert 1 == summary.changed
    assert 0 == summary.deleted
    assert summary.complete
    found = {row.id: row.memory for row in open_dump(tmp_path / "dump").memories()}
    assert {"m1": "likes tea", "m2": "likes tea", "m3": "edited"} == found


@pytest.mark.parametrize("edit", [{"memory": "edited"}, {"hash": "another"}])
def test_a_text_that_changed_while_its_time_did_not_is_a_new_version_in_spite_of_since(
    tmp_path: Path, edit: dict[str, str]
) -> None:
    rows = [memory("m1", hash="one"), memory("m2", hash="two")]
    export(Moving([rows], [2, 2]), tmp_path / "dump")

    summary = export(
        Moving([[replace(rows[0], **edit), rows[1]]], [2, 2]), tmp_path / "dump", since="2025-05-01T00:00:00.000000Z"
    )

    assert 1 == summary.changed
    assert 1 == summary.filtered
    [changed] = [row for row in open_dump(tmp_path / "dump").memories() if row.id == "m1"]
    assert replace(rows[0], **edit) == changed


EDITS = st.dictionaries(
    st.integers(0, 5), st.sampled_from([{"memory": "edited"}, {"hash": "another"}, {"memory": "edited", "hash": "x"}])
)


@settings(max_examples=40, deadline=None)
@given(EDITS, st.sampled_from([None, "2025-05-01T00:00:00.000000Z", "2020-01-01T00:00:00.000000Z"]))
def test_whatever_texts_or_hashes_change_while_no_time_does_they_are_in_the_dump(
    edits: dict[int, dict[str, str]], since: str | None
) -> None:
    rows = [memory(f"m{number}", hash=f"h{number}") for number in range(6)]
    edited = [replace(row, **edits.get(number, {})) for number, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        export(Moving([rows], [6, 6]), Path(folder) / "dump")
        summary = export(Moving([edited], [6, 6]), Path(folder) / "dump", since=since)
        found = {row.id: row for row in open_dump(Path(folder) / "dump").memories()}

    assert {row.id: row for row in edited} == found
    assert len(edits) == summary.changed
    assert 0 == summary.deleted


def test_a_store_that_moved_is_read_again_until_it_adds_up(tmp_path: Path) -> None:
    one, two, three = memory("m1"), memory("m2"), memory("m3")

    summary = export(Moving([[one, two], [one, three]], [3, 2, 2]), tmp_path / "dump")

    assert summary.complete
    assert 2 == summary.memories
    assert {"m1", "m3"} == {row.id for row in open_dump(tmp_path / "dump").memories()}


@pytest.mark.parametrize("counts", [[3, 3, 3, 3], [None, None], [2, 3, 2, 3]])
def test_a_store_that_does_not_add_up_is_kept_but_not_called_complete(tmp_path: Path, counts: list[int | None]) -> None:
    one, two = memory("m1"), memory("m2")
    reporter = NullReporter()

    summary = export(Moving([[one, two]] * 3, counts), tmp_path / "dump", reporter=reporter)

    assert ExitCode.INCOMPLETE == summary.exit_code
    assert not summary.complete
    assert 2 == summary.memories
    assert not open_dump(tmp_path / "dump").complete
    assert 1 == len(reporter.warnings)
    assert reporter.warnings[0].startswith("not complete: ")


def test_rows_that_are_skipped_add_up_and_are_named(tmp_path: Path) -> None:
    rows = [memory("m1"), Skipped("m2", "no text field"), Skipped("", "no id")]

    summary = export(Moving([rows], [3, 3]), tmp_path / "dump")

    assert summary.complete
    assert 2 == summary.skipped_count
    result = summary.to_json()
    assert [{"id": "m2", "reason": "no text field"}, {"id": "", "reason": "no id"}] == result["skipped"]
    assert {"no text field": 1, "no id": 1} == result["skipped_reasons"]


def test_a_row_that_cannot_be_read_makes_it_incomplete(tmp_path: Path) -> None:
    torn = Skipped("m2", "unreadable row: torn", has_content=True)

    summary = export(Moving([[memory("m1"), torn]], [2, 2]), tmp_path / "dump")

    assert ExitCode.INCOMPLETE == summary.exit_code


def test_long_lists_are_cut_and_point_to_the_whole(tmp_path: Path) -> None:
    rows = [Skipped(f"m{number}", "no text field") for number in range(150)]

    result = export(Moving([rows], [150, 150]), tmp_path / "dump").to_json()

    assert 100 == len(result["skipped"])
    assert 150 == result["skipped_count"]
    assert 150 == len(Path(result["skipped_path"]).read_text().splitlines())


def test_the_summary_is_json_and_has_the_promised_fields(tmp_path: Path) -> None:
    result = export(Moving([[memory("m1")]], [1, 1]), tmp_path / "dump").to_json()

    promised = "source complete memories native_count users agents runs skipped new changed deleted dump"
    assert set(promised.split()) <= set(result)
    assert result == json.loads(json.dumps(result))


def test_raw_files_become_a_dump_that_claims_no_scan_of_mem0(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    raw.write_text(json.dumps({"results": [{"id": "m1", "memory": "tea"}], "relations": [{"source": "a"}]}))

    summary = export(FilesReader([raw], now=NOW), tmp_path / "dump")

    dump = open_dump(tmp_path / "dump")
    assert summary.complete is None
    assert ExitCode.DONE == summary.exit_code
    assert summary.native_count is None
    assert 1 == summary.relations
    assert "files" == summary.source
    assert dump.began is None
    assert [{"source": "a"}] == [row for _, row in dump.raw_lines(RELATIONS)]


IDS = st.sampled_from(["a", "b", "c", 1, "1", "", None, "with space", "\x1b[2J", 2.5, True])
TEXTS = st.sampled_from(["likes tea", "", " ", "\x00\x07", "x" * 70_000, None, 5, {"nested": 1}, "same", "same"])
TIMES = st.sampled_from(
    [None, "2025-01-02T03:04:05-08:00", "2025-01-02T03:04:05", 1735787045, 1735787045000, "soon", ""]
)
ODD_ROWS = st.one_of(
    st.fixed_dictionaries(
        {"id": IDS, "memory": TEXTS},
        optional={
            "user_id": IDS,
            "created_at": TIMES,
            "updated_at": TIMES,
            "metadata": st.sampled_from([None, {}, {"id": 1, "memory": "m", "user_id": "other"}, "text", [1]]),
            "expiration_date": st.sampled_from(["2020-01-01", "2099-01-01", "never", 5]),
        },
    ),
    st.fixed_dictionaries({"id": IDS, "payload": st.fixed_dictionaries({"data": TEXTS}, optional={"userId": IDS})}),
    st.just({"id": "e", "payload": {"data": "Berlin", "entity_type": "city", "linked_memory_ids": ["a"]}}),
    st.sampled_from([5, "text", None, [], {}]),
)


@given(rows=st.lists(ODD_ROWS, max_size=12), again=st.booleans())
@settings(max_examples=examples(60), deadline=None)
def test_every_row_is_a_memory_or_is_named_with_a_reason(rows: list[Any], again: bool) -> None:
    """Nothing is silently dropped, doubled or invented."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "odd.json").write_text(json.dumps([{"id": "plain", "memory": "a plain one"}, *rows]))

        summary = export(FilesReader([folder / "odd.json"], now=NOW), folder / "dump")
        if again:
            summary = export(FilesReader([folder / "odd.json"], now=NOW), folder / "dump")
            assert 0 == summary.new
            assert 0 == summary.changed
            assert 0 == summary.deleted

        with open_dump(folder / "dump") as dump:
            found = list(dump.memories())
            named = dump.skipped
        assert len(found) == summary.memories == len({row.id for row in found})
        assert 1 + len(rows) == len(found) + len(named) == len(found) + summary.skipped_count
        assert all(row.reason for row in named)
        given_texts = [row.get("memory", row.get("payload", {}).get("data")) for row in rows if isinstance(row, dict)]
        for row in found:
            origin = [*given_texts, "a plain one"]
            assert any(row.memory == text or row.memory == canonical_json(text) for text in origin)


def test_pages_that_announce_more_are_incomplete(tmp_path: Path) -> None:
    raw = tmp_path / "page.json"
    raw.write_text(json.dumps({"count": 2, "next": "…", "results": [{"id": "m1", "memory": "tea"}]}))

    assert ExitCode.INCOMPLETE == export(FilesReader([raw], now=NOW), tmp_path / "dump").exit_code


def test_a_dump_that_cannot_be_written_is_reported_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError, match="is not a directory"):
        export(Moving([[]], [0, 0]), tmp_path / "file")
    with pytest.raises(InputError, match=r"cannot be written|is not a directory"):
        export(Moving([[]], [0, 0]), tmp_path / "file" / "dump")


def test_a_source_that_suddenly_reads_as_empty_is_an_error_and_sets_no_tombstone(tmp_path: Path) -> None:
    export(Moving([[memory("m1"), memory("m2")]], [2, 2]), tmp_path / "dump")

    with pytest.raises(Incomplete, match=r"reads as empty, but the dump in .* holds 2 memories"):
        export(Moving([[]], [0, 0]), tmp_path / "dump")

    assert 2 == open_dump(tmp_path / "dump").count


class Cut(Moving):
    """A store that stops answering after its rows."""

    def rows(self) -> Iterator[Memory | Skipped]:
        yield from super().rows()
        raise Unreachable("nothing answers any more")

    def relations(self) -> Iterator[Any]:
        raise Unreachable("nothing answers any more")


def test_rows_read_before_the_connection_was_lost_are_kept(tmp_path: Path) -> None:
    export(Moving([[memory("m1"), memory("m2")]], [2, 2]), tmp_path / "dump")
    reporter = NullReporter()

    summary = export(Cut([[memory("m1", "edited")]], [2]), tmp_path / "dump", reporter=reporter)

    assert ExitCode.INCOMPLETE == summary.exit_code
    assert 2 == summary.memories
    assert 1 == summary.changed
    assert 0 == summary.deleted
    assert [
        "nothing answers any more",
        "not complete: the connection to the source was lost; run it again",
    ] == reporter.warnings


FULL = """
import resource, sys
from pathlib import Path
from tests.migration.test_export import Moving, export
from tests.support.dumping import memory
from spectron_migrate.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    export(Moving([[memory(f"m{n}", "x" * 300) for n in range(3000)]], [3000, 3000]), Path(sys.argv[1]))
except InputError as error:
    print(error.message)
"""


def test_a_full_disk_is_reported_and_leaves_the_old_dump(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    export(Moving([[memory("m1")]], [1, 1]), dump)

    def content() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in dump.iterdir() if file.name != ".lock"}  # names its holder

    before = content()

    done = subprocess.run([sys.executable, "-c", FULL, str(dump)], capture_output=True, text=True, check=True)

    assert f"the dump in {dump} cannot be written: File too large\n" == done.stdout
    assert before == content()


SLOW = """
import json, signal, sys, time
from datetime import UTC, datetime
from pathlib import Path
from spectron_migrate.migration.export import run_export
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.records import Filters
from spectron_migrate.reporter import NullReporter

class Reporter(NullReporter):
    def stage(self, name, total=None):
        print("reading", flush=True)
        sys.stdin.readline()

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
reader = open_oss(json.loads(sys.argv[1]), now=datetime.now(UTC))
run_export(reader, Path(sys.argv[2]), filters=Filters(), since=None, keep_history=False, reporter=Reporter(),
           clock=lambda: datetime.now(UTC))
"""


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_while_reading_the_old_dump_stays(tmp_path: Path, by: signal.Signals) -> None:
    settings = sample_config("2.2.1")
    export(open_oss(settings, now=datetime.now(UTC)), tmp_path / "dump")
    before = (tmp_path / "dump" / "manifest.json").read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, json.dumps(settings), str(tmp_path / "dump")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert b"reading\n" == process.stdout.readline()

    os.kill(process.pid, by)
    process.communicate(timeout=30)

    assert process.returncode != 0
    assert before == (tmp_path / "dump" / "manifest.json").read_bytes()
    assert 76 == open_dump(tmp_path / "dump").count
    assert export(open_oss(settings, now=datetime.now(UTC)), tmp_path / "dump").complete
