"""What all lanes of one run share: the ledger, the wire, the pace, and the reasons to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from spectron_migrate.delivery.limiter import Limiter
from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.ledger.writer import GroupCommit
from spectron_migrate.records import Reporter, Selector
from spectron_migrate.spectron.answers import KeyStopped, ScopeStopped, Verdict, Wait, classify
from spectron_migrate.spectron.api import Sleep, SpectronApi
from spectron_migrate.spectron.wire import NotBegun

StopKind = Literal["signal", "limit", "key", "unreachable", "failure"]

PATIENCE_S = 60.0
"""How long a server that takes no connection is waited for before the run gives up."""
BUSY_PATIENCE_S = 900.0
"""How long 429 and 503 are waited out: the server is there and says so."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the run ends before its work does."""

    kind: StopKind
    reason: str


class Stopping(NotBegun):
    """The run stops; what waits has not begun."""


class Brake:
    """Stops a run: what is in flight finishes, whoever waits is woken, nothing more begins."""

    def __init__(self, sleep: Sleep) -> None:
        """`sleep` as the run was given it."""
        self.stop: Stop | None = None
        self._sleep = sleep
        self._pulled = asyncio.Event()

    def pull(self, kind: StopKind, reason: str) -> None:
        """The first reason stands."""
        if self.stop is None:
            self.stop = Stop(kind, reason)
            self._pulled.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep; raises Stopping as soon as the run stops."""
        if self.stop is None:
            waits = {asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._pulled.wait())}
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        if self.stop is not None:
            raise Stopping(self.stop.reason)


@dataclass
class Counters:
    """What this run did."""

    retries: int = 0
    sessions: int = 0
    written: int = 0


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
    deadline: float | None = None
    failure: MigrateError | None = None
    """What the run has to end with, once all that is in flight is finished."""
    stopped_scopes: dict[Selector, str] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)

    def halt(self, kind: StopKind, reason: str) -> None:
        """Let what is in flight finish, begin nothing more. The first reason stands."""
        self.brake.pull(kind, reason)

    def fail(self, error: MigrateError) -> None:
        """Stop, and end with this error."""
        self.failure = self.failure or error
        self.halt("failure", error.message)

    @property
    def stop(self) -> Stop | None:
        """Why the run stops; None while it goes on."""
        return self.brake.stop

    async def pause(self, seconds: float) -> bool:
        """Wait; False as soon as the run stops."""
        try:
            await self.brake.sleep(seconds)
        except Stopping:
            return False
        return not self.should_stop()

    def should_stop(self) -> bool:
        """Whether nothing more may begin."""
        if self.deadline is not None and self.clock() >= self.deadline:
            self.halt("limit", "the time that was set is over")
        return self.brake.stop is not None

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

    async def send(self, fact: IntendedFact) -> Verdict:
        """One exchange with the bytes of the intent, after waiting while the server says it has not begun.

        Raises NotBegun when patience ends, InDoubt where there is no answer.
        """
        patience = Patience(self)
        while True:
            try:
                async with self.limiter.slot():
                    if self.should_stop():
                        raise Stopping("the run stops")
                    answer = await self.api.post_fact(fact.content, key=fact.key)
            except NotBegun as problem:
                reason, retry_after_s, limit_s = problem.reason, problem.retry_after_s, PATIENCE_S
            else:
                session_id = fact.session.server_id
                assert session_id is not None  # noqa: S101 - a fact is intended only in a session that was made
                verdict = classify(answer, session_id=session_id, infer=fact.infer)
                if not isinstance(verdict, Wait):
                    self._note(verdict, fact)
                    return verdict
                reason, retry_after_s, limit_s = verdict.reason, verdict.retry_after_s, BUSY_PATIENCE_S
                self.limiter.slow_down(reason, retry_after_s)
            self.counters.retries += 1
            if patience.is_over(limit_s):
                self.halt("unreachable", reason)
            if not await patience.wait(retry_after_s):
                raise Stopping(reason)

    def _note(self, verdict: Verdict, fact: IntendedFact) -> None:
        if isinstance(verdict, KeyStopped):
            self.halt("key", verdict.reason)
        elif isinstance(verdict, ScopeStopped):
            self.stopped_scopes[fact.session.selector] = verdict.reason
        else:
            self.limiter.went_well()


class Patience:
    """Waiting for a server that has not begun: longer each time, at least as long as it asks, and not for ever."""

    def __init__(self, run: Run) -> None:
        """It begins now."""
        self._run = run
        self._began = run.clock()
        self._pause_s = 0.2

    def is_over(self, limit_s: float = PATIENCE_S) -> bool:
        """Whether the run stops, or `limit_s` seconds have gone by."""
        return self._run.should_stop() or self._run.clock() - self._began > limit_s

    async def wait(self, retry_after_s: float | None = None) -> bool:
        """Wait once; False as soon as the run stops."""
        pause_s, self._pause_s = self._pause_s, min(5.0, self._pause_s * 2)
        return await self._run.pause(max(pause_s, retry_after_s or 0.0))
