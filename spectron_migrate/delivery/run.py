"""What all lanes of one run share: the ledger, the wire, the pace, and the reasons to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from spectron_migrate.delivery.limiter import Limiter
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.ledger.writer import GroupCommit
from spectron_migrate.records import Reporter, Selector
from spectron_migrate.spectron.answers import KeyStopped, ScopeStopped, Verdict, Wait, classify
from spectron_migrate.spectron.api import Sleep, SpectronApi
from spectron_migrate.spectron.wire import NotBegun

StopKind = Literal["signal", "limit", "key", "unreachable"]

PATIENCE_S = 60.0
"""How long a server that takes no connection is waited for before the run gives up."""
BUSY_PATIENCE_S = 900.0
"""How long 429 and 503 are waited out: the server is there and says so."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the run ends before its work does."""

    kind: StopKind
    reason: str


@dataclass
class Counters:
    """What this run did."""

    requests: int = 0
    retries: int = 0
    sessions: int = 0
    written: int = 0
    orphan_sessions: int = 0


@dataclass
class Run:
    """One run of delivery."""

    ledger: Ledger
    writer: GroupCommit
    api: SpectronApi
    limiter: Limiter
    reporter: Reporter
    same_principal: bool
    """Whether the key belongs to whoever sent what is in doubt."""
    session_size: int
    plan: int
    clock: Callable[[], float]
    """Seconds, monotonic."""
    now: Callable[[], str]
    """Wall clock, in our spelling."""
    sleep: Sleep = asyncio.sleep
    allowance: int | None = None
    """How many facts may still be sent, where a limit was set."""
    deadline: float | None = None
    stop: Stop | None = None
    stopped_scopes: dict[Selector, str] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)

    def halt(self, kind: StopKind, reason: str) -> None:
        """Let what is in flight finish, begin nothing more. The first reason stands."""
        if self.stop is None:
            self.stop = Stop(kind, reason)

    def should_stop(self) -> bool:
        """Whether nothing more may begin."""
        if self.deadline is not None and self.clock() >= self.deadline:
            self.halt("limit", "the time that was set is over")
        return self.stop is not None

    def server_now(self) -> str:
        """The server's clock by its newest `Date`: a lower bound."""
        return self.api.wire.server_now or self.now()

    async def send(self, fact: IntendedFact) -> Verdict:
        """One exchange with the bytes of the intent, after waiting while the server says it has not begun.

        Raises NotBegun when patience ends, InDoubt where there is no answer.
        """
        began = self.clock()
        pause = 0.2
        while True:
            try:
                async with self.limiter.slot():
                    answer = await self.api.post_fact(fact.content, key=fact.key)
            except NotBegun as problem:
                reason, retry_after_s, patience = problem.reason, problem.retry_after_s, PATIENCE_S
            else:
                session_id = fact.session.server_id
                assert session_id is not None  # noqa: S101 - a fact is intended only in a session that was made
                verdict = classify(answer, session_id=session_id, infer=fact.infer)
                if not isinstance(verdict, Wait):
                    self._note(verdict, fact)
                    return verdict
                reason, retry_after_s, patience = verdict.reason, verdict.retry_after_s, BUSY_PATIENCE_S
                self.limiter.slow_down(reason, retry_after_s)
            self.counters.retries += 1
            if self.clock() - began > patience:
                self.halt("unreachable", reason)
            if self.should_stop():
                raise NotBegun(reason)
            await self.sleep(max(pause, retry_after_s or 0.0))
            pause = min(5.0, pause * 2)

    def _note(self, verdict: Verdict, fact: IntendedFact) -> None:
        if isinstance(verdict, KeyStopped):
            self.halt("key", verdict.reason)
        elif isinstance(verdict, ScopeStopped):
            self.stopped_scopes[fact.session.selector] = verdict.reason
        else:
            self.limiter.went_well()
