"""The recovery table, row by row: a write that had this outcome ends as one turn, or is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_any
from spectron_migrate.errors import ExitCode, WrongLedger
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.replay_summary import ReplaySummary
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.support.here import server_here
from tests.support.ledgers import facts_of
from tests.support.oracle import ledger_facts, server_turns, unclaimed_turns
from tests.support.proxy import Fault, Proxy, Seen, misbehaving, refusing
from tests.support.replaying import (
    BATCH,
    NONE,
    TODAY,
    complete_scan,
    forged,
    is_write,
    killed,
    mapping_file,
    mem0_row,
    replay_in_no_time,
)
from tests.support.spectron import memory, replay, turns_of, write_raw

pytestmark = [pytest.mark.slow, pytest.mark.both_engines]

COUNT = 4


class Played:
    """A replay of a few memories, of which the second gets a fault once or always."""

    def __init__(self, server: RunningServer, user: str, folder: Path) -> None:
        self.server, self.user, self.folder = server, user, folder
        self.dump = write_raw(folder / "all.json", [memory(number, user) for number in range(COUNT)])
        self.sent: list[Seen] = []
        self.listings = 0

    def run(self, fault: Fault, *, times: int = 1, change: object = None) -> ReplaySummary:
        left = times

        def choose(seen: Seen) -> Fault:
            nonlocal left
            if not (seen.writes_fact and b"number 1" in seen.body and left):
                return "none"
            left -= 1
            return fault

        with misbehaving(self.server.base_url, choose) as proxy:
            if change is not None:
                proxy.change = change  # type: ignore[assignment]
            summary = replay_in_no_time(self.server, self.folder / "state", self.dump, endpoint=proxy.base_url)
            self._keep(proxy)
        return summary

    def _keep(self, proxy: Proxy) -> None:
        self.sent = [seen for seen in proxy.seen if seen.writes_fact and b"number 1" in seen.body]
        self.listings = sum("/turns" in seen.path for seen in proxy.seen)

    @property
    def texts(self) -> list[str]:
        return [turn.content for turn in turns_of(self.server, self.user)]

    @property
    def all_texts(self) -> list[str]:
        return [f"{self.user} remembers thing number {number}" for number in range(COUNT)]

    def second(self, column: str) -> Any:
        with Ledger.open_for_reading(self.folder / "state") as ledger:
            return facts_of(ledger, "version.mem0_id = ?", f"{self.user}-0001")[0][column]


@pytest.fixture
def played(spectron: RunningServer, user: str, tmp_path: Path) -> Played:
    """Against the server that all tests share."""
    return Played(spectron, user, tmp_path)


def assert_once_in_order(played: Played, summary: ReplaySummary) -> None:
    """All went in, each once, in order, and what was sent again was equal to the byte."""
    assert ExitCode.DONE == summary.exit_code
    assert COUNT == summary.written
    assert 0 == summary.in_doubt
    assert played.all_texts == played.texts
    assert 1 == len({(seen.headers["idempotency-key"], seen.body) for seen in played.sent})


def test_200_whole_body_our_session_is_the_receipt(played: Played) -> None:
    assert_once_in_order(played, played.run("none"))
    assert 1 == len(played.sent)
    assert 0 == played.listings
    assert "answer" == played.second("decided_by")


def test_200_without_a_turn_id_takes_the_one_turn_nobody_claims(user: str, tmp_path: Path) -> None:
    with server_here(tmp_path / "data", context="tests", reading={"names_turn": False}) as server:
        played = Played(server, user, tmp_path)
        assert_once_in_order(played, played.run("none"))
        with Ledger.open_for_reading(tmp_path / "state") as ledger:
            claimed = ledger.db.execute("SELECT count(DISTINCT turn_id) FROM receipt").fetchone()[0]
    assert COUNT == claimed


def test_200_for_another_session_stops_the_scope_and_is_undecidable(played: Played) -> None:
    def elsewhere(seen: Seen, body: bytes) -> bytes | None:
        if not (seen.writes_fact and b"number 1" in seen.body):
            return None
        return json.dumps({**json.loads(body), "sessionId": "sess_other"}).encode()

    summary = played.run("none", change=elsewhere)
    assert ExitCode.REFUSED == summary.exit_code
    assert 1 == summary.written
    assert 1 == summary.undecidable
    assert 2 == summary.remaining


@pytest.mark.parametrize("status", [429, 503])
def test_429_and_503_with_retry_after_have_not_begun_and_the_same_bytes_wait(played: Played, status: int) -> None:
    assert_once_in_order(played, played.run(refusing(status, "busy", "7"), times=3))
    assert 4 == len(played.sent)
    assert 0 == played.listings


def test_409_in_flight_waits_with_the_same_bytes(user: str, tmp_path: Path) -> None:
    with server_here(tmp_path / "data", context="tests") as server:
        played = Played(server, user, tmp_path)
        assert_once_in_order(played, played.run("late"))


def test_409_in_flight_that_never_ends_is_decided_by_the_turns_or_holds_its_lane(user: str, tmp_path: Path) -> None:
    with server_here(tmp_path / "data", context="tests") as server:
        there = Played(server, user, tmp_path)
        assert ExitCode.DONE == (summary := there.run("500_after_stuck")).exit_code
        assert COUNT == summary.written
        assert "turns" == there.second("decided_by")
        assert there.all_texts == there.texts
        (tmp_path / "b").mkdir()
        absent = Played(server, f"{user}b", tmp_path / "b")
        held = absent.run("500_before_stuck")
    assert ExitCode.UNREACHABLE == held.exit_code
    assert 1 == held.written
    assert 1 == held.in_doubt
    assert 2 == held.remaining


def test_409_other_body_on_a_fact_that_was_never_sent_ends_the_run(played: Played) -> None:
    with pytest.raises(WrongLedger, match="never sent"):
        played.run(refusing(409, "key was used with a different body"), times=9)
    assert_once_after(played)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_refusal_goes_to_review_and_the_lane_goes_on(played: Played, status: int) -> None:
    # 404 may be of the session, so the memory is tried once more in another one.
    summary = played.run(refusing(status, "not this one"), times=2 if status == 404 else 1)
    assert ExitCode.REFUSED == summary.exit_code
    assert COUNT - 1 == summary.written
    assert 1 == summary.refused
    assert f"{status} not this one" == played.second("reason")
    assert [text for text in played.all_texts if "number 1" not in text] == played.texts


def test_401_stops_all(played: Played) -> None:
    summary = played.run(refusing(401, "expired"))
    assert ExitCode.KEY == summary.exit_code
    assert 1 == summary.written
    assert 1 == summary.in_doubt
    assert 2 == summary.remaining


def test_403_stops_the_scope_and_the_fact_stays_in_doubt(played: Played) -> None:
    summary = played.run(refusing(403, "not in your region"))
    assert ExitCode.KEY == summary.exit_code
    assert 1 == summary.written
    assert 1 == summary.in_doubt
    assert 2 == summary.remaining
    assert_once_after(played)


def assert_once_after(played: Played) -> None:
    """The next run ends it, each memory once."""
    summary = replay_in_no_time(played.server, played.folder / "state", played.dump)
    assert ExitCode.DONE == summary.exit_code
    assert 0 == summary.remaining
    assert played.all_texts == played.texts


@pytest.mark.parametrize(
    "fault",
    [
        "cut_before",
        "cut_after",
        "cut_after_released",
        "cut_in_headers",
        "half_answer",
        "garbage",
        "500_before",
        "500_after",
        refusing(502, "bad gateway"),
        refusing(504, "gateway timeout"),
        refusing(418, "teapot"),
        "429_bare",
        "503_bare",
    ],
    ids=str,
)
def test_in_doubt_asks_the_turns_first_and_then_sends_the_same_bytes(played: Played, fault: Fault) -> None:
    summary = played.run(fault)
    assert ExitCode.DONE == summary.exit_code
    assert COUNT == summary.written
    assert 0 == summary.in_doubt
    assert played.listings >= 1
    assert 1 == len({(seen.headers["idempotency-key"], seen.body) for seen in played.sent})
    assert played.all_texts == played.texts


def test_a_second_failure_while_a_candidate_stands_is_stored_not_extracted(played: Played) -> None:
    summary = played.run("500_after_released", times=2)
    assert ExitCode.DONE == summary.exit_code
    assert COUNT == summary.written
    assert "stored_not_extracted" == played.second("state")
    assert "extraction unknown" == played.second("reason")


def test_a_write_of_a_killed_run_is_decided_by_the_next_run(played: Played) -> None:
    killed(played.server, played.folder, played.dump, "cut_after", lambda seen: b"number 1" in seen.body)
    assert_once_after(played)


def test_tries_spent_while_others_succeed_is_refused_only_after_an_answer_that_ended_the_work(
    played: Played,
) -> None:
    poison = played.run("500_before", times=99)
    assert COUNT - 1 == poison.written
    assert 1 == poison.refused
    assert 0 == poison.in_doubt


def test_tries_spent_without_an_answer_hold_the_lane(played: Played) -> None:
    cut = played.run("cut_before", times=99)
    assert ExitCode.UNREACHABLE == cut.exit_code
    assert 1 == cut.written
    assert 0 == cut.refused
    assert 1 == cut.in_doubt
    assert 2 == cut.remaining


def test_texts_that_the_server_alters_are_proven_by_their_own_keys_after_a_kill(played: Played) -> None:
    killed(played.server, played.folder, played.dump, "cut_after", lambda seen: b"number 1" in seen.body)

    def masked(seen: Seen, body: bytes) -> bytes | None:
        return body.replace(b"remembers", b"[MASKED]") if "/turns" in seen.path else None

    summary = played.run("none", change=masked)
    assert ExitCode.DONE == summary.exit_code
    assert 0 == summary.undecidable
    assert 0 == summary.remaining
    assert played.all_texts == played.texts
    assert 1 == played.second("altered")


def test_a_turn_of_somebody_else_in_our_session_is_never_taken_for_ours(played: Played) -> None:
    killed(played.server, played.folder, played.dump, "cut_before", lambda seen: b"number 1" in seen.body)
    with Ledger.open_for_reading(played.folder / "state") as ledger:
        session = ledger.db.execute("SELECT server_id FROM session").fetchone()[0]

    def foreign(seen: Seen, body: bytes) -> bytes | None:
        if "/turns" not in seen.path or session not in seen.path:
            return None
        told = json.loads(body)
        rows = told["turns"] if isinstance(told, dict) else told
        if not rows:
            return None  # the page after the last one
        rows.append({"id": "turn_foreign", "role": "user", "content": "not ours", "seq": 999, "createdAt": ""})
        return json.dumps(told).encode()

    summary = played.run("none", change=foreign)
    assert ExitCode.REFUSED == summary.exit_code
    assert summary.undecidable >= 1
    assert "turn_foreign" != played.second("turn_id")


def unclaimed(state: Path, server: RunningServer, user: str) -> int:
    """Turns in the user's scopes that the ledger knows neither as receipt nor as residue."""
    with Ledger.open_for_reading(state) as ledger:
        rows = ledger.db.execute("SELECT turn_id FROM receipt UNION SELECT turn_id FROM residue").fetchall()
    known = {row["turn_id"] for row in rows if row["turn_id"]}
    return len(turns_of(server, user)) - len(known)


