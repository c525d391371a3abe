"""What all lanes of one run share: the ledger, the wire, the pace, and the reasons to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from spectron_migrate.delivery.limiter import Limiter
from spectron_migrate.delivery.waiting import Effort, Waiting
from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger.batches import IntendedBatch
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.ledger.sessions import SessionRow
from spectron_migrate.ledger.writer import GroupCommit
from spectron_migrate.records import Reporter, Selector
from spectron_migrate.spectron.answers import (
    BatchVerdict,
    KeyStopped,
    ScopeStopped,
    Verdict,
    Wait,
    classify,
    classify_batch,
)
from spectron_migrate.spectron.api import Sleep, SpectronApi
from spectron_migrate.spectron.wire import Answer, InDoubt, NotBegun

T = TypeVar("T")
V = TypeVar("V", Verdict, BatchVerdict)
Sent = IntendedFact | IntendedBatch
Post = Callable[[], Awaitable[Answer]]

StopKind = Literal["signal", "limit", "key", "unreachable", "failure"]

PATIENCE_S = 60.0
"""How long a server that takes no connection is waited for before the run gives up."""
BUSY_PATIENCE_S = 900.0
"""How long 429 and 503 are waited out: the server is there and says so."""
LEFT_OUT_S = 60.0
"""For how long whoever cannot be helped is left alone, where runs follow each other within seconds."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the run ends before its work does."""

    kind: StopKind
    reason: str


class Stopping(NotBegun):
    """The run stops; what waits has not begun."""


class TooLong(Stopping):
    """The run would have nothing to do meanwhile, and does not wait for so long."""


class Brake:
    """Stops a run: what is in flight finishes, whoever waits is woken, nothing more begins."""

    def __init__(
        self, sleep: Sleep, *, clock: Callable[[], float], max_seconds: float | None = None, hold_s: float | None = None
    ) -> None:
        """`sleep` as the run was given it; `clock` in seconds, monotonic. The time that is set runs from now on.

        `hold_s`: nobody is waited for once so many seconds have gone by in which nothing was decided.
        """
        self.stop: Stop | None = None
        self.now = clock
        self._sleep = sleep
        self._hold_s = float("inf") if hold_s is None else hold_s
        self._moved_at = clock()
        self._deadline = float("inf") if max_seconds is None else clock() + max_seconds
        self._pulled = asyncio.Event()

    def moved(self) -> None:
        """Something was decided: the run goes on."""
        self._moved_at = self.now()

    def rest_s(self, *, since: float = float("-inf")) -> float:
        """How much longer the run waits for somebody who waits since that moment."""
        return max(self._moved_at, since) + self._hold_s - self.now()

    def pull(self, kind: StopKind, reason: str) -> None:
        """The first reason stands."""
        if self.stop is None:
            self.stop = Stop(kind, reason)
            self._pulled.set()

    def look(self) -> Stop | None:
        """Why nothing more may begin; None while it may."""
        if self.now() >= self._deadline:
            self.pull("limit", "the time that was set is over")
        return self.stop

    async def sleep(self, seconds: float) -> None:
        """Sleep, no longer than the run may last; raises Stopping as soon as it stops, TooLong without any sleep."""
        if self.look() is None:
            if seconds > self.rest_s():
                raise TooLong("it would take longer than others can wait")
            seconds = min(seconds, self._deadline - self.now())
            waits = {asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._pulled.wait())}
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        stop = self.look()
        if stop is not None:
            raise Stopping(stop.reason)


@dataclass
class Counters:
    """What this run did."""

    retries: int = 0
    sessions: int = 0
    written: int = 0
    tokens: int = 0
    """What the writes cost: as the server says it, else as it was estimated."""


