"""A probe reports what a Spectron does, fails on what breaks the guarantees, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.ledger import Ledger, probes
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, write_raw

pytestmark = pytest.mark.slow

STATE = Path(".spectron-migrate")


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@contextmanager
def server_for_the_command(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[RunningServer]:
    """A local Spectron with these options, named by the environment."""
    with server_here(Path("data").resolve(), context="tried", **options) as server:
        point_command_at(monkeypatch, server)
        yield server


def point_command_at(monkeypatch: pytest.MonkeyPatch, server: RunningServer, endpoint: str = "", key: str = "") -> None:
    monkeypatch.setenv("SPECTRON_ENDPOINT", endpoint or server.base_url)
    monkeypatch.setenv("SPECTRON_CONTEXT", server.context)
    monkeypatch.setenv("SPECTRON_API_KEY", key or server.api_key)


def probe(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Exit code, and of every question the answer and whether it fits."""
    capsys.readouterr()
    code = run(["doctor", "--probe", "--json"])
    out = json.loads(capsys.readouterr().out)
    assert "error" not in out, out
    return code, {row["question"]: (row["answer"], row["fits"]) for row in out["probe"]}


def count_turns(server: RunningServer) -> int:
    """Turns in the server's own table."""
    with sqlite3.connect(f"{server.database.as_uri()}?mode=ro", uri=True) as db:
        count = int(db.execute("SELECT count(*) FROM turns").fetchone()[0])
    db.close()
    return count


def test_a_server_that_behaves_as_assumed_fits_every_question_and_nothing_stays_on_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_for_the_command(monkeypatch) as server:
        code, found = probe(capsys)
        assert 0 == code
        assert 0 == count_turns(server)
    assert {} == {question: answer for question, answer in found.items() if answer[1] is False}
    assert "on" == found["extraction"][0]
    with Ledger.open_for_reading(STATE) as ledger:
        kept = {row.question: row.answer for row in probes.probe_answers(ledger, "tried")}
        assert {question: answer[0] for question, answer in found.items()} == kept
        assert {probes.FULL_WRITE, probes.NONE_WRITE} == set(probes.measured_seconds(ledger, "tried"))


def test_its_screen_does_not_advise_what_it_has_just_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_for_the_command(monkeypatch):
        run(["doctor"])
        assert "doctor --probe tries it" in capsys.readouterr().out
        run(["doctor", "--probe"])
        assert "doctor --probe tries it" not in capsys.readouterr().out


READINGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unregistered 403": ({"unregistered": 403}, "a session in a scope that is not registered", "403"),
    "registering again 409": ({"reregister": 409}, "registering a scope again", "409"),
    "a subtree without its root": ({"subtree_has_root": False}, "a lens of `scope/*`", "a and b"),
}


