"""The options of `replay`: filters, limits, retries, answers of a person, and how many refusals are tolerated."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from tests.cli.support import command_line, environment_for
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, turns_of, write_raw

pytestmark = pytest.mark.slow

STATE = Path(".spectron-migrate")
BATCH_MAPPING = 'version: 1\nwrite: batch\nrules:\n  - when: {user_id: "*"}\n    scope: {user: "{user_id}"}\n'


def replay(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert code == run(["replay", "--dump", "all.json", "--json", *words])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_file_of_ids_selects_users_as_the_ids_themselves_do(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(1, f"{user}{letter}") for letter in "abcd"])
    Path("first.txt").write_bytes(f"\ufeff{user}a\r\n\r\n{user}b\r\n".encode())
    assert 2 == replay(capsys, "--user", "@first.txt")["written"]
    assert [1, 1, 0, 0] == [len(turns_of(configured, f"{user}{letter}")) for letter in "abcd"]
    again = replay(capsys, "--user", "@first.txt", "--user", f"{user}c")
    assert 1 == again["written"]
    assert 2 == again["already"]


def test_the_hint_after_a_lost_ledger_works_as_it_is_typed(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(number, user) for number in range(3)])
    replay(capsys, "--state", "first state")

    assert run(["replay", "--dump", "all.json", "--json", "--state", "lost state"]) in (2, 10)
    refused = json.loads(capsys.readouterr().out)
    typed = "replay --state 'lost state' --dump all.json --adopt"
    assert f"spectron-migrate {typed}" in refused["error"]["hint"]
    planned = replay(capsys, "--state", "lost state", "--dry-run", "--adopt")
    assert planned["next"].endswith("--adopt")
    assert (3, 2, 7) == tuple(planned["adoption"][name] for name in ("memories", "requests_low", "requests_high"))
    assert 0 == run([*shlex.split(typed), "--json"])

    done = json.loads(capsys.readouterr().out)
    assert (3, 0, 3) == (done["already"], done["written"], done["adoption"]["adopted"])
    assert 3 == len(turns_of(configured, user))
    assert 3 == replay(capsys, "--state", "lost state")["already"]


@pytest.mark.usefixtures("configured")
def test_a_memory_has_to_match_every_kind_of_filter(user: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [memory(1, user, run_id="r1"), memory(2, user, run_id="r2"), memory(3, user, agent_id="helper", run_id="r1")]
    write_raw(Path("all.json"), rows)
    assert 1 == replay(capsys, "--user", user, "--agent", "helper", "--run", "r1")["written"]
    assert 1 == replay(capsys, "--run", "r2")["written"]


@pytest.mark.usefixtures("configured")
def test_a_warning_names_a_user_that_the_dump_does_not_have(user: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(Path("all.json"), [memory(1, user)])
    answer = replay(capsys, "--user", "alcie", "--user", user)
    assert 1 == answer["planned"]
    assert [] != [warning for warning in answer["warnings"] if "no memory of user 'alcie'" in warning]


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("content", [None, "", "\n\n", "\xff"])
def test_a_file_without_ids_is_refused_before_anything_is_written(
    content: str | None, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(1, user)])
    if content is not None:
        Path("users.txt").write_bytes(content.encode("latin-1"))
    answer = replay(capsys, "--user", "@users.txt", "--agent", "@agents.txt", code=2)
    assert "users.txt" in answer["error"]["message"]
    assert "agents.txt" in answer["error"]["message"]
    assert not STATE.exists()


@pytest.mark.usefixtures("configured")
def test_older_memories_that_a_filter_leaves_out_are_counted_before_they_come_late(
    user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(number, user, run_id=f"r{number}") for number in range(3)])
    answer = replay(capsys, "--run", "r2")
    assert [] != [warning for warning in answer["warnings"] if "leave out 2 older memories" in warning]
    assert 2 == replay(capsys)["late"]


@pytest.mark.parametrize(("allowed", "code"), [(1, 3), (2, 0)])
def test_more_refusals_than_the_settings_allow_are_exit_code_3(
    allowed: int,
    code: int,
    configured: RunningServer,
    user: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(seen: Seen) -> Fault:
        return "400" if b"number 1" in seen.body or b"number 2" in seen.body else "none"

    Path("spectron-migrate.yaml").write_text(f"version: 1\nreplay: {{max_refused: {allowed}}}\n")
    write_raw(Path("all.json"), [memory(number, user) for number in range(4)])
    with misbehaving(configured.base_url, refuse) as proxy:
        monkeypatch.setenv("SPECTRON_ENDPOINT", proxy.base_url)
        first = replay(capsys, code=code)
        assert 2 == first["written"]
        assert 2 == first["refused"]
        rows = [json.loads(line) for line in Path(first["review"]).read_text().splitlines()]
        assert [f"{user}-0001", f"{user}-0002"] == [row["id"] for row in rows]
        assert {"400 not this one"} == {row["reason"] for row in rows}
        again = replay(capsys, code=code)
        assert 0 == again["written"]
        assert 2 == again["refused"]
        proxy.choose = lambda seen: "none"
        retried = replay(capsys, "--retry-failed")
    assert 2 == retried["written"]
    assert 2 == retried["late"]
    assert 0 == retried["refused"]
    assert retried["review"] is None
    assert 4 == len(turns_of(configured, user))


@pytest.mark.usefixtures("configured")
def test_a_limit_leaves_a_remainder_and_names_the_command_that_continues(
    user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(number, user) for number in range(5)])
    answer = replay(capsys, "--limit", "2", code=8)
    assert 2 == answer["written"]
    assert 3 == answer["remaining"]
    assert 5 == answer["planned"]
    assert "spectron-migrate replay --dump all.json" == answer["next"]
    assert 3 == replay(capsys, "--limit", "3")["written"]


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("word", ["m1", "m1=maybe", "=present"])
def test_a_resolution_without_id_or_answer_is_refused(word: str, user: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(Path("all.json"), [memory(1, user)])
    assert (
        "ID=present, ID=absent, ID=newer or ID=older" in replay(capsys, "--resolve", word, code=2)["error"]["message"]
    )


def test_the_answer_of_a_person_decides_an_undecidable_memory(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(number, user) for number in range(2)])
    assert "is not undecidable" in replay(capsys, "--resolve", "m1=present", code=2)["error"]["message"]
    replay(capsys)
    with Ledger.open_for_writing(STATE) as ledger, ledger.transaction():
        ledger.db.execute("UPDATE fact SET state = 'undecidable', reason = 'nobody knows' WHERE position = 1")
    answer = replay(capsys, code=3)
    assert 1 == answer["undecidable"]
    assert [f"{user}-0001"] == [row["id"] for row in answer["reasons"]]
    assert 0 == replay(capsys, "--resolve", f"{user}-0001=present")["undecidable"]
    assert 2 == len(turns_of(configured, user))


@pytest.mark.usefixtures("configured")
def test_batches_with_extraction_need_accept_expiry(user: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(Path("all.json"), [memory(number, user) for number in range(3)])
    Path("mapping.yaml").write_text(BATCH_MAPPING)
    refused = replay(capsys, "--mapping", "mapping.yaml", code=2)
    assert "--accept-expiry" in refused["error"]["message"] + refused["error"]["hint"]
    accepted = replay(capsys, "--mapping", "mapping.yaml", "--accept-expiry", "--max-rps", "100")
    assert 3 == accepted["written"]


@pytest.mark.slow
def test_a_second_process_on_the_same_ledger_is_refused_naming_the_first(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])
    words = command_line("replay", "--dump", str(dump), "--json")
    second: list[subprocess.CompletedProcess[str]] = []

    def start_another(seen: Seen) -> Fault:
        if seen.path.endswith("/facts") and not second:
            environment = environment_for(spectron)
            second.append(
                subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            )
        return "none"

    with misbehaving(spectron.base_url, start_another) as proxy:
        first = subprocess.Popen(
            words,
            cwd=tmp_path,
            env=environment_for(spectron, proxy.base_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        first.communicate(timeout=90)
    assert 0 == first.returncode
    assert 9 == second[0].returncode
    assert str(first.pid) in json.loads(second[0].stdout)["error"]["message"]
    assert 20 == len(turns_of(spectron, user))


@pytest.mark.parametrize(("answer", "texts"), [("newer", ["likes tea", "likes coffee"]), ("older", ["likes tea"])])
def test_an_edit_with_an_unchanged_time_is_named_and_a_person_decides(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str], answer: str, texts: list[str]
) -> None:
    write_raw(Path("all.json"), [memory(1, user, "likes tea")])
    replay(capsys)
    write_raw(Path("all.json"), [memory(1, user, "likes coffee")])
    found = replay(capsys, code=3)
    assert 1 == found["pending"]
    assert 1 == found["undecidable"]
    assert [(f"{user}-0001", "pending")] == [(row["id"], row["state"]) for row in found["reasons"]]
    (reviewed,) = [json.loads(line) for line in Path(found["review"]).read_text().splitlines()]
    assert "likes coffee" == reviewed["memory"]["memory"]
    run(["status"])
    assert f"spectron-migrate replay --dump all.json --resolve {user}-0001=newer" in capsys.readouterr().out
    decided = replay(capsys, "--resolve", f"{user}-0001={answer}")
    assert 0 == decided["pending"]
    assert texts == [turn.content for turn in turns_of(configured, user)]
    assert 0 == replay(capsys)["pending"]


@pytest.mark.usefixtures("configured")
def test_a_mapping_that_lies_there_and_is_not_in_force_is_warned_of(
    user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(1, user)])
    Path("mapping.yaml").write_text('version: 1\nrules:\n  - when: {user_id: "*"}\n    scope: {org: "{user_id}"}\n')
    (warning,) = [text for text in replay(capsys, "--dry-run")["warnings"] if "mapping.yaml" in text]
    assert warning.endswith("mapping.yaml is not in force; in force: the built-in rules")
    answer = replay(capsys, "--dry-run", "--mapping", "mapping.yaml")
    assert [] == [text for text in answer["warnings"] if "mapping.yaml" in text]


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("is_exported", [True, False])
def test_what_a_dump_left_out_although_it_had_a_text_is_counted_and_named(
    user: str, capsys: pytest.CaptureFixture[str], is_exported: bool
) -> None:
    of_another = {**memory(1, user), "user_id": f"{user}b"}
    rows = [memory(1, user), of_another, {"memory": "without an id"}]
    for row, name in zip(rows, "abc", strict=True):
        write_raw(Path(f"{name}.json"), [row] if "id" in row else [row, memory(2, user)])
    files = [word for name in "abc" for word in ("--dump", f"{name}.json")]
    if is_exported:
        froms = [word.replace("--dump", "--from") for word in files]
        assert 11 == run(["export", *froms, "--dump", "dump", "--json"])
        files = ["--dump", "dump"]
    capsys.readouterr()
    assert 0 == run(["replay", *files, "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert 2 == answer["written"]
    assert 2 == answer["skipped"]
    assert 4 == answer["planned"]
    assert {"the same id with another owner": 1, "a text without an id": 1} == answer["skipped_by_reason"]
    [warning] = [one for one in answer["warnings"] if "will not be written: " in one]
    assert "another owner" in warning
    assert "without an id" in warning