@dataclass
class Run:
    """One run of delivery."""

    ledger: Ledger
    writer: GroupCommit
    api: SpectronApi
    limiter: Limiter
    reporter: Reporter
    principal: str
    """Whose key this run uses: the server keeps idempotency keys by principal."""
    brake: Brake
    session_size: int
    plan: int
    clock: Callable[[], float]
    """Seconds, monotonic."""
    now: Callable[[], str]
    """Wall clock, in our spelling."""
    allowance: int | None = None
    """How many facts may still be sent, where a limit was set."""
    max_tokens: int | None = None
    batches: bool = False
    """Whether memories are sent many a request."""
    failure: MigrateError | None = None
    """What the run has to end with, once all that is in flight is finished."""
    stopped_scopes: dict[Selector, str] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    taken_sessions: set[int] = field(default_factory=set)
    """Sessions that a stream of this run writes to."""
    registering: dict[str, asyncio.Event] = field(default_factory=dict)
    """Paths that some lane is registering just now; whoever else needs them waits."""
    spare_streams: int = 0
    """How many more streams lanes may open beside their first."""
    waiting: Waiting = field(default_factory=Waiting)
    """Whom this run, or those before it, did not wait for."""

    def halt(self, kind: StopKind, reason: str) -> None:
        """Let what is in flight finish, begin nothing more. The first reason stands."""
        self.brake.pull(kind, reason)

    def leave_out(self, key: str, reason: str) -> None:
        """Nothing comes of waiting: the run ends, or where it must not end for one alone, it goes on without that."""
        if self.waiting.hold_s is None:
            self.halt("unreachable", reason)
        else:
            self.waiting.leave(key, reason, until=self.clock() + LEFT_OUT_S)

    def fail(self, error: MigrateError) -> None:
        """Stop, and end with this error."""
        self.failure = self.failure or error
        self.halt("failure", error.message)

    @property
    def stop(self) -> Stop | None:
        """Why the run stops; None while it goes on."""
        return self.brake.stop

    async def pause(self, seconds: float, key: str, why: str) -> bool:
        """Wait before going on with `key`; False as soon as the run stops, or where it leaves that to the next one."""
        try:
            await self.brake.sleep(seconds)
        except TooLong:
            self.waiting.leave(key, why, until=self.clock() + seconds)
            return False
        except Stopping:
            return False
        return not self.should_stop()

    def is_put_off(self, lane: str) -> bool:
        """Whether the server puts off everybody for longer than the run waits: then the next one takes the lane."""
        if self.limiter.paused_s <= max(0.0, self.brake.rest_s()):
            return False
        self.waiting.leave(lane, self.limiter.why, until=self.clock())
        return True

    def is_due(self, key: str) -> bool:
        """Whether it may go on with what an earlier run left waiting."""
        return self.waiting.is_due(key, self.clock())

    def effort(self, key: str) -> Effort:
        """What was done so far to decide what is sent under the key."""
        return self.waiting.effort(key, self.clock())

    def others_succeed(self, effort: Effort) -> bool:
        """Whether the server took others, since the run began in which the doubt arose."""
        return self.counters.written + self.waiting.written > effort.written_before

    def advance(self, facts: int = 1) -> None:
        """So many more are decided."""
        self.brake.moved()
        self.reporter.advance(facts, self.limiter.why)

    def should_stop(self) -> bool:
        """Whether nothing more may begin."""
        return self.brake.look() is not None

    def take(self, wanted: int) -> int:
        """Reserve how many facts may be sent, at once, so that lanes cannot take the same ones."""
        if self.allowance is None:
            return wanted
        taken = min(wanted, self.allowance)
        self.allowance -= taken
        return taken

    def give_back(self, unused: int) -> None:
        """What was reserved and not sent."""
        if self.allowance is not None:
            self.allowance += unused

    def server_now(self) -> str:
        """The server's clock by its newest `Date`: a lower bound."""
        return self.api.wire.server_now or self.now()

    def afford(self, tokens: int) -> bool:
        """Count what a write is going to cost; False, and the run stops, where that was not to be spent."""
        if self.max_tokens is not None and self.counters.tokens + tokens > self.max_tokens:
            self.halt("limit", "the number of tokens that was set is reached")
            return False
        self.counters.tokens += tokens
        return True

    async def send(self, fact: IntendedFact) -> Verdict:
        """One exchange with the bytes of the intent, after waiting while the server says it has not begun.

        Raises NotBegun when patience ends, InDoubt where there is no answer, Unanswered where it may still come.
        """
        session = _server_id(fact.session)
        return await self._exchange(
            fact,
            lambda: self.api.post_fact(fact.content, key=fact.key),
            lambda answer: classify(answer, session_id=session, infer=fact.infer),
        )

    async def send_batch(self, batch: IntendedBatch) -> BatchVerdict:
        """The same for all the facts of a batch."""
        session, infer, messages = _server_id(batch.session), batch.session.infer, len(batch.facts)
        return await self._exchange(
            batch,
            lambda: self.api.post_batch(batch.content, key=batch.key),
            lambda answer: classify_batch(answer, session_id=session, infer=infer, messages=messages),
        )

    async def _exchange(self, sent: Sent, post: Post, read: Callable[[Answer], V]) -> V:
        if not self.is_due(sent.key):
            raise Stopping("it was left waiting")
        patience = Patience(self, sent.key)
        while True:
            try:
                verdict = await self._once(sent, post, read)
            except Stopping:
                raise
            except NotBegun as problem:
                reason, retry_after_s, limit_s = problem.reason, problem.retry_after_s, PATIENCE_S
            else:
                if not isinstance(verdict, Wait):
                    self._note(verdict, sent.session.selector)
                    return verdict
                reason, retry_after_s, limit_s = verdict.reason, verdict.retry_after_s, BUSY_PATIENCE_S
            self.counters.retries += 1
            if patience.is_over(limit_s):
                self.leave_out(sent.key, reason)
            elif await patience.wait(retry_after_s, why=reason):
                continue
            if limit_s == PATIENCE_S:
                self.halt("unreachable", reason)  # without a connection nobody gets through
            raise Stopping(reason)

    async def _once(self, sent: Sent, post: Post, read: Callable[[Answer], V]) -> V:
        """One request in its slot; the limiter learns from it before anybody else takes the place."""
        async with self.limiter.slot() as slot:
            if self.should_stop():
                raise Stopping("the run stops")
            self.waiting.sent(sent.key)
            try:
                answer = await self.waiting.answer(sent.key, sent.content, post, self.brake)
            except InDoubt:
                self.limiter.slow_down("without an answer", None)
                raise
            if answer.too_much:
                self.limiter.slow_down(str(answer.status), answer.retry_after_s)
            else:
                self.limiter.went_well(slot)
            return read(answer)

    async def prepare(self, key: str, call: Callable[[], Awaitable[T]]) -> T:
        """A request that prepares writes, in a slot; raises what it raises, and Unanswered as `send` does."""
        async with self.limiter.slot():
            try:
                return await self.waiting.answer(key, b"", call, self.brake)
            except NotBegun as problem:
                if problem.status is not None:
                    self.limiter.slow_down(str(problem.status), problem.retry_after_s)
                raise

    def _note(self, verdict: Verdict | BatchVerdict, selector: Selector) -> None:
        if isinstance(verdict, KeyStopped):
            self.halt("key", verdict.reason)
        elif isinstance(verdict, ScopeStopped):
            self.stopped_scopes[selector] = verdict.reason


def _server_id(session: SessionRow) -> str:
    assert session.server_id is not None  # noqa: S101 - a fact is intended only in a session that was made
    return session.server_id


class Patience:
    """Waiting for a server that has not begun: longer each time, at least as long as it asks, and not for ever."""

    def __init__(self, run: Run, key: str) -> None:
        """It begins now, for the request that `key` stands for."""
        self._run = run
        self._key = key
        self._began = run.clock()
        self._pause_s = 0.2

    def is_over(self, limit_s: float = PATIENCE_S) -> bool:
        """Whether the run stops, or `limit_s` seconds have gone by."""
        return self._run.should_stop() or self._run.clock() - self._began > limit_s

    async def wait(self, retry_after_s: float | None = None, *, why: str) -> bool:
        """Wait once; False as soon as the run stops, or leaves it to the next one."""
        pause_s, self._pause_s = self._pause_s, min(5.0, self._pause_s * 2)
        return await self._run.pause(max(pause_s, retry_after_s or 0.0), self._key, why)
