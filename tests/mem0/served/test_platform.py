"""The Platform is read whole, or announced_requests not to be, whatever it pages, hides, limits or breaks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.errors import ExitCode, InputError, KeyRefused, Unreachable
from spectron_migrate.mem0.open import open_reader, source_info
from spectron_migrate.mem0.served import platform as platform_reader
from spectron_migrate.mem0.served import platform_listing
from spectron_migrate.migration.export import ExportSummary, run_export
from spectron_migrate.records import Filters, format_time
from spectron_migrate.reporter import NullReporter
from tests.mem0.conftest import NOW
from tests.mem0.standins import KEY, Platform, Row, serving

pytestmark = pytest.mark.slow

ANY_OWNER = Filters()


class Reporter(NullReporter):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)


class Naps:
    """A sleep that only records its calls."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


def row(number: int, **more: Any) -> Row:
    moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=number)
    return {
        "id": f"00000000-0000-4000-8000-{number:012}",
        "memory": f"note {number}",
        "user_id": f"user-{number % 7}",
        "agent_id": None,
        "app_id": None,
        "session_id": None,
        "metadata": {"seq": number},
        "categories": ["food"],
        "created_at": format_time(moment),
        "updated_at": format_time(moment),
        **more,
    }


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_listing, "_WINDOW", 40)
    monkeypatch.setattr(platform_listing, "PAGE", 10)


@pytest.fixture
def platform() -> Iterator[Callable[[list[Row]], tuple[Platform, dict[str, Any]]]]:
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(rows: list[Row]) -> tuple[Platform, dict[str, Any]]:
            stand_in = Platform(rows)
            url = stack.enter_context(serving(stand_in))
            return stand_in, {"platform": {"base_url": url, "api_key": KEY}}

        yield start


def export(
    section: dict[str, Any], path: Path, *, sleep: Any = None, reporter: Any = None, **options: Any
) -> ExportSummary:
    asked = {"filters": ANY_OWNER, "since": None, "keep_history": False, **options}
    with open_reader(section, now=NOW, sleep=sleep or Naps()) as reader:
        return run_export(reader, path, reporter=reporter or NullReporter(), clock=lambda: datetime.now(UTC), **asked)


def dumped_texts(path: Path) -> dict[str, str]:
    return {memory.id: memory.memory for memory in open_dump(path).memories()}


def texts(rows: list[Row]) -> dict[str, str]:
    return {one["id"]: one["memory"] for one in rows}


def test_everything_is_read_in_windows_with_small_page_numbers(tmp_path: Path, platform: Any) -> None:
    rows = [row(number) for number in range(500)]
    stand_in, section = platform(rows)

    summary = export(section, tmp_path / "dump")

    assert ExitCode.DONE == summary.exit_code
    assert 500 == summary.memories
    assert 500 == summary.native_count
    assert texts(rows) == dumped_texts(tmp_path / "dump")
    assert 40 >= stand_in.most_rows_of_a_page_number
    assert {"GET", "POST"} == {method for method, _, _ in stand_in.asked}
    assert {"/v3/memories/", "/v1/ping/", "/v1/stats/"} == {path.split("?")[0] for _, path, _ in stand_in.asked}


def test_expired_rows_and_every_kind_of_owner_are_read(tmp_path: Path, platform: Any) -> None:
    rows = [
        row(1, expiration_date="2020-01-01"),
        row(2, user_id=None, agent_id="bot"),
        row(3, user_id=None, app_id="shop"),
        row(4, user_id=None, session_id="run-1"),
        row(5, session_id="run-1", agent_id="bot"),
        row(6, replaced_by="x"),
    ]
    _, section = platform(rows)

    summary = export(section, tmp_path / "dump")

    assert texts(rows) == dumped_texts(tmp_path / "dump")
    states = {memory.id[-1]: memory.state for memory in open_dump(tmp_path / "dump").memories()}
    assert {"1": "expired", "2": "active", "3": "active", "4": "active", "5": "active", "6": "replaced"} == states
    assert summary.complete
    assert 3 == summary.users
    assert 1 == summary.agents
    assert 1 == summary.runs


