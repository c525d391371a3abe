"""A lane that only waits holds nobody but itself: the others stay caught up, and time decides about it as ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar
from urllib.request import Request, urlopen

import pytest

from spectron_migrate.delivery import deferred
from spectron_migrate.local.idempotency import IN_FLIGHT
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.reconcile import Reconciled, reconcile
from spectron_migrate.migration.round_result import Round
from spectron_migrate.migration.rounds import Rounds
from spectron_migrate.records import Memory, format_time
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.journal import record_step
from spectron_migrate.state.routing import Routing, name_of, read_routing
from tests.support.here import server_here
from tests.support.oracle import Watch, find_violations, ledger_facts
from tests.support.proxy import Fault, Gate, Seen, gated, refusing
from tests.support.replaying import mapping_file
from tests.support.scene import Scene, Store
from tests.support.spectron import turns_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NONE = "infer: none\n"
BATCH = "infer: none\nwrite: batch\n"
RUNNING = refusing(409, IN_FLIGHT)
T = TypeVar("T")


@dataclass
class Two:
    """Two users behind a proxy: `ann`, whose writes nothing happens to, and `bob`, whose writes go wrong."""

    scene: Scene
    proxy: Gate
    watch: Watch
    fault: Fault | Callable[[Seen], Fault] = "none"
    of_bob: Callable[[Seen], bool] = lambda seen: seen.writes_fact
    """Which of bob's requests it happens to."""
    played: list[Fault] = field(default_factory=list)
    number: int = 0
    every_s: float = 10.0
    """Between two rounds."""

    def put(self, text: str, user: str, *, number: int = 0) -> int:
        """A memory that has settled, newer than all before it; a `number` replaces the text of that one."""
        self.number += 1
        at = self.scene.time.moment - timedelta(seconds=100 - self.number / 100)
        row = number or self.number
        self.scene.store.put(row, text, user, at)
        return row

    def is_bobs(self, seen: Seen) -> bool:
        return b"user/bob" in seen.body and self.of_bob(seen)

    def choose(self, seen: Seen) -> Fault:
        if not self.is_bobs(seen):
            return "none"
        self.played.append(self.fault(seen) if callable(self.fault) else self.fault)
        return self.played[-1]

    def shut(self) -> None:
        """Bob's writes hang from now on. Time passes meanwhile, but only once all other writes are decided.

        Else a slow machine would let the round end before they are.
        """
        self.scene.hold_s = 0.2

        def hangs(seen: Seen) -> bool:
            if self.is_bobs(seen) and not self.undecided_of_others():
                self.scene.time.pass_(0.01)
            return self.is_bobs(seen)

        self.proxy.shut = hangs

    def undecided_of_others(self) -> list[str]:
        """Lanes other than bob's with facts that are planned or in doubt."""
        undecided = [fact for fact in ledger_facts(self.scene.state) if fact["state"] in ("planned", "intended")]
        return [fact["lane"] for fact in undecided if "user/bob" not in fact["lane"]]

    def open(self) -> None:
        self.proxy.shut = lambda seen: False

    def texts(self, user: str) -> list[str]:
        return [turn.content for turn in turns_of(self.scene.server, user)]

    def sent_of(self, text: str) -> int:
        return sum(seen.writes_fact and text.encode() in seen.body for seen in self.proxy.seen)

    def wrong(self) -> list[str]:
        """What the oracle says, of the wire and of what is there in the end."""
        with self.scene.store.open(self.scene.time.now()) as reader:
            memories = [row for row in reader.rows() if isinstance(row, Memory)]
        mapping = load_mapping(self.scene.mapping)
        return self.watch.wrong + find_violations(self.scene.server.database, self.scene.state, memories, mapping)

    def play(self, rounds: Callable[[Rounds, SpectronApi], Awaitable[T]]) -> T:
        """Rounds of one process, whose requests may outlast a round."""

        async def run() -> T:
            async with self.scene.api() as api:
                return await rounds(self.scene.rounds(), api)

        return asyncio.run(run())

    async def while_it_is_shut(self, rounds: Rounds, api: SpectronApi) -> Round:
        """Three rounds in which bob's requests hang, and those after it is open, to the last one."""
        for number in range(3):
            self.put(f"bob {number}", "bob")
            self.put(f"ann {number}", "ann")
            done = await rounds.round(api)
            assert frozenset({"bob"}) == done.behind
            assert 1 == done.held
            assert 1 == done.written
            assert [f"ann {each}" for each in range(number + 1)] == self.texts("ann")
        self.open()
        return await self.until_none_is_held(rounds, api)

    async def until_none_is_held(self, rounds: Rounds, api: SpectronApi) -> Round:
        while (done := await rounds.round(api, compare=True)).held:
            self.scene.time.pass_(self.every_s)
            await asyncio.sleep(0.02)
        return done


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    with server_here(tmp_path / "data", context="tests") as server:
        scene = Scene(Store(tmp_path / "mem0"), server, tmp_path, "ann")
        watch = Watch(scene.state)
        with gated(server.base_url, watch.around) as proxy:
            scene.endpoint, made = proxy.base_url, Two(scene, proxy, watch)
            proxy.choose, watch.choose = watch, made.choose
            yield made


