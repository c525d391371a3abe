"""A self-hosted server is read beyond the thousand rows its listings end at, or said to be cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.errors import ExitCode, InputError, KeyRefused
from spectron_migrate.mem0.open import open_reader, source_info
from spectron_migrate.mem0.served import server as server_module
from spectron_migrate.migration.export import ExportSummary, run_export
from spectron_migrate.records import Filters
from spectron_migrate.reporter import NullReporter
from tests.mem0.conftest import NOW
from tests.mem0.standins import KEY, Row, Server, serving

Start = Callable[..., tuple[Server, dict[str, Any]]]


def row(number: int, **more: Any) -> Row:
    moment = f"2025-01-01T00:00:00.{number:06}+00:00"
    return {
        "id": f"00000000-0000-4000-8000-{number:012}",
        "memory": f"note {number}",
        "hash": "h",
        "metadata": {"seq": number},
        "user_id": "alice",
        "created_at": moment,
        "updated_at": moment,
        **more,
    }


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A server whose listings end at 10 rows."""
    monkeypatch.setattr(server_module, "_LISTING_LIMIT", 10)
    with ExitStack() as stack:

        def start(rows: list[Row], **options: Any) -> tuple[Server, dict[str, Any]]:
            stand_in = Server(rows, **options)
            stand_in.cap = 10
            url = stack.enter_context(serving(stand_in))
            return stand_in, {"server": {"base_url": url, "api_key": KEY}}

        yield start


def export(section: dict[str, Any], path: Path, *, reporter: Any = None, **options: Any) -> ExportSummary:
    asked = {"filters": Filters(), "since": None, "keep_history": False, **options}
    with open_reader(section, now=NOW, sleep=lambda seconds: None) as reader:
        return run_export(reader, path, reporter=reporter or NullReporter(), clock=lambda: datetime.now(UTC), **asked)


def dumped_texts(path: Path) -> dict[str, str]:
    return {memory.id: memory.memory for memory in open_dump(path).memories()}


def texts(rows: list[Row]) -> dict[str, str]:
    return {one["id"]: one["memory"] for one in rows}


def searches(stand_in: Server) -> int:
    return sum(1 for method, path, _ in stand_in.asked if path == "/search")


def test_small_owners_are_listed_and_nothing_is_written(tmp_path: Path, server: Start) -> None:
    rows = [row(number, user_id=f"user-{number % 5}") for number in range(20)]
    rows += [row(30, user_id=None, agent_id="bot"), row(31, user_id=None, run_id="run-1")]
    rows += [row(32, expiration_date="2020-01-01")]
    stand_in, section = server(rows)

    summary = export(section, tmp_path / "dump")

    assert ExitCode.DONE == summary.exit_code
    assert texts(rows) == dumped_texts(tmp_path / "dump")
    assert {"GET"} == {method for method, _, _ in stand_in.asked}


def test_an_administrators_list_is_enough_if_it_is_complete(tmp_path: Path, server: Start) -> None:
    rows = [row(number, user_id=f"user-{number}") for number in range(9)]
    stand_in, section = server(rows, admin=True)

    summary = export(section, tmp_path / "dump")

    assert summary.complete
    assert texts(rows) == dumped_texts(tmp_path / "dump")
    assert 1 == sum(1 for _, path, _ in stand_in.asked if path.startswith("/memories"))


def test_a_long_listing_is_split_by_agent_and_run(tmp_path: Path, server: Start) -> None:
    rows = [row(number, agent_id=f"agent-{number % 3}") for number in range(18)]
    rows += [row(20 + number, run_id="run-1") for number in range(4)]
    stand_in, section = server(rows)

    summary = export(section, tmp_path / "dump")

    assert summary.complete
    assert texts(rows) == dumped_texts(tmp_path / "dump")
    assert 0 == searches(stand_in)


