"""An outbox is drained past a lane that only waits: its user alone stays behind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from spectron_migrate.local.idempotency import IN_FLIGHT
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.drain_outbox import Drained, Drainer
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.call_log import CallResult
from spectron_migrate.state.outbox import Outbox
from spectron_migrate.state.routing import Routing, name_of, read_routing
from tests.adapter.support import NotedCalls, Stage, begun, judged
from tests.support.proxy import Fault, Gate, Seen, gated, refusing
from tests.support.scene import Time
from tests.support.spectron import turns_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LATER = refusing(429, "later", "900")
RUNNING = refusing(409, IN_FLIGHT)


@dataclass
class Two:
    """Two users whose writes an outbox holds; those of bob go wrong."""

    stage: Stage
    proxy: Gate
    drainer: Drainer
    calls: NotedCalls
    time: Time
    fault: Fault = "none"

    @property
    def ann(self) -> str:
        return self.stage.user

    @property
    def bob(self) -> str:
        return f"{self.stage.user}b"

    def say(self, text: str, user: str) -> str:
        """Mem0 has it, and so has the outbox."""
        mem0_id = self.stage.say(text, user_id=user)
        self.calls.complete([CallResult("ADD", mem0_id, text, {"user_id": user})], self.time.now())
        return mem0_id

    def is_bobs(self, seen: Seen) -> bool:
        return seen.writes_fact and f'user/{self.bob}"'.encode() in seen.body.replace(b'/"', b'"')

    def choose(self, seen: Seen) -> Fault:
        return self.fault if self.is_bobs(seen) else "none"

    def shut(self) -> None:
        """Bob's writes hang from now on, and nothing else happens for long enough to tell."""

        def hangs(seen: Seen) -> bool:
            if self.is_bobs(seen):
                self.time.pass_(0.01)
            return self.is_bobs(seen)

        self.proxy.shut = hangs

    def texts(self, user: str) -> list[str]:
        return [turn.content for turn in turns_of(self.stage.server, user)]

    @property
    def routing(self) -> Routing:
        told = read_routing(self.stage.state)
        assert told is not None
        return told

    def may_read(self, user: str) -> bool:
        name = name_of(self.routing.migration, user)
        return self.routing.is_caught_up(name, self.time.moment.timestamp())

    def api(self) -> SpectronApi:
        server = self.stage.server
        return SpectronApi(self.proxy.base_url, server.context, api_key=server.api_key, sleep=self.time.sleep)

    async def drain(self, api: SpectronApi) -> Drained:
        done = await self.drainer.drain(api)
        assert done is not None
        return done

    def drained(self) -> Drained:
        async def run() -> Drained:
            async with self.api() as api:
                return await self.drain(api)

        return asyncio.run(run())

    def drained_to_the_end(self) -> datetime:
        """When nothing was left."""
        while self.drained().left.total:
            self.time.pass_(1)
        return self.time.moment


@pytest.fixture
def two(stage: Stage) -> Iterator[Two]:
    begun(stage)
    outbox, time = Outbox(stage.state, host=socket.gethostname()), Time(datetime.now(UTC))
    drainer = Drainer(
        stage.state,
        load_mapping(None),
        outbox,
        max_lag_s=60.0,
        hold_s=0.5,
        clock=time.clock,
        now=time.now,
        sleep=time.sleep,
    )
    with gated(stage.server.base_url) as proxy:
        made = Two(stage, proxy, drainer, NotedCalls(stage.state), time)
        proxy.choose = made.choose
        yield made
    outbox.close()


@pytest.mark.parametrize("fault", ["cut_before", RUNNING, LATER])
def test_others_are_drained_and_read_from_spectron_while_one_lane_waits(two: Two, fault: Fault) -> None:
    two.fault = fault
    for number in range(3):
        two.say(f"bob {number}", two.bob)
        two.say(f"ann {number}", two.ann)
        before = two.time.moment
        assert frozenset({two.bob}) == two.drained().behind
        assert [f"ann {each}" for each in range(number + 1)] == two.texts(two.ann)[1:]
        assert two.may_read(two.ann)
        assert not two.may_read(two.bob)
        assert two.time.moment - before < timedelta(seconds=5)
        assert before < datetime.fromisoformat(two.routing.as_of or "")
        two.time.pass_(1)
    two.fault = "none"
    two.time.pass_(900)
    assert 0 == two.drained().left.total
    assert [f"bob {number}" for number in range(3)] == two.texts(two.bob)
    assert two.may_read(two.bob)
    judged(two.stage)


def test_a_write_without_an_answer_goes_on_behind_and_is_not_sent_again(two: Two) -> None:
    two.shut()

    async def drains() -> Drained:
        async with two.api() as api:
            for number in range(3):
                two.say(f"bob {number}", two.bob)
                two.say(f"ann {number}", two.ann)
                assert frozenset({two.bob}) == (await two.drain(api)).behind
                assert [f"ann {each}" for each in range(number + 1)] == two.texts(two.ann)[1:]
            two.proxy.shut = lambda seen: False
            while (done := await two.drain(api)).left.total:  # noqa: ASYNC110 - an answer that is to come from a process
                await asyncio.sleep(0.01)
            return done

    assert frozenset() == asyncio.run(drains()).behind
    assert [f"bob {number}" for number in range(3)] == two.texts(two.bob)
    assert 1 == sum(b"bob 0" in seen.body for seen in two.proxy.seen)
    judged(two.stage)


def test_a_write_that_was_cut_off_and_replaced_is_looked_for_as_long_as_ever(two: Two) -> None:
    two.fault = "cut_before"
    mem0_id = two.say("is lost, and replaced", two.bob)
    two.drained()
    two.fault = "none"
    two.stage.mem0.update(mem0_id, "replaces it")
    two.time.pass_(1)
    two.calls.complete([CallResult("UPDATE", mem0_id, "replaces it", {"user_id": two.bob})], two.time.now())
    began = two.time.moment
    assert timedelta(seconds=120) <= two.drained_to_the_end() - began < timedelta(seconds=140)
    assert ["replaces it"] == two.texts(two.bob)
    judged(two.stage)
