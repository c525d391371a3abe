"""What each outcome of a send means, row by row: the request that had it ends in one turn, or in a name."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay import ReplaySummary
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.wire import InDoubt, NotBegun
from tests.delivery.playing import killed, replay_in_no_time
from tests.support.here import server_here
from tests.support.proxy import Fault, Proxy, Seen, misbehaving, refusing
from tests.support.spectron import memory, turns_of, write_raw

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

    def second(self, column: str) -> object:
        with Ledger.open_for_reading(self.folder / "state") as ledger:
            row = ledger.db.execute(f"SELECT {column} FROM fact WHERE mem0_id = ?", (f"{self.user}-0001",)).fetchone()
        return row[0]


@pytest.fixture
def played(spectron: RunningServer, user: str, tmp_path: Path) -> Played:
    """Against the server that all tests share."""
    return Played(spectron, user, tmp_path)


def assert_once_in_order(played: Played, summary: ReplaySummary) -> None:
    """All went in, each once, in order, and what was sent again was equal to the byte."""
    assert (ExitCode.DONE, COUNT, 0) == (summary.exit_code, summary.written, summary.in_doubt)
    assert played.all_texts == played.texts
    assert 1 == len({(seen.headers["idempotency-key"], seen.body) for seen in played.sent})


def test_200_whole_body_our_session_is_the_receipt(played: Played) -> None:
    assert_once_in_order(played, played.run("none"))
    assert (1, 0, "answer") == (len(played.sent), played.listings, played.second("decided_by"))


def test_200_without_a_turn_id_takes_the_one_turn_nobody_claims(user: str, tmp_path: Path) -> None:
    with server_here(tmp_path / "data", context="tests", reading={"names_turn": False}) as server:
        played = Played(server, user, tmp_path)
        assert_once_in_order(played, played.run("none"))
        with Ledger.open_for_reading(tmp_path / "state") as ledger:
            claimed = ledger.db.execute("SELECT count(DISTINCT turn_id) FROM fact").fetchone()[0]
    assert COUNT == claimed


def test_200_for_another_session_stops_the_scope_and_is_undecidable(played: Played) -> None:
    def elsewhere(seen: Seen, body: bytes) -> bytes | None:
        if not (seen.writes_fact and b"number 1" in seen.body):
            return None
        return json.dumps({**json.loads(body), "sessionId": "sess_other"}).encode()

    summary = played.run("none", change=elsewhere)
    assert (ExitCode.REFUSED, 1, 1, 2) == (
        summary.exit_code,
        summary.written,
        summary.undecidable,
        summary.remaining,
    )


@pytest.mark.parametrize("status", [429, 503])
def test_429_and_503_with_retry_after_have_not_begun_and_the_same_bytes_wait(played: Played, status: int) -> None:
    assert_once_in_order(played, played.run(refusing(status, "busy", "7"), times=3))
    assert (4, 0) == (len(played.sent), played.listings)


def test_only_a_connection_that_never_stood_is_a_proof_that_nothing_was_sent() -> None:
    async def post(endpoint: str) -> None:
        async with SpectronApi(endpoint, "c", api_key="k", timeout_s=5) as api:
            await api.post_fact(b"{}", key="k")

    async def cut() -> None:
        def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
            await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    with pytest.raises(NotBegun):
        asyncio.run(post("http://127.0.0.1:9"))
    with pytest.raises(InDoubt):
        asyncio.run(cut())


def test_409_in_flight_waits_with_the_same_bytes(user: str, tmp_path: Path) -> None:
    with server_here(tmp_path / "data", context="tests") as server:
        played = Played(server, user, tmp_path)
        assert_once_in_order(played, played.run("late"))


def test_409_in_flight_that_never_ends_is_decided_by_the_turns_or_holds_its_lane(user: str, tmp_path: Path) -> None:
    with server_here(tmp_path / "data", context="tests") as server:
        there = Played(server, user, tmp_path)
        assert (ExitCode.DONE, COUNT) == ((summary := there.run("500_after_stuck")).exit_code, summary.written)
        assert ("turns", there.all_texts) == (there.second("decided_by"), there.texts)
        (tmp_path / "b").mkdir()
        absent = Played(server, f"{user}b", tmp_path / "b")
        held = absent.run("500_before_stuck")
    assert (ExitCode.UNREACHABLE, 1, 1, 2) == (held.exit_code, held.written, held.in_doubt, held.remaining)


def test_409_other_body_is_review_and_never_a_new_key(played: Played) -> None:
    summary = played.run(refusing(409, "key was used with a different body"), times=9)
    assert (ExitCode.REFUSED, COUNT - 1, 1) == (summary.exit_code, summary.written, summary.refused)
    assert 1 == len({seen.headers["idempotency-key"] for seen in played.sent})


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_refusal_goes_to_review_and_the_lane_goes_on(played: Played, status: int) -> None:
    summary = played.run(refusing(status, "not this one"))
    assert (ExitCode.REFUSED, COUNT - 1, 1) == (summary.exit_code, summary.written, summary.refused)
    assert f"{status} not this one" == played.second("reason")
    assert [text for text in played.all_texts if "number 1" not in text] == played.texts


def test_401_stops_all(played: Played) -> None:
    summary = played.run(refusing(401, "expired"))
    assert (ExitCode.KEY, 1, 1, 2) == (summary.exit_code, summary.written, summary.in_doubt, summary.remaining)


def test_403_stops_the_scope_and_the_fact_stays_in_doubt(played: Played) -> None:
    summary = played.run(refusing(403, "not in your region"))
    assert (ExitCode.KEY, 1, 1, 2) == (summary.exit_code, summary.written, summary.in_doubt, summary.remaining)
    assert_once_after(played)


def assert_once_after(played: Played) -> None:
    """The next run ends it, each memory once."""
    summary = replay_in_no_time(played.server, played.folder / "state", played.dump)
    assert (ExitCode.DONE, 0) == (summary.exit_code, summary.remaining)
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
    assert (ExitCode.DONE, COUNT, 0) == (summary.exit_code, summary.written, summary.in_doubt)
    assert played.listings >= 1
    assert 1 == len({(seen.headers["idempotency-key"], seen.body) for seen in played.sent})
    if fault != "cut_after_released":
        assert played.all_texts == played.texts
        return
    # The key was released with the work done, so the same bytes did it again: that turn is named as residue.
    assert COUNT + 1 == len(played.texts)
    assert 1 == len(json.loads(str(played.second("residue"))))


def test_a_second_failure_while_a_candidate_stands_is_stored_not_extracted(played: Played) -> None:
    summary = played.run("500_after_released", times=2)
    assert (ExitCode.DONE, COUNT) == (summary.exit_code, summary.written)
    assert ("stored_not_extracted", "extraction unknown") == (played.second("state"), played.second("reason"))


def test_ours_killed_is_in_doubt_and_settled_by_the_next_run(played: Played) -> None:
    killed(played.server, played.folder, played.dump, "cut_after", lambda seen: b"number 1" in seen.body)
    assert_once_after(played)


def test_tries_spent_while_others_succeed_is_refused_only_after_an_answer_that_ended_the_work(
    played: Played,
) -> None:
    poison = played.run("500_before", times=99)
    assert (COUNT - 1, 1, 0) == (poison.written, poison.refused, poison.in_doubt)


def test_tries_spent_without_an_answer_hold_the_lane(played: Played) -> None:
    cut = played.run("cut_before", times=99)
    assert (ExitCode.UNREACHABLE, 1, 0, 1, 2) == (
        cut.exit_code,
        cut.written,
        cut.refused,
        cut.in_doubt,
        cut.remaining,
    )


def test_texts_that_the_server_alters_are_proven_by_their_own_keys_after_a_kill(played: Played) -> None:
    killed(played.server, played.folder, played.dump, "cut_after", lambda seen: b"number 1" in seen.body)

    def masked(seen: Seen, body: bytes) -> bytes | None:
        return body.replace(b"remembers", b"[MASKED]") if "/turns" in seen.path else None

    summary = played.run("none", change=masked)
    assert (ExitCode.DONE, 0, 0) == (summary.exit_code, summary.undecidable, summary.remaining)
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
    assert (ExitCode.REFUSED, True) == (summary.exit_code, summary.undecidable >= 1)
    assert "turn_foreign" != played.second("turn_id")
