"""Trying a Spectron with a few memories: every reading is told, what breaks the promise is named, nothing stays."""

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

STATE = Path(".spectron-migrate")


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@contextmanager
def led_to(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[RunningServer]:
    with server_here(Path("data").resolve(), context="tried", **options) as server:
        lead(monkeypatch, server)
        yield server


def lead(monkeypatch: pytest.MonkeyPatch, server: RunningServer, endpoint: str = "", key: str = "") -> None:
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


def left_behind(server: RunningServer) -> int:
    """Turns in the server's own table."""
    with sqlite3.connect(f"{server.database.as_uri()}?mode=ro", uri=True) as db:
        count = int(db.execute("SELECT count(*) FROM turns").fetchone()[0])
    db.close()
    return count


def test_a_server_as_assumed_fits_in_every_answer_and_nothing_of_the_probe_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with led_to(monkeypatch) as server:
        code, found = probe(capsys)
        assert (0, 0) == (code, left_behind(server))
    assert {} == {question: said for question, said in found.items() if said[1] is False}
    assert "on" == found["extraction"][0]
    with Ledger.open_for_reading(STATE) as ledger:
        kept = {row.question: row.answer for row in probes.probe_answers(ledger, "tried")}
        assert {question: said[0] for question, said in found.items()} == kept
        assert {probes.FULL_WRITE, probes.NONE_WRITE} == set(probes.measured_seconds(ledger, "tried"))


READINGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unregistered 403": ({"unregistered": 403}, "a session in a scope that is not registered", "403"),
    "registering again 409": ({"reregister": 409}, "registering a scope again", "409"),
    "a subtree without its root": ({"subtree_has_root": False}, "a lens of `scope/*`", "a and b"),
}


@pytest.mark.parametrize("name", READINGS)
def test_either_reading_of_what_is_unpublished_is_told_and_lived_with(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, question, answer = READINGS[name]
    with led_to(monkeypatch, reading=reading) as server:
        code, found = probe(capsys)
        assert (0, 0) == (code, left_behind(server))
    assert found[question][0].startswith(answer)
    assert found[question][1] is not False


def test_an_answer_without_a_turn_id_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with led_to(monkeypatch, reading={"names_turn": False}):
        code, found = probe(capsys)
    assert (0, ("no", None)) == (code, found["a write's answer names its turn"])


def test_a_cache_that_mixes_up_scopes_breaks_the_promise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with led_to(monkeypatch, reading={"shared_cache": True}):
        code, found = probe(capsys)
    assert (4, False) == (code, found["the lens of b, asked what a was asked"][1])


def test_a_context_without_extraction_is_told_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with led_to(monkeypatch, extraction=False):
        code, found = probe(capsys)
        assert (0, False) == (code, found["extraction"][1])
        assert 0 == run(["doctor", "--probe"])
    assert "no facts are made of them" in capsys.readouterr().out


def test_the_later_generation_is_asked_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with led_to(monkeypatch, api="0.2.1") as server:
        code, found = probe(capsys)
        assert (0, 0) == (code, left_behind(server))
    assert all(said[1] is not False for said in found.values()), found


def test_a_server_that_forgets_keys_breaks_the_promise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with led_to(monkeypatch) as server, misbehaving(server.base_url) as proxy:
        lead(monkeypatch, server, proxy.base_url)
        drop_keys(proxy)
        code, found = probe(capsys)
        assert 0 == left_behind(server)
    answer, fits = found["the same bytes under the same key"]
    assert (4, False) == (code, fits)
    assert "4 turns of 3" in answer


def drop_keys(proxy: Any) -> None:
    """A server that does not know idempotency keys at all."""
    ask = proxy._ask

    async def without(scope: Any, body: bytes) -> Any:
        headers = [(name, value) for name, value in scope["headers"] if name != b"idempotency-key"]
        return await ask({**scope, "headers": headers}, body)

    proxy._ask = without


def test_a_key_that_could_not_erase_the_probe_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grants = {verb: ["*"] for verb in ("memory:read", "memory:write", "scope:read", "scope:create")}
    with led_to(monkeypatch, principals={"ann": {"key": "sk-ann", "grants": grants}}) as server:
        lead(monkeypatch, server, key="sk-ann")
        assert 6 == run(["doctor", "--probe", "--json"])
        assert 0 == left_behind(server)
    assert "memory:forget" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert not STATE.exists()


def test_a_server_that_is_busy_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    busy: list[int] = []

    def first_of_each(seen: Seen) -> Fault:
        if seen.path.endswith("/facts") and len(busy) < 2:
            busy.append(seen.number)
            return "503"
        return "none"

    with led_to(monkeypatch) as server, misbehaving(server.base_url, first_of_each) as proxy:
        lead(monkeypatch, server, proxy.base_url)
        assert 0 == probe(capsys)[0]
    assert 2 == len(busy)


def test_a_killed_probe_is_erased_by_the_next_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    running: list[subprocess.Popen[bytes]] = []

    def kill(seen: Seen) -> Fault:
        if seen.path.endswith("/query"):
            running[0].send_signal(signal.SIGKILL)
            running[0].wait()
        return "none"

    with led_to(monkeypatch) as server:
        with misbehaving(server.base_url, kill) as proxy:
            lead(monkeypatch, server, proxy.base_url)
            led = {name: value for name, value in os.environ.items() if name.startswith("SPECTRON_")}
            command = [sys.executable, "-m", "spectron_migrate", "doctor", "--probe"]
            environment = {**clean_environment(os.environ), **led}
            running.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL))
            running[0].wait(timeout=60)
            assert left_behind(server) > 0
            proxy.choose = lambda seen: "none"
            assert 0 == probe(capsys)[0]
        assert 0 == left_behind(server)


def test_a_replay_into_a_context_that_was_never_probed_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = str(write_raw(Path("all.json"), [memory(1, "alice")]))
    with led_to(monkeypatch):
        warned = []
        for words in (["replay", "--dump", dump, "--json"], ["status", "--json"]) * 2:
            if words[0] == "replay" and warned:
                assert 0 == probe(capsys)[0]
            capsys.readouterr()
            assert 0 == run(words)
            warnings = json.loads(capsys.readouterr().out)["warnings"]
            warned.append(any("never probed" in warning for warning in warnings))
    assert [True, True, False, False] == warned


def test_a_plan_takes_the_time_that_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = str(write_raw(Path("all.json"), [memory(1, "alice")]))
    with led_to(monkeypatch):
        assert 0 == probe(capsys)[0]
        assert 0 == run(["replay", "--dump", dump, "--dry-run", "--json"])
    assumed = json.loads(capsys.readouterr().out)["forecast"]["time"]["assumed"]
    assert assumed["measured"]
    assert 0 < assumed["seconds_with_extraction"] < 2


def test_after_a_probe_alone_status_says_that_nothing_was_planned_yet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with led_to(monkeypatch):
        assert 0 == probe(capsys)[0]
    assert 0 == run(["status", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert ({}, "spectron-migrate replay") == (answer["states"], answer["next"])
    assert 0 == run(["status"])
    assert "nothing yet" in capsys.readouterr().out