@pytest.mark.parametrize("every", [2, 3, 5])
def test_trouble_costs_patience_but_no_row(tmp_path: Path, platform: Any, every: int) -> None:
    rows = [row(number) for number in range(120)]
    stand_in, section = platform(rows)
    stand_in.trouble.every = every
    naps = Naps()

    summary = export(section, tmp_path / "dump", sleep=naps)

    assert summary.complete
    assert texts(rows) == dumped_texts(tmp_path / "dump")
    assert naps.taken


def test_retry_after_is_waited_for(tmp_path: Path, platform: Any) -> None:
    stand_in, section = platform([row(1)])
    stand_in.trouble.every, stand_in.trouble.ways = 2, ("429",)
    naps = Naps()

    export(section, tmp_path / "dump", sleep=naps)

    assert {1.0} == set(naps.taken)


def test_hidden_rows_are_found_by_listing_the_owners_with_missing_rows(tmp_path: Path, platform: Any) -> None:
    rows = [row(number, session_id=f"run-{number % 9}" if number % 3 == 0 else None) for number in range(90)]
    stand_in, section = platform(rows)
    stand_in.hidden = lambda one: one["session_id"] is not None
    reporter = Reporter()

    summary = export(section, tmp_path / "dump", reporter=reporter)

    assert summary.complete
    assert texts(rows) == dumped_texts(tmp_path / "dump")
    [announced] = [line for line in reporter.lines if "asking" in line]
    assert "the Platform counts 90 memories, its listing gave 60: asking 3 owners (run) 100 at a time: " in announced
    assert "about 4 requests or more, which count against the quota of the plan" in announced


@pytest.mark.parametrize("is_understood", ["yes", "no", "wrongly"])
def test_hidden_rows_of_many_owners_are_requested_together_if_the_platform_can_do_that(
    tmp_path: Path, platform: Any, monkeypatch: pytest.MonkeyPatch, is_understood: str
) -> None:
    monkeypatch.setattr(platform_reader, "_OWNERS_PER_REQUEST", 10)
    rows = [row(number, user_id=None, session_id=f"run-{number % 60}") for number in range(180)]
    stand_in, section = platform(rows)
    stand_in.understands_in = is_understood
    stand_in.hidden = lambda one: one["session_id"] is not None

    summary = export(section, tmp_path / "dump")

    assert summary.complete
    assert texts(rows) == dumped_texts(tmp_path / "dump")
    by_owner = [body for _, path, body in stand_in.asked if "memories" in path and "run-" in str(body)]
    assert (len(by_owner) < 120) == (is_understood == "yes")


def test_as_many_requests_are_sent_as_were_announced(tmp_path: Path, platform: Any) -> None:
    """In pages of 10 and windows of 40; in the Platform's own 3 million memories of 200,000 users take 20,006."""
    stand_in, section = platform([row(number, user_id=f"user-{number % 400}") for number in range(1200)])
    reporter = Reporter()

    export(section, tmp_path / "dump", reporter=reporter)

    announced_requests = platform_listing.requests_for(1200)
    assert 0.8 * announced_requests < len(stand_in.asked) < 1.2 * announced_requests
    assert any(f"1,200 memories: about {announced_requests:,} requests or more" in line for line in reporter.lines)


def test_requests_grow_with_the_memories_and_not_with_their_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_listing, "_WINDOW", 2000)
    monkeypatch.setattr(platform_listing, "PAGE", 200)

    assert 20_006 == platform_listing.requests_for(3_000_000)


def test_rows_added_during_the_scan_with_an_older_time_cost_only_their_window(tmp_path: Path, platform: Any) -> None:
    rows = [row(number) for number in range(600)]
    stand_in, section = platform(rows)
    export(section, tmp_path / "still")
    asked = len(stand_in.asked)
    late = row(3, id="late")
    stand_in.before_answer = lambda number: stand_in.memories.update(late=late) if number == asked + 100 else None

    export(section, tmp_path / "dump")

    assert texts([*rows, late]) == dumped_texts(tmp_path / "dump")
    assert len(stand_in.asked) - asked < 1.6 * asked


