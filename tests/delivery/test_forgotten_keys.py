"""A server that has forgotten idempotency keys: nothing it has stored is sent to it again."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.local import faults
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.replay_summary import ReplaySummary
from spectron_migrate.state.store import store_at
from tests.support.oracle import ledger_facts
from tests.support.proxy import CannedAnswer, Fault, Seen, misbehaving, refusing
from tests.support.replaying import (
    BATCH,
    NONE,
    killed,
    mapping_file,
    refused_connections,
    replay_in_no_time,
    texts,
)
from tests.support.spectron import memory, write_raw

pytestmark = pytest.mark.slow

FULL = "infer: full\n"
MODES = {"full": FULL, "none": NONE, "batch": BATCH}
COUNT = 12
FORGETTING = ("restart_without_keys", "restart_without_keys_before", "cut_after_released", "500_after_released")


class Played:
    """A replay of a user's memories through a proxy."""

    def __init__(self, server: RunningServer, user: str, folder: Path, mode: str = "full", count: int = COUNT) -> None:
        self.server, self.user, self.folder, self.count = server, user, folder, count
        self.state = folder / "state"
        rows = [memory(number, user, f"Lives in Town{number}") for number in range(count)]
        self.dump = write_raw(folder / "all.json", rows)
        self.mapping = mapping_file(folder, MODES[mode])
        self.seen: list[Seen] = []

    def run(self, choose: Any = lambda seen: "none", change: Any = None, **more: Any) -> ReplaySummary:
        with misbehaving(self.server.base_url, choose) as proxy:
            if change is not None:
                proxy.change = change  # type: ignore[method-assign]
            summary = replay_in_no_time(
                self.server, self.state, self.dump, endpoint=proxy.base_url, mapping=self.mapping, **more
            )
            self.seen = proxy.seen
        return summary

    @property
    def expected(self) -> list[str]:
        return sorted(f"Lives in Town{number}" for number in range(self.count))

    @property
    def stored(self) -> list[str]:
        return sorted(texts(self.server, self.user))

    def fact(self, number: int) -> dict[str, Any]:
        (found,) = (fact for fact in ledger_facts(self.state) if fact["mem0_id"] == f"{self.user}-{number:04d}")
        return found

    @property
    def questions(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.is_preview]

    def writes(self, number: int) -> list[Seen]:
        return [seen for seen in self.seen if seen.writes_fact and f'Town{number}"'.encode() in seen.body]


def at_write(number: int, fault: Fault, *, times: int = 1) -> Any:
    """That memory's first writes have the fault."""
    left = times

    def choose(seen: Seen) -> Fault:
        nonlocal left
        if not left or not seen.writes_fact or f'Town{number}"'.encode() not in seen.body:
            return "none"
        left -= 1
        return fault

    return choose


@pytest.mark.parametrize("fault", FORGETTING)
@pytest.mark.parametrize("mode", MODES)
def test_what_is_stored_when_the_keys_are_forgotten_is_stored_once(
    spectron: RunningServer, user: str, tmp_path: Path, mode: str, fault: str
) -> None:
    played = Played(spectron, user, tmp_path, mode)
    summary = played.run(at_write(4, fault))
    assert ExitCode.DONE == summary.exit_code
    assert played.expected == played.stored