def cut_off_and_replaced(two: Two) -> None:
    """Of bob one write is in doubt, which Mem0 has replaced by now."""
    two.fault = "cut_before"
    number = two.put("is lost, and replaced", "bob")
    two.put("of ann", "ann")
    two.scene.round()
    two.fault = "none"
    two.put("replaces it", "bob", number=number)
    two.scene.time.pass_(20)


# -- others -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["", NONE, BATCH])
@pytest.mark.parametrize("fault", ["cut_before", RUNNING, refusing(429, "later", "900"), refusing(503, "no", "7")])
def test_others_are_caught_up_and_their_newer_writes_arrive_while_one_lane_waits(
    two: Two, tmp_path: Path, fault: Fault, mapping: str
) -> None:
    two.scene.mapping, two.fault = mapping_file(tmp_path, mapping), fault
    rounds = two.scene.rounds()
    for number in range(4):
        two.put(f"bob {number}", "bob")
        two.put(f"ann {number}", "ann")
        before = two.scene.time.moment
        done = two.scene.round(rounds)
        assert frozenset({"bob"}) == done.behind
        assert done.held or number  # all patience may be over by now, and begin anew
        assert [f"ann {each}" for each in range(number + 1)] == two.texts("ann")
        assert before < done.began_at
        assert two.scene.time.moment - before < timedelta(seconds=15)
        two.scene.time.pass_(10)
    assert done.problem is not None
    two.fault = "none"
    two.scene.time.pass_(900)
    last = two.play(two.until_none_is_held)
    assert last.problem is None
    assert frozenset() == last.behind
    assert 0 == last.left.total
    assert [f"bob {number}" for number in range(4)] == sorted(two.texts("bob"))
    assert mapping or two.texts("bob") == sorted(two.texts("bob"))
    assert [] == two.wrong()


def test_a_session_with_a_write_that_waits_takes_no_other_write(two: Two, tmp_path: Path) -> None:
    """Streams of the lane that go on need sessions, and would find it open."""
    two.scene.mapping = mapping_file(tmp_path, "infer: none\nsession: {by: run_id, size: 12}\n")
    two.fault = lambda seen: "cut_before" if b"bob 001" in seen.body else "none"
    for number in range(300):
        two.put(f"bob {number:03d}", "bob")
    done = two.scene.round()
    assert frozenset({"bob"}) == done.behind
    assert 1 == done.held
    assert [] == two.watch.wrong
    two.fault = "none"
    two.scene.time.pass_(900)
    two.play(two.until_none_is_held)
    assert [f"bob {number:03d}" for number in range(300)] == sorted(two.texts("bob"))
    assert [] == two.wrong()


