"""What a dry run says a replay would come to; that it is true, and that it writes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.cli.tables import duration
from spectron_migrate.delivery.tokens import estimate_tokens
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from tests.support.here import server_here
from tests.support.spectron import memory, write_raw

STATE = Path(".spectron-migrate")


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def planned(rows: Sequence[dict[str, Any]], capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    dump = str(write_raw(Path("all.json"), rows))
    capsys.readouterr()
    assert 0 == run(["replay", "--dump", dump, "--dry-run", "--json", *words])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def files(folder: Path) -> set[str]:
    """Without what SQLite itself lays beside a file that is read."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("ledger.db-")}


def test_a_plan_needs_no_server_and_leaves_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    answer = planned([memory(1, "alice")], capsys)
    assert 1 == answer["remaining"]
    assert 0 == answer["written"]
    assert answer["dry_run"]
    assert {"all.json"} == {path.name for path in Path().iterdir()}


@pytest.mark.ledger_file  # it looks at the files
def test_a_plan_beside_a_ledger_leaves_it_as_it_is(
    spectron: RunningServer, user: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ENDPOINT", spectron.base_url), ("CONTEXT", spectron.context), ("API_KEY", spectron.api_key)):
        monkeypatch.setenv(f"SPECTRON_{name}", value)
    dump = str(write_raw(Path("all.json"), [memory(1, user)]))
    assert 0 == run(["replay", "--dump", dump, "-q"])
    before = files(STATE)
    monkeypatch.delenv("SPECTRON_CONTEXT")
    answer = planned([memory(1, user), memory(2, user), memory(0, user)], capsys)
    assert 1 == answer["already"]
    assert 2 == answer["remaining"]
    assert 2 == answer["forecast"]["memories"]
    assert 1 == answer["forecast"]["late"]
    assert before == files(STATE)
    with Ledger.open_for_reading(STATE) as ledger:
        assert 1 == ledger.db.execute("SELECT count(*) FROM fact").fetchone()[0]


@pytest.mark.slow
def test_sessions_and_requests_are_those_that_the_replay_then_makes(
    user: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mapping.yaml").write_text(
        "version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {user: '{user_id}'}\nsession: {by: run_id, size: 4}\n"
    )
    rows = [memory(number, f"{user}{number % 3}", run_id=f"r{number % 2}") for number in range(40)]
    rows.append({"id": f"{user}-timeless", "memory": "no time", "user_id": f"{user}0"})
    forecast = planned(rows, capsys, "--mapping", "mapping.yaml")["forecast"]
    with server_here() as server:  # of its own: to list the scopes of other tests takes more requests
        for name, value in (("ENDPOINT", server.base_url), ("CONTEXT", server.context), ("API_KEY", server.api_key)):
            monkeypatch.setenv(f"SPECTRON_{name}", value)
        assert 0 == run(["replay", "--dump", "all.json", "--mapping", "mapping.yaml", "--json"])
    made = json.loads(capsys.readouterr().out)
    assert forecast["sessions"] == made["sessions"]
    assert forecast["memories"] == made["written"]
    assert 41 == forecast["memories"]
    assert 40 == forecast["with_extraction"]
    assert forecast["requests"] <= made["requests"] <= forecast["requests"] + 6


def test_a_batch_is_one_request(capsys: pytest.CaptureFixture[str]) -> None:
    rule = "  - when: {user_id: '*'}\n    scope: {user: '{user_id}'}\n    infer: none\n"
    Path("mapping.yaml").write_text(f"version: 1\nwrite: batch\nsession: {{by: run_id, size: 50}}\nrules:\n{rule}")
    rows = [memory(number, "alice") for number in range(120)]
    forecast = planned(rows, capsys, "--mapping", "mapping.yaml")["forecast"]
    assert 3 == forecast["sessions"]
    assert 2 + 2 + 1 + 3 + 1 == forecast["requests"]


def test_the_largest_lane_bounds_the_time_and_many_lanes_are_bound_by_what_may_be_in_flight(
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = planned([memory(number, "alice") for number in range(30)], capsys)["forecast"]
    assert {"lane": "user/alice", "full": 30, "none": 0} == one["largest_lanes"][0]
    assert 60.0 == one["time"]["seconds"]
    assert "the largest lane" == one["time"]["bound_by"]
    many = [memory(1, f"user{number}") for number in range(40)]
    assert "2 in flight" == planned(many, capsys, "--max-in-flight", "2")["forecast"]["time"]["bound_by"]
    assert "max_rps" == planned(many, capsys, "--max-rps", "0.5")["forecast"]["time"]["bound_by"]


def test_tokens_are_counted_by_rule_from_the_published_stages(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [memory(1, "alice"), memory(2, "alice", agent_id="helper"), memory(3, "alice")]
    tokens = planned(rows, capsys)["forecast"]["tokens"]
    assert {"user/{user_id}": (2, 600, 5800), "user/{user_id}/agent/{agent_id}": (1, 300, 2900)} == {
        rule["scope"]: (rule["memories"], rule["low"], rule["high"]) for rule in tokens["rules"]
    }
    assert 900 == tokens["low"]
    assert 8700 == tokens["high"]


def test_a_long_text_counts_by_its_length() -> None:
    assert (100, 100) == estimate_tokens("short", "none")
    assert (10_000, 10_000) == estimate_tokens("x" * 40_000, "none")
    assert (20_000, 30_000) == estimate_tokens("x" * 40_000, "full")


def test_guessed_times_and_bulk_edits_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    edited = "2025-09-01T10:30:{:02d}+00:00"
    rows = [memory(number, "alice", updated_at=edited.format(number)) for number in range(25)] + [memory(1, "bob")]
    answer = planned(rows, capsys)
    assert {"memories": 25, "scopes": 1, "bulk_minutes": 1} == answer["forecast"]["guessed_times"]
    assert any("as after a bulk edit" in said for said in answer["warnings"])


def test_users_in_several_scopes_are_counted_because_nothing_supersedes_across_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [memory(1, "alice"), memory(2, "alice", agent_id="helper"), memory(1, "bob"), memory(2, "bob")]
    assert 1 == planned(rows, capsys)["forecast"]["users_in_several_scopes"]


def test_likely_contradictions_are_told_by_id_and_never_by_text_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ("Works at Acme", "Works at Initech", "Likes tea")
    rows = [memory(number, "alice", text) for number, text in enumerate(texts, 1)]
    dump = str(write_raw(Path("all.json"), rows))
    assert 0 == run(["replay", "--dump", dump, "--dry-run", "--json"])
    out = capsys.readouterr().out
    found = json.loads(out)["forecast"]["contradictions"]
    assert 1 == found["likely_count"]
    assert 3 == found["compared"]
    assert "alice-0001" == found["likely"][0]["older"]
    assert "alice-0002" == found["likely"][0]["newer"]
    assert "Initech" not in out
    assert 0 == run(["replay", "--dump", dump, "--dry-run"])
    screen = capsys.readouterr().out
    assert "Works at Initech" in screen
    assert "the server decides which fact supersedes which" in screen


def test_mem0s_own_updates_are_told_where_the_dump_has_its_history(capsys: pytest.CaptureFixture[str]) -> None:
    from datetime import UTC, datetime

    from spectron_migrate.dump.writer import DumpWriter
    from spectron_migrate.records import Memory, SourceInfo

    assert planned([memory(1, "alice")], capsys)["forecast"]["mem0_updates"] is None
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with DumpWriter(Path("dump"), SourceInfo("oss", "test"), now) as writer:
        writer.add(Memory("m1", "Works at Initech", user_id="alice", text_at="2025-01-01T00:00:00.000000Z"))
        for event in ("ADD", "UPDATE", "UPDATE"):
            writer.append_line("history.jsonl", {"memory_id": "m1", "event": event})
        writer.commit(complete=True, native_count=1, ended=now)
    assert 0 == run(["replay", "--dry-run", "--json"])
    assert {"memories": 1, "longest": 2} == json.loads(capsys.readouterr().out)["forecast"]["mem0_updates"]


def test_what_is_skipped_is_told_by_reason_and_what_will_not_expire_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        memory(1, "alice"),
        memory(2, "alice", expiration_date="2020-01-01"),
        memory(3, "alice", "  "),
        memory(4, "alice", expiration_date="2099-01-01"),
    ]
    answer = planned(rows, capsys)
    assert {"expired": 1, "empty text": 1} == answer["skipped_by_reason"]
    assert ["alice-0004"] == answer["will_not_expire"]
    assert 1 == answer["will_not_expire_count"]
    assert any("not in Spectron" in warning for warning in answer["warnings"])


def test_the_screen_fits_a_hundred_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [memory(number, "x" * 60, "Works at Initech " + "y" * 100 + str(number)) for number in range(3)]
    dump = str(write_raw(Path("all.json"), rows))
    assert 0 == run(["replay", "--dump", dump, "--dry-run"])
    assert 100 >= max(map(len, capsys.readouterr().out.splitlines()))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (59, "59 s"), (60, "1 min"), (95, "1 min 35 s"), (4000, "1 h 6 min"), (200_000, "2 d 7 h")],
)
def test_a_time_is_told_as_people_say_it(seconds: float, said: str) -> None:
    assert said == duration(seconds)


def test_labels_that_do_not_fit_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mapping = tmp_path / "labelled.yaml"
    mapping.write_text(
        'version: 1\nrules: [{when: {user_id: "*"}, scope: {user: "{user_id}"}}]\n'
        'labels: {a: b, c: d, team: "{metadata.team}", mem0_id: "{id}"}\n'
    )
    rows = [
        memory(1, "alice", metadata={"team": "red"}),
        memory(2, "alice"),
        memory(3, "bob", metadata={"team": "x\ny"}),
    ]

    answer = planned(rows, capsys, "--mapping", str(mapping))

    assert {
        "team: more than 3 labels": 1,
        "team: no value": 1,
        "team: not one line of at most 256 letters": 1,
    } == answer["forecast"]["labels_left_out"]