def test_what_a_second_500_leaves_behind_is_listed_as_residue(user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    with server_here(
        tmp_path / "data",
        context="tests",
        fault_settings={"plan": ["none", "500_after_released", "500_after_released"]},
    ) as server:
        summary = replay(server, tmp_path / "state", [dump])
        assert 3 == summary.written
        assert 0 == unclaimed(tmp_path / "state", server, user)


def test_what_the_server_left_behind_makes_no_later_fact_of_the_session_undecidable(user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(6)])
    with server_here(
        tmp_path / "data",
        context="tests",
        fault_settings={"plan": ["none", *["500_after_released"] * 2, "none", "500_after_released"]},
    ) as server:
        summary = replay(server, tmp_path / "state", [dump])
        assert ExitCode.DONE == summary.exit_code
        assert 6 == summary.written
        assert 0 == summary.undecidable


def test_a_fact_is_given_up_only_after_a_last_look_at_the_turns(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    tries = 0

    def stored_at_last(seen: Seen) -> Fault:
        nonlocal tries
        if not is_write(seen) or b"number 1" not in seen.body:
            return "none"
        tries += 1
        return "500_before" if tries < 7 else "500_after"

    with misbehaving(spectron.base_url, stored_at_last) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert 3 - summary.refused == len(turns_of(spectron, user))
    assert 0 == unclaimed(tmp_path / "state", spectron, user)


def test_a_key_stuck_in_flight_is_decided_by_its_turn_when_patience_ends(user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    moment = 0.0
    naps = 0

    async def sleep(seconds: float) -> None:
        nonlocal moment, naps
        moment += seconds
        naps += 1
        await asyncio.sleep(0)

    async def run(server: RunningServer) -> ReplaySummary:
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key, sleep=sleep) as api:
            with open_any([dump]) as opened:
                step = Replay(
                    tmp_path / "state",
                    opened,
                    load_mapping(None),
                    ReplayOptions(),
                    reporter=NullReporter(),
                    sleep=sleep,
                    clock=lambda: moment,
                )
                return await step.run(api)

    with server_here(
        tmp_path / "data", context="tests", fault_settings={"plan": ["none", "500_after_stuck"]}
    ) as server:
        summary = asyncio.run(run(server))
    # The texts of this test state nothing that could be extracted, so the state alone tells nothing.
    assert ExitCode.DONE == summary.exit_code
    assert 3 == summary.written
    assert 0 == summary.in_doubt
    assert naps < 300, "waits grow while a key is in flight"


def test_a_write_answered_for_another_session_is_undecidable_and_exit_3(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])

    def other_session(seen: Seen, body: bytes) -> bytes | None:
        if not is_write(seen):
            return None
        return json.dumps({**json.loads(body), "sessionId": "sess_other"}).encode()

    forged(monkeypatch, other_session)
    with misbehaving(spectron.base_url) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert 1 == summary.undecidable
    assert 2 == summary.remaining
    assert ExitCode.REFUSED == summary.exit_code