def test_followers_keep_readers_of_everybody_else_on_spectron(two: Two) -> None:
    migration = "f" * 16
    record_step(two.scene.state, Step("start", format_time(two.scene.time.now()), "anna", migration=migration))
    two.fault = RUNNING
    two.put("of bob", "bob")
    two.put("of ann", "ann")
    caught_up: list[tuple[bool, bool]] = []

    def routing() -> Routing:
        told = read_routing(two.scene.state)
        assert told is not None
        return told

    async def look(seconds: float) -> None:
        now, told = two.scene.time.moment.timestamp(), routing()
        if told.as_of is not None:
            ann, bob = (told.is_caught_up(name_of(migration, user), now) for user in ("ann", "bob"))
            caught_up.append((ann, bob))
        await two.scene.time.sleep(seconds)

    two.scene.follow(max_seconds=600, sleep=look)
    assert len(caught_up) > 40
    assert {(True, False)} == set(caught_up)
    as_of = datetime.fromisoformat(routing().as_of or "")
    assert two.scene.time.moment - as_of < timedelta(seconds=30)
    two.fault = "none"
    two.scene.follow(max_seconds=30)
    assert frozenset() == routing().behind
    assert [] == two.wrong()


@pytest.mark.parametrize("first", ["cut_before", "none"])
@pytest.mark.parametrize("mapping", ["", NONE, BATCH])
def test_a_session_that_is_closed_to_writes_is_left_although_no_round_waits_for_long(
    two: Two, tmp_path: Path, mapping: str, first: Fault
) -> None:
    two.scene.mapping = mapping_file(tmp_path, mapping)
    rounds = two.scene.rounds()
    two.put("bob 0", "bob")
    two.scene.round(rounds)
    [closed] = {turn.session for turn in turns_of(two.scene.server, "bob")}

    def refuse(seen: Seen) -> Fault:
        is_first = len(two.played) == 1 and first != "none"
        return first if is_first else refusing(404, "it is closed") if closed.encode() in seen.body else "none"

    two.fault = refuse
    two.put("bob 1", "bob")
    for _ in range(40):
        two.scene.round(rounds)
        two.scene.time.pass_(10)
    assert ["bob 0", "bob 1"] == two.texts("bob")
    # What Spectron refused goes again in another session.
    assert [] == [wrong for wrong in two.wrong() if not wrong.startswith("I10")]


# -- requests without an answer -----------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["", NONE, BATCH])
def test_a_request_goes_on_behind_the_round_and_its_answer_is_taken_by_a_later_one(
    two: Two, tmp_path: Path, mapping: str
) -> None:
    two.scene.mapping = mapping_file(tmp_path, mapping)
    two.shut()

    last = two.play(two.while_it_is_shut)
    assert last.problem is None
    assert frozenset() == last.behind
    assert [f"bob {number}" for number in range(3)] == two.texts("bob")
    assert 1 == two.sent_of("bob 0")
    assert [] == two.wrong()


def test_a_hanging_write_whose_process_dies_is_decided_by_the_next_one(two: Two) -> None:
    two.shut()
    two.put("bob 0", "bob")
    two.put("ann 0", "ann")
    assert 1 == (done := two.scene.round()).held
    assert 1 == done.written
    two.put("bob 1", "bob")
    two.open()
    assert 0 == two.play(two.until_none_is_held).left.total
    assert ["bob 0", "bob 1"] == two.texts("bob")
    assert [] == two.wrong()


@pytest.mark.parametrize("path", ["/scopes", "/sessions"])
def test_a_hanging_scope_or_session_holds_only_its_user(two: Two, path: str) -> None:
    two.of_bob = lambda seen: seen.method == "POST" and seen.path.endswith(path)
    two.shut()

    assert 0 == two.play(two.while_it_is_shut).left.total
    assert ["bob 0", "bob 1", "bob 2"] == two.texts("bob")
    assert 1 == sum(two.is_bobs(seen) for seen in two.proxy.seen)
    assert [] == two.wrong()