def test_a_listing_that_cannot_be_split_is_read_by_a_search(tmp_path: Path, server: Start) -> None:
    rows = [row(number) for number in range(50)]
    stand_in, section = server(rows)

    summary = export(section, tmp_path / "dump")

    assert summary.complete
    assert texts(rows) == dumped_texts(tmp_path / "dump")
    assert 1 == searches(stand_in)


def test_a_server_that_cannot_search_is_reported_as_incomplete(tmp_path: Path, server: Start) -> None:
    stand_in, section = server([row(number) for number in range(50)])
    stand_in.can_search = False
    reporter = NullReporter()

    summary = export(section, tmp_path / "dump", reporter=reporter)

    assert ExitCode.INCOMPLETE == summary.exit_code
    assert 10 == summary.memories
    warning = " ".join(reporter.warnings)
    assert "the server counts 50 memories of user 'alice' but returned 10" in warning
    assert "pgvector settings" in warning
    assert "40 memories that the source announces were not given" in warning


def test_counts_that_end_too_early_prove_nothing(
    tmp_path: Path, server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_COUNTED_ROWS", 30)
    rows = [row(number) for number in range(40)]
    stand_in, section = server(rows)
    stand_in.scanned = 30

    summary = export(section, tmp_path / "dump")

    assert ExitCode.INCOMPLETE == summary.exit_code
    assert texts(rows) == dumped_texts(tmp_path / "dump")


@pytest.mark.parametrize("every", [2, 3])
def test_trouble_costs_patience_but_no_row(tmp_path: Path, server: Start, every: int) -> None:
    rows = [row(number, user_id=f"user-{number % 5}") for number in range(60)]
    stand_in, section = server(rows)
    stand_in.trouble.every = every

    summary = export(section, tmp_path / "dump")

    assert summary.complete
    assert texts(rows) == dumped_texts(tmp_path / "dump")


def test_a_users_export_asks_for_that_user_alone(tmp_path: Path, server: Start) -> None:
    rows = [row(number, user_id=f"user-{number % 2}") for number in range(40)]
    stand_in, section = server(rows)

    summary = export(section, tmp_path / "dump", filters=Filters(users=frozenset({"user-1"})))

    assert summary.complete
    assert texts([one for one in rows if one["user_id"] == "user-1"]) == dumped_texts(tmp_path / "dump")
    assert not any("user-0" in path for _, path, _ in stand_in.asked)


def test_the_time_of_an_edited_text_comes_from_history(tmp_path: Path, server: Start) -> None:
    rows = [row(1), row(2, updated_at="2025-06-01T00:00:00+00:00")]
    stand_in, section = server(rows)
    change = {"created_at": rows[1]["created_at"], "updated_at": "2025-03-01T00:00:00+00:00"}
    of = {"memory_id": rows[1]["id"]}
    stand_in.histories[rows[1]["id"]] = [
        {**of, "event": "ADD", "old_memory": None, "new_memory": "first", "created_at": rows[1]["created_at"]},
        {**of, "event": "UPDATE", "old_memory": "first", "new_memory": "note 2", **change},
    ]

    export(section, tmp_path / "dump", keep_history=True)

    assert ["ADD", "UPDATE"] == [event["event"] for event in open_dump(tmp_path / "dump").history()]
    came = {memory.id[-1]: memory.text_at for memory in open_dump(tmp_path / "dump").memories()}
    assert "2025-03-01T00:00:00.000000Z" == came["2"]


def test_a_wrong_key_is_reported(server: Start) -> None:
    _, section = server([])
    section["server"]["api_key"] = "wrong"

    with pytest.raises(KeyRefused):
        open_reader(section, now=NOW, sleep=lambda seconds: None)


def test_an_address_with_a_password_is_refused() -> None:
    with pytest.raises(InputError) as error:
        source_info({"server": {"base_url": "https://me:secret@mem0.example"}})

    assert "secret" not in error.value.message + (error.value.hint or "")