def test_keys_of_another_principal_are_not_trusted_when_the_first_one_comes_back(user: str, tmp_path: Path) -> None:
    everything = {verb: ["*"] for verb in ("memory:read", "memory:write", "scope:read", "scope:create")}
    principals = {name: {"key": f"sk-{name}", "grants": everything} for name in ("ann", "bob")}
    users = [f"{user}{letter}" for letter in "ab"]
    one = write_raw(tmp_path / "one.json", [memory(number, users[0]) for number in range(3)])
    both = write_raw(tmp_path / "both.json", [memory(number, who) for who in users for number in range(3)])

    def silent_from(text: bytes) -> Callable[[Seen], Fault]:
        silent = False

        def choose(seen: Seen) -> Fault:
            nonlocal silent
            if is_write(seen) and text in seen.body:
                silent = True
                return "cut_after"
            return "cut_before" if silent else "none"

        return choose

    with server_here(tmp_path / "data", context="tests", principals=principals) as server:
        replay(server, tmp_path / "state", [write_raw(tmp_path / "zero.json", [memory(9, user)])], api_key="sk-ann")
        for key, dump, text in (
            ("sk-ann", one, f"{users[0]} remembers thing number 0"),
            ("sk-bob", both, f"{users[1]} remembers thing number 0"),
        ):
            with misbehaving(server.base_url, silent_from(text.encode())) as proxy:
                replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url, api_key=key)
        last = replay(server, tmp_path / "state", [both], api_key="sk-ann")
        assert 0 == last.in_doubt
        assert [3, 3] == [len(turns_of(server, who)) for who in users]