@pytest.mark.parametrize("fault", ["cut_before", refusing(429, "later", "900")])
@pytest.mark.parametrize("path", ["/scopes", "/sessions"])
def test_a_throttled_scope_or_session_holds_only_its_user(two: Two, path: str, fault: Fault) -> None:
    two.of_bob = lambda seen: seen.method == "POST" and seen.path.endswith(path)
    two.fault = fault
    rounds = two.scene.rounds()
    for number in range(3):
        two.put(f"bob {number}", "bob")
        two.put(f"ann {number}", "ann")
        done = two.scene.round(rounds)
        assert frozenset({"bob"}) == done.behind
        assert 1 == done.written
        two.scene.time.pass_(10)
    assert len(two.played) < 20
    two.fault = "none"
    two.scene.time.pass_(900)
    assert 3 == two.scene.round(rounds).written
    assert [f"bob {number}" for number in range(3)] == two.texts("bob")
    assert [] == two.wrong()


def test_no_more_requests_go_on_behind_than_leave_room_for_others(two: Two) -> None:
    """Where half of the places are taken by requests without an answer, the round waits as it always did."""
    two.shut()
    two.of_bob = lambda seen: seen.writes_fact
    users = [f"bob{number}" for number in range(6)]
    for user in users:
        two.put(f"of {user}", user)

    async def rounds(_: Rounds, api: SpectronApi) -> Round:
        few = Rounds(
            replace(two.scene.settings, max_in_flight=4),
            reporter=two.scene.reporter,
            clock=two.scene.time.clock,
            now=two.scene.time.now,
            sleep=two.scene.time.sleep,
        )
        going = asyncio.ensure_future(few.round(api))
        await asyncio.wait({going}, timeout=2.0)
        assert not going.done()
        two.open()
        await going
        return await two.until_none_is_held(few, api)

    assert 0 == two.play(rounds).left.total
    assert [1] * 6 == [two.sent_of(f"of {user}") for user in users]
    assert [] == two.wrong()


def test_throttled_users_do_not_delay_others_in_the_next_round(two: Two) -> None:
    """So many refusals in a row that the limiter lets nobody through: in the next round it is somebody else's turn."""
    two.fault = refusing(429, "later", "900")
    for number in range(6):
        two.put(f"of bob{number}", f"bob{number}")
    rounds = two.scene.rounds()
    two.scene.round(rounds)
    for number in range(3):
        two.put(f"ann {number}", "ann")
        before = two.scene.time.moment
        done = two.scene.round(rounds)
        assert two.scene.time.moment - before < timedelta(seconds=15)
        two.scene.time.pass_(5)
    assert ["ann 0", "ann 1", "ann 2"] == two.texts("ann")
    assert frozenset(f"bob{number}" for number in range(6)) == done.behind
    assert [] == two.watch.wrong


def test_a_round_does_not_wait_for_the_listing_after_a_refusal(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred, "LISTING_LIMIT_S", 0.3)
    two.fault = refusing(422, "not this one")
    two.proxy.shut = lambda seen: seen.path.endswith("/turns")
    two.put("bob 0", "bob")
    two.put("ann 0", "ann")
    began = time.monotonic()
    done = two.scene.round()
    assert time.monotonic() - began < 10
    assert (1, 1) == (done.written, done.refused)