@pytest.mark.parametrize("name", READINGS)
def test_either_reading_of_unpublished_behaviour_is_reported_and_accepted(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, question, answer = READINGS[name]
    with server_for_the_command(monkeypatch, reading=reading) as server:
        code, found = probe(capsys)
        assert 0 == code
        assert 0 == count_turns(server)
    assert found[question][0].startswith(answer)
    assert found[question][1] is not False


def test_an_answer_without_a_turn_id_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_for_the_command(monkeypatch, reading={"names_turn": False}):
        code, found = probe(capsys)
    assert 0 == code
    assert ("no", None) == found["a write's answer names its turn"]


def test_a_cache_shared_across_scopes_fails_the_probe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_for_the_command(monkeypatch, reading={"shared_cache": True}):
        code, found = probe(capsys)
    assert 4 == code
    assert found["the lens of b, asked what a was asked"][1] is False


def test_a_context_without_extraction_is_reported_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_for_the_command(monkeypatch, extraction=False):
        code, found = probe(capsys)
        assert 0 == code
        assert found["extraction"][1] is False
        assert 0 == run(["doctor", "--probe"])
    assert "no facts are made of them" in capsys.readouterr().out


def test_the_later_generation_of_the_api_is_probed_alike(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_for_the_command(monkeypatch, api="0.2.1") as server:
        code, found = probe(capsys)
        assert 0 == code
        assert 0 == count_turns(server)
    assert all(answer[1] is not False for answer in found.values()), found


def test_a_server_that_forgets_keys_fails_the_probe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_for_the_command(monkeypatch) as server, misbehaving(server.base_url) as proxy:
        point_command_at(monkeypatch, server, proxy.base_url)
        drop_keys(proxy)
        code, found = probe(capsys)
        assert 0 == count_turns(server)
    answer, fits = found["the same bytes under the same key"]
    assert 4 == code
    assert fits is False
    assert "4 turns of 3" in answer


def drop_keys(proxy: Any) -> None:
    """As if the server did not know idempotency keys."""
    ask = proxy._ask

    async def without(scope: Any, body: bytes) -> Any:
        headers = [(name, value) for name, value in scope["headers"] if name != b"idempotency-key"]
        return await ask({**scope, "headers": headers}, body)

    proxy._ask = without


def test_with_a_key_that_could_not_erase_the_probe_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grants = {verb: ["*"] for verb in ("memory:read", "memory:write", "scope:read", "scope:create")}
    with server_for_the_command(monkeypatch, principals={"ann": {"key": "sk-ann", "grants": grants}}) as server:
        point_command_at(monkeypatch, server, key="sk-ann")
        assert 6 == run(["doctor", "--probe", "--json"])
        assert 0 == count_turns(server)
    assert "memory:forget" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert not STATE.exists()


def test_a_probe_waits_for_a_busy_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    busy: list[int] = []

    def first_of_each(seen: Seen) -> Fault:
        if seen.path.endswith("/facts") and len(busy) < 2:
            busy.append(seen.number)
            return "503"
        return "none"

    with server_for_the_command(monkeypatch) as server, misbehaving(server.base_url, first_of_each) as proxy:
        point_command_at(monkeypatch, server, proxy.base_url)
        assert 0 == probe(capsys)[0]
    assert 2 == len(busy)


def test_a_probe_erases_what_a_killed_one_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    running: list[subprocess.Popen[bytes]] = []

    def kill(seen: Seen) -> Fault:
        if seen.path.endswith("/query"):
            running[0].send_signal(signal.SIGKILL)
            running[0].wait()
        return "none"

    with server_for_the_command(monkeypatch) as server:
        with misbehaving(server.base_url, kill) as proxy:
            point_command_at(monkeypatch, server, proxy.base_url)
            led = {name: value for name, value in os.environ.items() if name.startswith("SPECTRON_")}
            command = [sys.executable, "-m", "spectron_migrate", "doctor", "--probe"]
            environment = {**clean_environment(os.environ), **led}
            running.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL))
            running[0].wait(timeout=60)
            assert count_turns(server) > 0
            proxy.choose = lambda seen: "none"
            assert 0 == probe(capsys)[0]
        assert 0 == count_turns(server)


def test_the_first_replay_into_a_context_that_was_never_probed_warns_and_nothing_after_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = str(write_raw(Path("all.json"), [memory(1, "alice")]))
    with server_for_the_command(monkeypatch):
        warned = []
        for words in (["replay", "--dump", dump, "--json"], ["status", "--json"]) * 2:
            capsys.readouterr()
            assert 0 == run(words)
            warnings = json.loads(capsys.readouterr().out)["warnings"]
            warned.append(any("never probed" in warning for warning in warnings))
    assert [True, False, False, False] == warned


def test_a_replay_into_a_context_that_was_probed_does_not_warn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = str(write_raw(Path("all.json"), [memory(1, "alice")]))
    with server_for_the_command(monkeypatch):
        assert 0 == probe(capsys)[0]
        capsys.readouterr()
        assert 0 == run(["replay", "--dump", dump, "--json"])
        assert "never probed" not in capsys.readouterr().out


def test_a_forecast_uses_the_seconds_that_a_probe_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = str(write_raw(Path("all.json"), [memory(1, "alice")]))
    with server_for_the_command(monkeypatch):
        assert 0 == probe(capsys)[0]
        assert 0 == run(["replay", "--dump", dump, "--dry-run", "--json"])
    assumed = json.loads(capsys.readouterr().out)["forecast"]["time"]["assumed"]
    assert assumed["measured"]
    assert 0 < assumed["seconds_with_extraction"] < 2


def test_status_after_a_probe_alone_shows_that_nothing_was_planned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_for_the_command(monkeypatch):
        assert 0 == probe(capsys)[0]
    assert 0 == run(["status", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert {} == answer["states"]
    assert "spectron-migrate export" == answer["next"]
    assert 0 == run(["status"])
    assert "nothing yet" in capsys.readouterr().out