def two_turns_of_one_fact(server: RunningServer, state: Path, dump: Path) -> ReplaySummary:
    """A run that ends between the second turn of one memory, which a forgotten key made, and its decision."""
    writes = 0

    def choose(seen: Seen) -> Fault:
        nonlocal writes
        if seen.writes_fact and b"number 1" in seen.body:
            writes += 1
            return {1: "cut_in_headers", 2: "cut_after_released"}.get(writes, "none")
        return "400" if seen.path.endswith("/turns") and writes >= 3 else "none"

    with misbehaving(server.base_url, choose) as proxy:
        return replay(server, state, [dump], endpoint=proxy.base_url)


@pytest.mark.parametrize("hours", [0, 25])
def test_a_second_turn_that_a_resend_left_is_residue_also_where_the_run_ended_before_it_was_noted(
    user: str, tmp_path: Path, hours: int
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    with server_here(tmp_path / "data", context="tests", fault_settings={}) as server:
        first = two_turns_of_one_fact(server, tmp_path / "state", dump)
        server.change_faults(ahead_s=hours * 3600)
        second = replay(server, tmp_path / "state", [dump])
        assert ExitCode.UNREACHABLE == first.exit_code
        assert 1 == first.in_doubt
        assert ExitCode.DONE == second.exit_code
        assert 3 == second.written + second.already
        assert 0 == second.undecidable
        facts = ledger_facts(tmp_path / "state")
        assert [1] == [len(fact["residue"]) for fact in facts if fact["residue"]]
        turns = {turn.id: turn for turn in server_turns(server.database)}
        assert [] == list(unclaimed_turns(facts, turns, finished=True))


@pytest.mark.parametrize("mode", ["", NONE, BATCH])
def test_a_turn_that_answers_name_twice_is_claimed_once_and_the_other_memory_is_named(
    spectron: RunningServer, user: str, tmp_path: Path, mode: str
) -> None:
    """As from a server that takes equal texts of a session for one."""
    first: dict[str, str] = {}

    def name_the_first(seen: Seen, body: bytes) -> bytes | None:
        told = json.loads(body) if seen.writes_fact else {}
        if "turnIds" in told:
            return json.dumps({**told, "turnIds": told["turnIds"][:1] * len(told["turnIds"])}).encode()
        if "turnId" in told:
            return json.dumps({**told, "turnId": first.setdefault(told["sessionId"], told["turnId"])}).encode()
        return None

    dump = write_raw(tmp_path / "all.json", [memory(number, user, "the same") for number in range(3)])
    mapping = mapping_file(tmp_path, mode)
    with misbehaving(spectron.base_url) as proxy:
        proxy.change = name_the_first  # type: ignore[method-assign]
        for _ in range(2):
            done = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping)
    claimed = [fact["turn_id"] for fact in ledger_facts(tmp_path / "state") if fact["turn_id"]]
    assert len(claimed) == len(set(claimed)) == done.already
    assert (done.exit_code == ExitCode.REFUSED) == (done.undecidable > 0)
    assert 3 == done.already + done.undecidable + done.remaining


def test_after_kill_9_the_sessions_of_a_lane_are_decided_in_its_order(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, user, f"text {number}", run_id=f"run{number % 2}") for number in range(8)]
    dump = write_raw(tmp_path / "all.json", rows)
    killed(spectron, tmp_path, dump, "cut_before", lambda seen: b'"text 1"' in seen.body)
    with misbehaving(spectron.base_url) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
        bodies = [json.loads(seen.body) for seen in proxy.seen if seen.writes_fact]
    assert 8 == summary.written + summary.already
    sent_full = [body["text"] for body in bodies if body["infer"] == "full"]
    assert sorted(sent_full) == sent_full


def test_an_intent_of_a_killed_run_is_not_sent_once_mem0_deleted_the_memory(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [mem0_row(user, number, f"text {number}") for number in range(4)]
    dump = complete_scan(tmp_path / "dump", rows, TODAY - timedelta(days=2))
    killed(spectron, tmp_path, dump, "cut_before", lambda seen: b'"text 1"' in seen.body)
    complete_scan(dump, rows[:3], TODAY - timedelta(days=1))
    replay(spectron, tmp_path / "state", [dump])
    assert ["text 0", "text 1", "text 2"] == [turn.content for turn in turns_of(spectron, user)]
