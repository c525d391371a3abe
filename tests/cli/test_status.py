"""`status`: the state and the next command, after every way in which a run can end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.cli.migration_state import State
from spectron_migrate.cli.status import choices, next_command
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read.plans import NamedFact
from spectron_migrate.ledger.read.status import MigrationStatus
from spectron_migrate.ledger.runs import last_run
from spectron_migrate.local.testing import RunningServer
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, register_scope, write_raw

STATE = Path(".spectron-migrate")


@pytest.fixture(autouse=True)
def narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")


def status(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert code == run(["status", "--json"])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def dump_of(rows: list[dict[str, Any]]) -> str:
    return str(write_raw(Path("all.json"), rows))


def test_without_a_ledger_it_asks_whether_the_directory_is_the_right_one(
    configured: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commonest cause is a wrong directory: the first advice must not be a command that writes."""
    assert 2 == run(["status"])
    assert "hint: is this the right directory, or the right --state?" in capsys.readouterr().err


def test_before_the_first_replay_the_dump_comes_first(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ledger.open_for_writing(STATE) as ledger, ledger.transaction():  # as `doctor --probe` does
        ledger.db.execute("INSERT INTO probe(endpoint, context, question, answer, at) VALUES ('e', 'c', 'q', 'a', 't')")
    assert "spectron-migrate export" == status(capsys)["next"]
    dump_of([memory(1, user)])
    assert 0 == run(["export", "--from", "all.json", "-q"])
    assert "spectron-migrate replay" == status(capsys)["next"]


def test_memories_of_the_dump_that_no_replay_planned_are_not_called_written(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A replay of one user writes all that it was asked to: nothing remains of that, and most of the dump does."""
    dump_of(
        [*(memory(number, f"{user}a") for number in range(2)), *(memory(number, f"{user}b") for number in range(3))]
    )
    assert 0 == run(["export", "--from", "all.json", "-q"])
    assert 0 == run(["replay", "--user", f"{user}a", "-q"])
    answer = status(capsys)
    assert 3 == answer["not_planned"]
    assert "spectron-migrate replay" == answer["next"]
    assert 0 == run(["status"])
    screen = capsys.readouterr().out
    assert "2 of the dump's 5 memories planned, 100 % of these written" in screen
    assert "not planned yet" in screen
    assert "3 of the 5 memories in dump" in screen
    assert 0 == run(["replay", "-q"])
    answer = status(capsys)
    assert answer["not_planned"] is None
    assert "spectron-migrate dual-verify" == answer["next"]


def test_a_dump_that_changed_since_it_was_planned_leads_to_a_replay(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dump_of([memory(1, user)])
    assert 0 == run(["export", "--from", "all.json", "-q"])
    assert 0 == run(["replay", "-q"])
    dump_of([memory(1, user, text="It changed.", updated_at="2026-11-01T00:00:00Z")])
    assert 0 == run(["export", "--from", "all.json", "-q"])
    answer = status(capsys)
    assert 0 == answer["not_planned"]
    assert "spectron-migrate replay" == answer["next"]


def test_what_is_stored_and_not_extracted_is_a_part_of_what_is_written(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `replay` counts it."""
    assert 0 == run(["replay", "--dump", dump_of([memory(number, user) for number in range(3)]), "-q"])
    with Ledger.open_for_writing(STATE) as ledger, ledger.transaction():
        ledger.db.execute("UPDATE fact SET state = 'written'")
        ledger.db.execute("UPDATE fact SET state = 'stored_not_extracted' WHERE position = 0")
    capsys.readouterr()
    assert 0 == run(["status"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["written", "3"] in rows
    assert ["stored,", "not", "extracted", "1"] in rows


def test_it_shows_what_remains_by_lane_and_the_rate_of_the_last_run(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [memory(number, f"{user}a") for number in range(8)] + [memory(number, f"{user}b") for number in range(2)]
    rows.append(memory(9, f"{user}c", expiration_date="2020-01-01"))
    assert 8 == run(["replay", "--dump", dump_of(rows), "--limit", "4", "-q"])
    answer = status(capsys)
    assert 6 == answer["states"]["planned"]
    assert 1 == answer["states"]["skipped"]
    assert {"expired": 1} == answer["skipped_by_reason"]
    assert 6 == sum(lane["remaining"] for lane in answer["largest_lanes"])
    assert answer["lanes_left"] == len(answer["largest_lanes"])
    (last,) = answer["runs"]
    assert 4 == last["written"]
    assert last["at_work"] is False
    assert "limit" in last["stopped"] or "number" in last["stopped"]
    assert last["a_second"] > 0
    assert "spectron-migrate replay --dump all.json" == answer["next"]
    assert 0 == run(["replay", "--dump", "all.json", "-q"])
    answer = status(capsys)
    assert [] == answer["largest_lanes"]
    assert "spectron-migrate dual-verify --dump all.json" == answer["next"]
    assert 1 == len(answer["runs"])


def test_what_is_skipped_does_not_keep_it_below_100_percent(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expired = [memory(number, user, expiration_date="2020-01-01") for number in range(2, 9)]
    assert 0 == run(["replay", "--dump", dump_of([memory(1, user), *expired]), "-q"])
    capsys.readouterr()
    assert 0 == run(["status"])
    shown = capsys.readouterr().out
    assert "100 % written" in shown
    assert "7 (expired 7)" in shown


def test_it_shows_refused_memories_with_the_answer_of_the_server_and_the_next_command(
    configured: RunningServer, user: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(seen: Seen) -> Fault:
        return "400" if b"number 1" in seen.body else "none"

    with misbehaving(configured.base_url, refuse) as proxy:
        monkeypatch.setenv("SPECTRON_ENDPOINT", proxy.base_url)
        assert 3 == run(["replay", "--dump", dump_of([memory(number, user) for number in range(3)]), "-q"])
    answer = status(capsys)
    assert [{"id": f"{user}-0001", "state": "refused", "reason": "400 not this one"}] == answer["reasons"]
    assert "spectron-migrate replay --dump all.json --retry-failed" == answer["next"]
    assert 0 == run(["status"])
    screen = capsys.readouterr().out
    assert "400 not this one" in screen
    assert 100 >= max(map(len, screen.splitlines()))


def test_an_undecidable_memory_comes_first_because_it_holds_its_lane(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == run(["replay", "--dump", dump_of([memory(number, user) for number in range(3)]), "-q"])
    with Ledger.open_for_writing(STATE) as ledger, ledger.transaction():
        ledger.db.execute("UPDATE fact SET state = 'refused', reason = '400 no' WHERE position = 0")
        ledger.db.execute("UPDATE fact SET state = 'undecidable', reason = 'nobody knows' WHERE position = 1")
    answer = status(capsys)
    assert ["undecidable", "refused"] == [row["state"] for row in answer["reasons"]]
    assert answer["next"] is None
    assert 0 == run(["status"])
    words = " ".join(capsys.readouterr().out.split())
    assert f"spectron-migrate replay --dump all.json --resolve {user}-0001=present it is in Spectron" in words
    assert f"--resolve {user}-0001=absent it is not" in words
    assert 2 == answer["reasons_count"]


def test_it_shows_a_killed_run_and_one_that_is_running(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == run(["replay", "--dump", dump_of([memory(1, user)]), "-q"])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with Ledger.open_for_writing(STATE) as ledger:
        run_ = last_run(ledger)
        assert run_ is not None
        for process in (gone.pid, run_.process):
            detail = json.dumps({"began": run_.began, "process": process, "plan": 1, "stored_before": 0})
            with ledger.transaction():
                ledger.db.execute("UPDATE step SET detail = ? WHERE kind = 'run'", (detail,))
            capsys.readouterr()
            assert 0 == run(["status"])
            screen = capsys.readouterr().out
            assert ("was killed: running again is safe" if process == gone.pid else "1 replay at work") in screen


def test_text_of_the_server_is_neither_markup_nor_an_escape(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == run(["replay", "--dump", dump_of([memory(1, user)]), "-q"])
    with Ledger.open_for_writing(STATE) as ledger, ledger.transaction():
        ledger.db.execute("UPDATE fact SET state = 'refused', reason = ?", ("400 \x1b[31m[bold]red[/bold]",))
    capsys.readouterr()
    assert 0 == run(["status"])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[bold]red" in out


def test_after_a_replay_that_was_refused_it_names_what_helps(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ledger that was restored from a backup: every replay but one that adopts would be refused again."""
    dump = dump_of([memory(each, user) for each in range(4)])
    assert 8 == run(["replay", "--dump", dump, "--limit", "2"])
    shutil.copytree(STATE, "backup")
    assert 0 == run(["replay", "--dump", dump])
    shutil.rmtree(STATE)
    Path("backup").rename(STATE)
    assert 2 == run(["replay", "--dump", dump])
    refused = status(capsys)
    assert refused["next"].endswith("replay --dump all.json --adopt")
    assert "wrong_ledger" == refused["refused_run"]["kind"]
    assert 0 == run(["status"])
    assert "refused since then" in capsys.readouterr().out
    assert 0 == run(["replay", "--dump", dump, "--adopt"])
    adopted = status(capsys)
    assert adopted["next"].endswith("dual-verify --dump all.json")
    assert adopted["refused_run"] is None


def test_after_a_replay_into_scopes_of_others_a_person_chooses(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = dump_of([memory(1, user)])
    register_scope(configured, f"user/{user}")
    assert 10 == run(["replay", "--dump", dump])
    assert status(capsys)["next"] is None
    assert 0 == run(["status"])
    chosen = capsys.readouterr().out.partition("decide, by one of:")[2]
    assert "replay --adopt" in chosen
    assert "replay --into-existing" in chosen


def test_a_command_to_choose_quotes_an_id_for_the_shell() -> None:
    named = [NamedFact("$(reboot); a b", 1, "undecidable", "")]
    ledger = MigrationStatus(None, {"undecidable": 1}, {}, 0, 0, [], {}, 0, named, [], [], {})
    state = State(STATE, ledger, half_erased=[], cutover=None)
    assert "spectron-migrate replay --resolve '$(reboot); a b=present'" in choices(state)
    assert next_command(state) is None