def test_a_hanging_listing_holds_only_its_user(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred, "LISTING_LIMIT_S", 0.3)
    two.put("ann 0", "ann")  # whose session shows that the server is the right one
    rounds = two.scene.rounds()
    two.scene.round(rounds)
    two.fault = "cut_after"
    two.put("bob 0", "bob")
    two.scene.round(rounds)
    two.fault = "none"
    [bobs] = {turn.session for turn in turns_of(two.scene.server, "bob")}
    two.proxy.shut = lambda seen: bobs in seen.path
    before = len(two.proxy.seen)
    for number in range(1, 4):
        two.put(f"bob {number}", "bob")
        two.put(f"ann {number}", "ann")
        two.scene.time.pass_(10)
        done = two.scene.round(rounds)
        assert frozenset({"bob"}) == done.behind
        assert 1 == done.held
        assert 1 == done.written
    assert 1 == sum(bobs in seen.path for seen in two.proxy.seen[before:])
    two.open()
    two.scene.time.pass_(60)
    assert 0 == two.play(two.until_none_is_held).left.total
    assert [f"bob {number}" for number in range(4)] == two.texts("bob")
    assert [] == two.wrong()


# -- patience ------------------------------------------------------------------------------------------------


def test_the_wait_for_a_late_arrival_lasts_over_all_rounds(two: Two) -> None:
    cut_off_and_replaced(two)
    began = two.scene.time.moment
    last = two.play(two.until_none_is_held)
    assert timedelta(seconds=120) <= two.scene.time.moment - began < timedelta(seconds=150)
    assert 0 == last.left.total
    assert ["replaces it"] == two.texts("bob")
    assert [] == two.wrong()


def test_the_wait_for_a_late_arrival_begins_again_after_a_resend(two: Two) -> None:
    """What Mem0 has again is sent again, so that its time begins with that."""
    two.fault = "cut_before"
    number = two.put("comes and goes", "bob")
    two.put("of ann", "ann")
    two.scene.round()
    rounds = two.scene.rounds()
    row = two.scene.store.rows.copy()
    two.scene.store.drop(number)
    for _ in range(10):
        assert 1 == two.scene.round(rounds).held
        two.scene.time.pass_(10)
    two.scene.store.rows.update(row)
    two.scene.store.put(number, "comes and goes", "bob", two.scene.time.moment - timedelta(seconds=300))
    before = two.sent_of("comes and goes")
    two.scene.round(rounds)
    assert before < two.sent_of("comes and goes")
    two.scene.store.drop(number)
    two.scene.time.pass_(30)
    assert 1 == two.scene.round(rounds).held
    two.scene.time.pass_(100)
    assert 1 == two.scene.round(rounds).held
    two.scene.time.pass_(30)
    assert 0 == (last := two.scene.round(rounds)).held
    assert 0 == last.left.total
    assert [] == two.wrong()


def in_flight_with_its_turn_there(two: Two) -> timedelta:
    """Play until a write that stays in flight, and whose turn is there, is decided; how long that took."""
    two.fault, two.every_s = "500_after_stuck", 40.0
    two.put("in flight for ever", "bob")
    two.put("of ann", "ann")
    began = two.scene.time.moment
    last = two.play(two.until_none_is_held)
    assert 0 == last.left.total
    assert last.problem is None
    [fact] = [fact for fact in ledger_facts(two.scene.state) if "flight" in (fact["text"] or "")]
    assert "turns" == fact["decided_by"]
    assert ["in flight for ever"] == two.texts("bob")
    assert [] == two.wrong()
    return two.scene.time.moment - began


def test_a_write_that_stays_in_flight_is_decided_by_its_turn_after_a_quarter_of_an_hour(two: Two) -> None:
    assert timedelta(seconds=900) <= in_flight_with_its_turn_there(two) < timedelta(seconds=960)


def test_without_extraction_the_turn_that_is_there_decides_at_once(two: Two, tmp_path: Path) -> None:
    """Nothing is left to be done for such a text, so nothing is waited for."""
    two.scene.mapping = mapping_file(tmp_path, NONE)
    assert timedelta(seconds=60) > in_flight_with_its_turn_there(two)


def test_a_write_in_flight_for_ever_without_a_turn_stays_in_doubt(two: Two) -> None:
    two.fault, two.every_s = RUNNING, 40.0
    two.put("in flight, and absent", "bob")
    two.put("of ann", "ann")
    began = two.scene.time.moment
    last = two.play(two.until_none_is_held)
    assert timedelta(seconds=900) <= two.scene.time.moment - began < timedelta(seconds=960)
    assert 1 == last.left.in_doubt
    assert frozenset({"bob"}) == last.behind
    assert "1 memory could not be delivered" == last.problem
    two.fault = "none"
    assert 1 == two.scene.round().written
    assert [] == two.wrong()