def test_a_key_that_is_held_brings_the_extraction_back(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    played = Played(spectron, user, tmp_path)
    assert ExitCode.DONE == played.run(at_write(4, "cut_after")).exit_code
    assert "written" == played.fact(4)["state"]
    assert "answer" == played.fact(4)["decided_by"]
    assert 2 == len(played.writes(4))
    assert played.expected == played.stored


def test_a_key_that_is_forgotten_leaves_the_extraction_unknown_and_the_memory_in_review(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    played = Played(spectron, user, tmp_path)
    summary = played.run(at_write(4, "restart_without_keys"))
    assert 1 == summary.stored_not_extracted
    assert "stored_not_extracted" == played.fact(4)["state"]
    assert "extraction unknown" == played.fact(4)["reason"]
    assert "turns" == played.fact(4)["decided_by"]
    assert 1 == len(played.writes(4))
    (line,) = store_at(played.state).lines("review/refused.jsonl")
    assert f"{user}-0004" == json.loads(line)["id"]
    again = played.run(options=ReplayOptions(retry_failed=True))
    assert 0 == again.written
    assert [] == [seen for seen in played.seen if seen.writes_fact]
    assert played.expected == played.stored


@pytest.mark.parametrize("mode", MODES)
def test_what_was_throttled_before_the_server_restarted_is_looked_for_before_it_goes_again(
    spectron: RunningServer, user: str, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stored the text although it answered 429, and lost its key."""
    throttled = at_write(4, faults.Fault(key="forgotten", shown=CannedAnswer(429, "slow down", "1")))
    refused = refused_connections(monkeypatch)

    def choose(seen: Seen) -> Fault:
        fault = throttled(seen)
        if fault != "none":
            refused.append("connection refused")
        return fault

    played = Played(spectron, user, tmp_path, mode)
    summary = played.run(choose)
    assert ExitCode.DONE == summary.exit_code
    assert played.expected == played.stored


@pytest.mark.parametrize("server_forgets", [False, True])
@pytest.mark.parametrize("fault", ["cut_after", "cut_before"])
@pytest.mark.parametrize("mode", MODES)
def test_what_a_killed_run_left_in_doubt_is_stored_once(
    spectron: RunningServer, user: str, tmp_path: Path, mode: str, fault: str, server_forgets: bool
) -> None:
    played = Played(spectron, user, tmp_path, mode)
    killed(spectron, tmp_path, played.dump, fault, lambda seen: b'Town4"' in seen.body, mapping=played.mapping)
    first = "failover_without_keys" if server_forgets else "none"
    summary = played.run(lambda seen: first if seen.number == 0 else "none")
    assert ExitCode.DONE == summary.exit_code
    assert 0 == summary.remaining
    assert played.expected == played.stored


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("mode", MODES)
def test_keys_forgotten_at_any_moment_double_nothing(
    spectron: RunningServer, user: str, tmp_path: Path, mode: str, seed: int
) -> None:
    dice = random.Random(f"{seed} {mode}")
    played = Played(spectron, user, tmp_path, mode, 30)
    asked: set[str] = set()

    def anything(seen: Seen) -> Fault:
        # No client can see what happens between the answer about a key and the very next request with it.
        key = seen.headers.get("idempotency-key", "")
        if seen.is_preview:
            asked.add(key)
            return "none"
        if seen.writes_fact and key in asked:
            asked.discard(key)
            return dice.choice(["none", "cut_after", "restart_without_keys"])
        if dice.random() > 0.25:
            return "none"
        return dice.choice([*FORGETTING, "failover_without_keys", "cut_before", "cut_after", "500_before", "503"])

    for _ in range(20):
        summary = played.run(anything)
        if summary.exit_code == ExitCode.DONE:
            break
    assert ExitCode.DONE == summary.exit_code
    assert {} == Counter(played.stored) - Counter(played.expected)
    assert played.expected == played.stored
    if mode == "full":
        assert [f"Lives in Town{number}" for number in range(30)] == texts(spectron, user)


# -- the key question, answer by answer ---------------------------------------------------------------------------


def answering(answer: Fault, *, known_as: Fault = "none") -> Any:
    """The fifth memory's write is cut off; the question about its key has this answer, that about others another."""
    cut = at_write(4, "cut_after")

    def choose(seen: Seen) -> Fault:
        if not seen.is_preview:
            return cut(seen)  # type: ignore[no-any-return]
        return answer if b'Town4"' in seen.body else known_as

    return choose


def test_a_first_question_is_about_a_key_that_is_held(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    played = Played(spectron, user, tmp_path)
    played.run(at_write(4, "cut_after"))
    assert [True, False] == [b'Town3"' in seen.body for seen in played.questions]
    assert "written" == played.fact(4)["state"]


@pytest.mark.parametrize(
    "answer",
    [
        refusing(400, "no such infer"),
        refusing(404, "no such route"),
        refusing(403, "the session does not exist or is out of reach"),
        refusing(500, "no previews here"),
        "cut_before",
        "garbage",
    ],
    ids=str,
)
def test_a_question_without_an_answer_leaves_the_decision_to_the_listing(
    spectron: RunningServer, user: str, tmp_path: Path, answer: Fault
) -> None:
    played = Played(spectron, user, tmp_path)
    assert ExitCode.DONE == played.run(answering(answer)).exit_code
    assert "extraction unknown" == played.fact(4)["reason"]
    assert 1 == len(played.writes(4))
    assert played.expected == played.stored


def test_a_key_in_flight_is_asked_about_again(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    played = Played(spectron, user, tmp_path)
    cut, asked = at_write(4, "cut_after"), 0

    def choose(seen: Seen) -> Fault:
        nonlocal asked
        asked += seen.is_preview and b'Town4"' in seen.body
        busy = seen.is_preview and b'Town4"' in seen.body and asked < 4
        return refusing(409, "still being processed") if busy else cut(seen)  # type: ignore[no-any-return]

    played.run(choose)
    assert 4 == asked
    assert "written" == played.fact(4)["state"]
    assert 2 == len(played.writes(4))


def test_a_stored_answer_is_the_receipt(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    """As from a server that compares no bodies: it gives the answer of the write, and nothing is sent again."""
    played = Played(spectron, user, tmp_path)
    stored: dict[str, bytes] = {}

    def change(seen: Seen, body: bytes) -> bytes | None:
        key = seen.headers.get("idempotency-key", "")
        if seen.writes_fact:
            stored.setdefault(key, body)
        return stored.get(key) if seen.is_preview else None

    def choose(seen: Seen) -> Fault:
        return cut(seen)  # type: ignore[no-any-return]

    cut = at_write(4, "cut_after")
    with misbehaving(spectron.base_url, choose) as proxy:
        ask = proxy._ask

        async def answered(scope: Any, body: bytes) -> Any:
            status, headers, answer = await ask(scope, body)
            return (200 if b'"preview"' in body else status), headers, answer

        proxy._ask = answered  # type: ignore[method-assign]
        proxy.change = change  # type: ignore[method-assign]
        replay_in_no_time(spectron, played.state, played.dump, endpoint=proxy.base_url, mapping=played.mapping)
        played.seen = proxy.seen
    assert "written" == played.fact(4)["state"]
    assert 1 == len(played.writes(4))
    assert played.expected == played.stored


def test_where_a_key_that_is_held_answers_with_a_preview_the_question_is_worth_nothing(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    def as_preview(seen: Seen, body: bytes) -> bytes | None:
        return b'{"mode":"preview","sessionId":"","preview":true}' if seen.is_preview else None

    played = Played(spectron, user, tmp_path)
    with misbehaving(spectron.base_url, at_write(4, "cut_after")) as proxy:
        ask = proxy._ask

        async def answered(scope: Any, body: bytes) -> Any:
            status, headers, answer = await ask(scope, body)
            return (200 if b'"preview"' in body else status), headers, answer

        proxy._ask = answered  # type: ignore[method-assign]
        proxy.change = as_preview  # type: ignore[method-assign]
        replay_in_no_time(spectron, played.state, played.dump, endpoint=proxy.base_url, mapping=played.mapping)
        played.seen = proxy.seen
    assert "extraction unknown" == played.fact(4)["reason"]
    assert 1 == len(played.writes(4))
    assert 1 == len(played.questions)


# -- before the same bytes go again ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_after_a_failover_a_write_that_may_still_arrive_is_waited_for(
    spectron: RunningServer, user: str, tmp_path: Path, mode: str
) -> None:
    """Its connection is lost, the server has forgotten its keys, and the first request arrives after all."""
    played = Played(spectron, user, tmp_path, mode, 70)
    delayed: list[Seen] = []
    arrived: list[float] = []

    def choose(seen: Seen) -> Fault:
        if not delayed and seen.writes_fact and b'Town64"' in seen.body:
            delayed.append(seen)
            return "restart_without_keys_before"
        return "none"

    def waited(moment: float) -> None:
        if delayed and not arrived and moment >= 10:
            arrived.append(moment)
            send_again(spectron, delayed[0])

    summary = played.run(choose, waited=waited)
    assert [] != arrived
    assert ExitCode.DONE == summary.exit_code
    assert played.expected == played.stored


def send_again(server: RunningServer, seen: Seen) -> None:
    """A request as it was sent, without a key: the server has forgotten it."""
    headers = {"Authorization": seen.headers["authorization"], "Content-Type": "application/json"}
    urlopen(Request(server.base_url + seen.path, seen.body, headers)).close()


def test_where_no_key_was_forgotten_the_same_bytes_go_again_at_once(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    played = Played(spectron, user, tmp_path)
    waits: list[float] = []
    played.run(at_write(4, "cut_before"), waited=waits.append)
    assert 2 == len(played.writes(4))
    assert 2 > max(waits, default=0)