def test_a_platform_that_proves_nothing_is_never_complete(tmp_path: Path, platform: Any) -> None:
    stand_in, section = platform([row(number) for number in range(20)])
    stand_in.has_stats = stand_in.has_entities = False
    reporter = NullReporter()

    summary = export(section, tmp_path / "dump", reporter=reporter)

    assert ExitCode.INCOMPLETE == summary.exit_code
    assert 20 == summary.memories
    assert any("nothing proves the listing" in warning for warning in reporter.warnings)


def test_hidden_rows_of_owners_that_were_seen_are_found_too(tmp_path: Path, platform: Any) -> None:
    rows = [row(number, user_id="alice") for number in range(30)]
    stand_in, section = platform(rows)
    stand_in.hidden = lambda one: one["metadata"]["seq"] % 2 == 1

    summary = export(section, tmp_path / "dump")

    assert summary.complete
    assert texts(rows) == dumped_texts(tmp_path / "dump")


@pytest.mark.parametrize("path", ["/v3/memories/", "/v1/entities/", "/v1/memories/events/"])
def test_a_platform_that_gives_one_page_for_ever_is_not_read_for_ever(tmp_path: Path, platform: Any, path: str) -> None:
    stand_in, section = platform([row(number, user_id="alice") for number in range(30)])
    stand_in.hidden = lambda one: one["metadata"]["seq"] % 2 == 1  # so that the owners are asked for
    stand_in.events = [{"memory_id": "gone", "event": "DELETE", "old_memory": "was here", "new_memory": None}]
    stand_in.stats_more = 3 if path == "/v1/entities/" else 0
    answer = stand_in.answer

    def first_page(method: str, at: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if at != path:
            return answer(method, at, query, body)
        assert len(stand_in.asked) < 3000
        status, found = answer(method, at, {**query, "page": "1"}, body)
        return status, {**found, "next": "more"}

    stand_in.answer = first_page
    reporter = NullReporter()
    summary = export(section, tmp_path / "dump", keep_history=True, reporter=reporter)
    assert (path == "/v1/memories/events/") == bool(summary.complete)
    assert any("does not end" in warning for warning in reporter.warnings)


def test_statistics_that_know_more_make_it_incomplete(tmp_path: Path, platform: Any) -> None:
    stand_in, section = platform([row(number) for number in range(20)])
    stand_in.stats_more = 3
    reporter = NullReporter()

    summary = export(section, tmp_path / "dump", reporter=reporter)

    assert ExitCode.INCOMPLETE == summary.exit_code
    assert 20 == summary.memories
    assert 23 == summary.native_count
    assert any("3 memories" in warning for warning in reporter.warnings)


def test_without_statistics_the_owners_prove_it(tmp_path: Path, platform: Any) -> None:
    rows = [row(number, session_id="run-1" if number == 7 else None) for number in range(20)]
    stand_in, section = platform(rows)
    stand_in.has_stats = False
    stand_in.hidden = lambda one: one["session_id"] is not None

    summary = export(section, tmp_path / "dump")

    assert summary.complete
    assert texts(rows) == dumped_texts(tmp_path / "dump")
    assert summary.native_count is None


def test_a_platform_without_a_filter_by_time_is_paged_through(tmp_path: Path, platform: Any) -> None:
    rows = [row(number) for number in range(100)]
    stand_in, section = platform(rows)
    stand_in.filters_by_time = False

    summary = export(section, tmp_path / "dump")

    assert summary.complete
    assert texts(rows) == dumped_texts(tmp_path / "dump")


def test_rows_without_a_time_or_all_of_one_moment_are_read(tmp_path: Path, platform: Any) -> None:
    rows = [row(1, created_at=None, updated_at=None), *(row(5) | {"id": f"same-{number}"} for number in range(90))]
    _, section = platform(rows)

    summary = export(section, tmp_path / "dump")

    assert summary.complete
    assert texts(rows) == dumped_texts(tmp_path / "dump")


def test_rows_added_changed_and_deleted_during_the_scan_end_as_they_are(tmp_path: Path, platform: Any) -> None:
    rows = [row(number) for number in range(150)]
    stand_in, section = platform(rows)
    chance = random.Random(1)

    def live(number: int) -> None:
        now = format_time(datetime.now(UTC))
        if number % 3 == 0:
            fresh = row(1000 + number, created_at=now, updated_at=now)
            stand_in.memories[fresh["id"]] = fresh
        if number % 4 == 0:
            one = chance.choice(sorted(stand_in.memories))
            stand_in.memories[one] = {**stand_in.memories[one], "memory": f"edited {number}", "updated_at": now}
        if number % 10 == 5 and number < 60:
            stand_in.memories.pop(sorted(stand_in.memories)[number], None)

    stand_in.before_answer = live
    export(section, tmp_path / "dump")
    stand_in.before_answer = lambda number: None

    held = texts(list(stand_in.memories.values()))
    given = dumped_texts(tmp_path / "dump")
    original = texts(rows)
    assert {one for one in original if one in held} <= set(given)
    again = export(section, tmp_path / "dump")
    assert again.complete
    assert held == dumped_texts(tmp_path / "dump")


def test_an_interrupted_scan_is_resumed(tmp_path: Path, platform: Any) -> None:
    rows = [row(number) for number in range(400)]
    stand_in, section = platform(rows)
    export(section, tmp_path / "whole")
    whole = len(stand_in.asked)
    stand_in.asked.clear()
    stand_in.trouble.down_after = stand_in.trouble._count + whole // 2
    reporter = NullReporter()

    cut = export(section, tmp_path / "dump", reporter=reporter)

    assert ExitCode.INCOMPLETE == cut.exit_code
    assert not open_dump(tmp_path / "dump").complete
    assert 0 < cut.memories < 400
    assert "gave no usable answer" in reporter.warnings[0]
    began = open_dump(tmp_path / "dump").began
    stand_in.trouble.down_after = None
    stand_in.asked.clear()

    summary = export(section, tmp_path / "dump")

    assert summary.complete
    assert texts(rows) == dumped_texts(tmp_path / "dump")
    assert len(stand_in.asked) < 0.75 * whole
    assert began is not None
    assert open_dump(tmp_path / "dump").manifest.scan_began[:19] <= began[:19]
    assert not (tmp_path / "dump" / ".scan").exists()


def test_pages_of_another_scan_are_not_used(tmp_path: Path, platform: Any) -> None:
    stand_in, section = platform([row(number) for number in range(200)])
    stand_in.trouble.down_after = 40
    export(section, tmp_path / "dump")
    stand_in.trouble.down_after = None
    stand_in.memories = {one["id"]: one for one in [row(number, memory="other") for number in range(5)]}
    stand_in.project = "project-2"

    with pytest.raises(InputError, match="holds a dump of another source"):
        export(section, tmp_path / "dump")


def test_a_platform_that_is_down_leaves_the_dump_alone(tmp_path: Path, platform: Any) -> None:
    stand_in, section = platform([row(1)])
    export(section, tmp_path / "dump")
    before = (tmp_path / "dump" / "manifest.json").read_bytes()
    stand_in.trouble.down_after = 0

    with pytest.raises(Unreachable):
        export(section, tmp_path / "dump")

    assert before == (tmp_path / "dump" / "manifest.json").read_bytes()


def test_a_users_export_asks_for_that_user_alone(tmp_path: Path, platform: Any) -> None:
    rows = [row(number, session_id="run-1" if number % 2 else None) for number in range(70)]
    _, section = platform(rows)

    summary = export(section, tmp_path / "dump", filters=Filters(users=frozenset({"user-3"})))

    assert texts([one for one in rows if one["user_id"] == "user-3"]) == dumped_texts(tmp_path / "dump")
    assert summary.complete
    assert 0 == summary.filtered


def test_since_requests_only_what_changed(tmp_path: Path, platform: Any) -> None:
    rows = [row(number) for number in range(300)]
    stand_in, section = platform(rows)
    export(section, tmp_path / "dump")
    edited = {**rows[10], "memory": "edited", "updated_at": "2026-11-01T00:00:00.000000Z"}
    stand_in.memories[edited["id"]] = edited
    stand_in.asked.clear()

    summary = export(section, tmp_path / "dump", since="2026-10-01T00:00:00.000000Z")

    assert 1 == summary.changed
    assert 0 == summary.deleted
    assert summary.complete
    assert "edited" == dumped_texts(tmp_path / "dump")[edited["id"]]
    assert len(stand_in.asked) < 8


def test_the_time_of_an_edited_text_comes_from_history(tmp_path: Path, platform: Any) -> None:
    rows = [row(1), row(2, updated_at="2024-06-01T00:00:00.000000Z"), row(3, updated_at="2024-06-01T00:00:00.000000Z")]
    stand_in, section = platform(rows)
    add = {"event": "ADD", "old_memory": None, "created_at": "2024-01-01T00:00:00Z"}
    stand_in.histories = {
        rows[1]["id"]: [
            {**add, "new_memory": "first"},
            {"event": "UPDATE", "old_memory": "first", "new_memory": "note 2", "created_at": "2024-03-01T00:00:00Z"},
            {"event": "UPDATE", "old_memory": "note 2", "new_memory": "note 2", "created_at": "2024-06-01T00:00:00Z"},
        ],
        rows[2]["id"]: [{**add, "new_memory": "something else"}],
    }
    stand_in.events = [{"memory_id": "gone", "event": "DELETE", "old_memory": "was here", "new_memory": None}]

    export(section, tmp_path / "dump", keep_history=True)

    dump = open_dump(tmp_path / "dump")
    came = {memory.id[-1]: (memory.text_at, memory.text_at_source) for memory in dump.memories()}
    assert (rows[0]["created_at"], "created_at") == came["1"]
    assert ("2024-03-01T00:00:00.000000Z", "history") == came["2"]
    assert ("2024-06-01T00:00:00.000000Z", "updated_at") == came["3"]
    assert ["gone"] == [event["memory_id"] for event in dump.history()]


def test_a_platform_without_a_list_of_changes_is_exported_all_the_same(tmp_path: Path, platform: Any) -> None:
    stand_in, section = platform([row(1)])
    stand_in.has_events = False
    reporter = NullReporter()

    summary = export(section, tmp_path / "dump", keep_history=True, reporter=reporter)

    assert summary.complete
    assert 1 == summary.memories
    assert ["the history was not kept completely"] == [warning.split(":")[0] for warning in reporter.warnings]


@pytest.mark.parametrize("key", ["wrong", None])
def test_a_wrong_or_missing_key_is_reported_and_never_shown(platform: Any, key: str | None) -> None:
    _, section = platform([])
    section["platform"]["api_key"] = key

    with pytest.raises(KeyRefused) as error:
        open_reader(section, now=NOW, sleep=Naps())

    assert "wrong" not in error.value.message


def test_the_source_is_known_from_the_settings_and_holds_no_key(platform: Any) -> None:
    _, section = platform([])
    info = source_info(section)

    with open_reader(section, now=NOW, sleep=Naps()) as reader:
        assert info.identity == reader.info.identity
        assert "project-1" == reader.info.provider
        assert KEY not in repr(reader) + repr(vars(reader)) + repr(info)


def test_http_away_from_this_machine_is_refused() -> None:
    with pytest.raises(InputError, match="is not https"):
        open_reader({"platform": {"base_url": "http://mem0.example", "api_key": KEY}}, now=NOW)