def test_a_write_that_the_server_always_fails_at_is_given_up_where_others_succeed(two: Two) -> None:
    two.fault = lambda seen: "500_before" if b"poison" in seen.body else "none"
    two.put("poison", "bob")
    rounds = two.scene.rounds()
    for number in range(8):
        two.put(f"ann {number}", "ann")
        done = two.scene.round(rounds)
        two.scene.time.pass_(10)
    two.put("after it", "bob")
    last = two.scene.round(rounds)
    assert 1 == done.refused
    assert 0 == last.left.total
    assert 0 == last.held
    assert ["after it"] == two.texts("bob")
    assert len(two.played) < 10
    assert [] == two.wrong()


def test_a_server_that_fails_at_everything_makes_nobody_give_up(two: Two) -> None:
    two.put("of ann", "ann")
    rounds = two.scene.rounds()
    assert 1 == two.scene.round(rounds).written
    two.fault = "500_before"
    two.put("of bob", "bob")
    for _ in range(10):
        assert 0 == (done := two.scene.round(rounds)).refused
        two.scene.time.pass_(10)
    assert 1 == done.left.in_doubt
    two.fault = "none"
    two.play(two.until_none_is_held)
    assert ["of bob"] == two.texts("bob")
    assert [] == two.wrong()


def test_what_a_try_left_behind_is_residue_although_another_round_finds_it(two: Two) -> None:
    """The first send arrives late, the second one in between; whoever looks then knows that both were the same."""

    def late(seen: Seen) -> Fault:
        if len(two.played) != 1:
            return "none" if two.played else "cut_before"
        headers = {"Authorization": seen.headers["authorization"], "Content-Type": "application/json"}
        urlopen(Request(two.scene.server.base_url + seen.path, seen.body, headers)).close()
        return "cut_after_released"

    two.scene.hold_s = 0.5
    two.fault = late
    two.put("arrives twice", "bob")
    two.put("of ann", "ann")
    rounds = two.scene.rounds()
    assert 1 == two.scene.round(rounds).held
    assert ["arrives twice"] * 2 == two.texts("bob")
    two.scene.time.pass_(5)
    assert 0 == two.scene.round(rounds).left.total
    [fact] = [fact for fact in ledger_facts(two.scene.state) if "twice" in (fact["text"] or "")]
    assert "turns" == fact["decided_by"]
    assert 1 == len(fact["residue"])
    assert [] == two.wrong()


# -- reconciling ---------------------------------------------------------------------------------------------


def reconciled(two: Two) -> Reconciled:
    time = two.scene.time

    async def run(rounds: Rounds, api: SpectronApi) -> Reconciled:
        return await reconcile(rounds, api, reporter=two.scene.reporter, now=time.now, sleep=time.sleep)

    return two.play(run)


def test_reconciling_waits_for_what_time_will_decide(two: Two) -> None:
    cut_off_and_replaced(two)
    began = two.scene.time.moment
    done = reconciled(two)
    assert done.agree
    assert 0 == done.differences
    assert timedelta(seconds=120) <= two.scene.time.moment - began < timedelta(seconds=180)
    assert [] == two.wrong()


def test_reconciling_ends_where_time_will_not_decide(two: Two) -> None:
    two.fault = refusing(429, "later", "7")
    two.put("put off for ever", "bob")
    two.put("of ann", "ann")
    began = two.scene.time.moment
    done = reconciled(two)
    assert not done.agree
    assert 1 == done.differences
    assert timedelta(seconds=900) <= two.scene.time.moment - began < timedelta(seconds=2400)
    assert ["of ann"] == two.texts("ann")
