"""What differs from run to run: filters, limits, retries, and how many refusals are put up with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, turns_of, write_raw

STATE = Path(".spectron-migrate")


@pytest.fixture
def led_to(spectron: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    monkeypatch.chdir(tmp_path)
    for name, value in (("ENDPOINT", spectron.base_url), ("CONTEXT", spectron.context), ("API_KEY", spectron.api_key)):
        monkeypatch.setenv(f"SPECTRON_{name}", value)
    return spectron


def replay(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert code == run(["replay", "--dump", "all.json", "--json", *words])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_file_of_ids_chooses_users_as_the_ids_themselves_do(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(1, f"{user}{letter}") for letter in "abcd"])
    Path("first.txt").write_bytes(f"\ufeff{user}a\r\n\r\n{user}b\r\n".encode())
    assert 2 == replay(capsys, "--user", "@first.txt")["written"]
    assert [1, 1, 0, 0] == [len(turns_of(led_to, f"{user}{letter}")) for letter in "abcd"]
    answer = replay(capsys, "--user", "@first.txt", "--user", f"{user}c")
    assert (1, 2) == (answer["written"], answer["already"])


def test_every_kind_of_id_that_is_filtered_by_has_to_match(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [memory(1, user, run_id="r1"), memory(2, user, run_id="r2"), memory(3, user, agent_id="helper", run_id="r1")]
    write_raw(Path("all.json"), rows)
    assert 1 == replay(capsys, "--user", user, "--agent", "helper", "--run", "r1")["written"]
    assert 1 == replay(capsys, "--run", "r2")["written"]


def test_a_user_that_the_dump_does_not_know_is_named(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(1, user)])
    answer = replay(capsys, "--user", "alcie")
    assert (0, True) == (answer["planned"], any("no memory of user 'alcie'" in said for said in answer["warnings"]))


@pytest.mark.parametrize("content", [None, "", "\n\n", "\xff"])
def test_a_file_of_ids_without_any_is_refused_before_anything_is_written(
    content: str | None, led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(1, user)])
    if content is not None:
        Path("users.txt").write_bytes(content.encode("latin-1"))
    answer = replay(capsys, "--user", "@users.txt", "--agent", "@agents.txt", code=2)
    assert "users.txt" in answer["error"]["message"]
    assert "agents.txt" in answer["error"]["message"]
    assert not STATE.exists()


def test_older_memories_that_a_filter_leaves_behind_are_counted_before_they_come_late(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(number, user, run_id=f"r{number}") for number in range(3)])
    answer = replay(capsys, "--run", "r2")
    assert any("leave 2 older memories behind" in said for said in answer["warnings"])
    assert 2 == replay(capsys)["late"]


@pytest.mark.parametrize(("allowed", "code"), [(1, 3), (2, 0)])
def test_more_refused_than_the_settings_put_up_with_is_exit_code_3(
    allowed: int,
    code: int,
    led_to: RunningServer,
    user: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(seen: Seen) -> Fault:
        return "400" if b"number 1" in seen.body or b"number 2" in seen.body else "none"

    Path("spectron-migrate.yaml").write_text(f"version: 1\nreplay: {{max_refused: {allowed}}}\n")
    write_raw(Path("all.json"), [memory(number, user) for number in range(4)])
    with misbehaving(led_to.base_url, refuse) as proxy:
        monkeypatch.setenv("SPECTRON_ENDPOINT", proxy.base_url)
        answer = replay(capsys, code=code)
        assert (2, 2) == (answer["written"], answer["refused"])
        rows = [json.loads(line) for line in Path(answer["review"]).read_text().splitlines()]
        assert [f"{user}-0001", f"{user}-0002"] == [row["id"] for row in rows]
        assert {"400 not this one"} == {row["reason"] for row in rows}
        again = replay(capsys, code=code)
        assert (0, 2) == (again["written"], again["refused"])
        proxy.choose = lambda seen: "none"
        mended = replay(capsys, "--retry-failed")
    assert (2, 2, 0, None) == (mended["written"], mended["late"], mended["refused"], mended["review"])
    assert 4 == len(turns_of(led_to, user))


def test_a_limit_leaves_a_remainder_and_says_how_to_go_on(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(number, user) for number in range(5)])
    answer = replay(capsys, "--limit", "2", code=8)
    assert (2, 3, "spectron-migrate replay --dump all.json") == (answer["written"], answer["remaining"], answer["next"])
    assert answer["planned"] == answer["written"] + answer["remaining"]
    assert 3 == replay(capsys, "--limit", "3")["written"]


@pytest.mark.parametrize("word", ["m1", "m1=maybe", "=present"])
def test_a_resolution_that_says_nothing_is_refused(
    word: str, led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(1, user)])
    assert "ID=present or ID=absent" in replay(capsys, "--resolve", word, code=2)["error"]["message"]


def test_what_a_person_found_out_decides_an_undecidable_memory(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(number, user) for number in range(2)])
    assert "is not undecidable" in replay(capsys, "--resolve", "m1=present", code=2)["error"]["message"]
    replay(capsys)
    with Ledger.open_for_writing(STATE) as ledger, ledger.transaction():
        ledger.db.execute("UPDATE fact SET state = 'undecidable', reason = 'nobody knows' WHERE position = 1")
    answer = replay(capsys, code=3)
    assert (1, [f"{user}-0001"]) == (answer["undecidable"], [row["id"] for row in answer["reasons"]])
    assert 0 == replay(capsys, "--resolve", f"{user}-0001=present")["undecidable"]
    assert 2 == len(turns_of(led_to, user))
