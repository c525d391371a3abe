"""What all lanes of one run share: the ledger, the API, the limiter, and the reasons to stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, overload

from spectron_migrate.backoff import backoff_s
from spectron_migrate.delivery.brake import Brake, Stop, StopKind, Stopping, TooLong
from spectron_migrate.delivery.budget import Budget, OwnBudget
from spectron_migrate.delivery.deferred import DeferredWork, RecoveryProgress, Unanswered
from spectron_migrate.delivery.key_memory import KeyQuestion
from spectron_migrate.delivery.limiter import FIRST_OF_ALL, Kind, Limiter
from spectron_migrate.delivery.longest_lanes import LongestLanes
from spectron_migrate.delivery.own_work import OwnWork
from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger.batches import IntendedBatch
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.ledger.writer import GroupCommit
from spectron_migrate.records import Infer, Selector
from spectron_migrate.reporter import Gauges, Reporter
from spectron_migrate.spectron.answers import (
    BatchResult,
    Doubt,
    InFlight,
    KeyNotHeld,
    KeyRejected,
    OtherBody,
    Refused,
    RetryLater,
    ScopeRejected,
    WriteResult,
    classify,
    classify_batch,
    classify_question,
)
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.wire import InDoubt, NotBegun

T = TypeVar("T")

NO_CONNECTION_LIMIT_S = 60.0
"""How long to try a server that accepts no connection before the run gives up."""
THROTTLED_LIMIT_S = 900.0
"""How long 429 and 503 with `Retry-After` are obeyed: the server is up and says when to come back."""
GIVEN_UP_FOR_S = 60.0
"""How long a round of following leaves alone what it gave up on, because rounds follow each other within seconds."""

FactResult = WriteResult | NotBegun | Unanswered
"""The result of sending a fact once. NotBegun: nothing was started, perhaps because the run stops."""
SentBatchResult = BatchResult | NotBegun | Unanswered
Intent = IntendedFact | IntendedBatch | KeyQuestion


class NotYet(NotBegun):
    """The server did not start on a resend. The listing is read before the next try."""


@dataclass
class Counters:
    """Counts of what this run did."""

    retries: int = 0
    sessions: int = 0
    written: int = 0
    tokens: int = 0
    """What the writes cost, as the server reports or else as estimated."""

    def add(self, other: Counters) -> None:
        """Add the counts of another run."""
        self.retries += other.retries
        self.sessions += other.sessions
        self.written += other.written
        self.tokens += other.tokens


@dataclass
class Run:
    """One run of delivery."""

    ledger: Ledger
    writer: GroupCommit
    api: SpectronApi
    limiter: Limiter
    reporter: Reporter
    principal: str
    """The owner of the API key; the server keeps idempotency keys by principal."""
    brake: Brake
    session_size: int
    plan: int
    clock: Callable[[], float]
    """Seconds, monotonic."""
    now: Callable[[], str]
    """Wall clock, in the form of `format_time`."""
    budget: Budget = field(default_factory=lambda: OwnBudget(None, None))
    max_tokens: int | None = None
    batches: bool = False
    """Whether many memories go in one request."""
    failure: MigrateError | None = None
    """The error to raise once everything in flight has finished."""
    stopped_scopes: dict[Selector, str] = field(default_factory=dict)
    """Scopes to which nothing more is sent, and why."""
    counters: Counters = field(default_factory=Counters)
    unlisted_sessions: set[int] = field(default_factory=set)
    """Sessions that the server did not know when their turns were listed."""
    ended_sessions: Counter[int] = field(default_factory=Counter)
    """By fact: how many of its sessions ended before it was decided."""
    taken_sessions: set[int] = field(default_factory=set)
    """Sessions to which a stream of this run writes; no other stream may use them."""
    registering: dict[str, asyncio.Event] = field(default_factory=dict)
    """Paths that a lane is registering now. Other lanes that need them wait."""
    spare_streams: int = 0
    """How many streams lanes may open in addition to their first one."""
    deferred: DeferredWork = field(default_factory=DeferredWork)
    own: OwnWork = field(default_factory=lambda: OwnWork(""))
    """What this process has begun in the ledger, in this run and earlier ones."""
    applications_write: bool = False
    """Whether applications write to the same scopes."""
    everything_is_late: bool = False
    """Whether nothing may be sent with extraction any more, because what applications have written is newer."""
    is_out_of_sends: bool = False
    """Whether the whole allowance is reserved. Then lanes are begun only to decide what is in doubt."""
    left_lanes: bool = False
    """Whether lanes were left because the whole allowance was reserved."""
    lanes_elsewhere: set[str] = field(default_factory=set)
    """Lanes that other processes had when this one wanted them."""
    longest: LongestLanes = field(default_factory=LongestLanes)
    """The lanes with the most left, which go before others."""
    all_may_begin: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the first lanes no longer need a head start: a memory was sent, or no lane is left."""
    in_doubt: set[int] = field(default_factory=set)
    """Facts that this run found in doubt and has not decided."""

    # -- stopping and waiting -----------------------------------------------------------------------------

    def halt(self, kind: StopKind, reason: str) -> None:
        """Begin nothing new, and let requests in flight finish. The first reason is kept."""
        self.brake.pull(kind, reason)

    def fail(self, error: MigrateError) -> None:
        """Stop, and end the run with this error."""
        self.failure = self.failure or error
        self.halt("failure", error.message)

    def give_up_on(self, key: str, reason: str) -> None:
        """Give up on `key`: a replay stops; a round of following defers it and goes on."""
        if self.deferred.idle_limit_s is None:
            self.halt("unreachable", reason)
        else:
            self.deferred.defer(key, reason, until=self.clock() + GIVEN_UP_FOR_S)

    @property
    def stop(self) -> Stop | None:
        """Why the run stops; None while it goes on."""
        return self.brake.stop

    def should_stop(self) -> bool:
        """Whether nothing new may begin."""
        return self.brake.check() is not None

    async def pause(self, seconds: float, key: str, why: str) -> bool:
        """Wait before `key` continues; False if the run stops, or defers the key to the next run."""
        try:
            await self.brake.sleep(seconds)
        except TooLong:
            self.deferred.defer(key, why, until=self.clock() + seconds)
            return False
        except Stopping:
            return False
        return not self.should_stop()

    def defer_if_throttled(self, lane: str) -> bool:
        """Defer the lane if the server has asked for a pause that is longer than this run waits."""
        if self.limiter.paused_s <= max(0.0, self.brake.idle_left_s()):
            return False
        self.deferred.defer(lane, self.limiter.why, until=self.clock())
        return True

    def is_due(self, key: str) -> bool:
        """Whether something that an earlier run deferred may continue."""
        return self.deferred.is_due(key, self.clock())

    # -- what was done so far -----------------------------------------------------------------------------

    def progress(self, key: str) -> RecoveryProgress:
        """What was done so far to decide the write with this key."""
        return self.deferred.progress(key, self.clock())

    def others_succeed(self, progress: RecoveryProgress) -> bool:
        """Whether the server has accepted other writes since the start of the run in which this one became doubtful."""
        return self.counters.written + self.deferred.written_before > progress.written_before

    def count_decided(self, facts: int = 1) -> None:
        """Report this many more facts as decided."""
        self.brake.note_decision()
        self.reporter.advance(facts)

    def note_doubt(self, facts: Sequence[IntendedFact], reason: str) -> None:
        """Log that the facts are in doubt, and count them until `note_decided`."""
        for fact in facts:
            if fact.id not in self.in_doubt:
                self.in_doubt.add(fact.id)
                self.reporter.event("doubt", id=fact.mem0_id, why=reason)

    def note_decided(self, facts: Sequence[IntendedFact]) -> None:
        """The facts are no longer in doubt."""
        self.in_doubt.difference_update(fact.id for fact in facts)

    def note_refusal(self, facts: Sequence[IntendedFact], status: int | None) -> None:
        """Log that the server refused the facts; its message may repeat a text, so the log has only the status."""
        for fact in facts:
            self.reporter.event("refused", id=fact.mem0_id, status=status)

    def gauges(self) -> Gauges:
        """What is going on now, for the progress line."""
        return Gauges(self.limiter.in_flight, len(self.in_doubt), self.limiter.why)

    # -- limits -------------------------------------------------------------------------------------------

    async def reserve_sends(self, wanted: int) -> int:
        """Reserve up to this many sends, so that no other lane takes them."""
        reserved = await self.budget.take_sends(wanted)
        self.is_out_of_sends = wanted > 0 and not reserved
        self.left_lanes |= self.is_out_of_sends
        return reserved

    def release_sends(self, unused: int) -> None:
        """Return reserved sends that were not used."""
        self.budget.give_back_sends(unused)
        if unused:
            self.is_out_of_sends = False

    async def spend_tokens(self, tokens: int) -> bool:
        """Count what a write will cost. If that exceeds the limit, stop the run and return False."""
        self.counters.tokens += tokens
        if await self.budget.allows_tokens(self.counters.tokens):
            return True
        self.counters.tokens -= tokens
        self.halt("limit", "the token limit was reached")
        return False

    # -- several processes --------------------------------------------------------------------------------

    async def confirm_lanes(self) -> None:
        """Return once it is certain that the lanes of this process are still its own.

        It must not begin a request before.

        If Postgres does not answer in time, another process may have taken them. Raises Unreachable if the connection
        is lost, and Stopping.
        """
        workers = self.ledger.workers
        while workers is not None and not workers.is_fresh:
            if self.should_stop():
                raise Stopping("the run stops")
            await self.writer.grouped(_ask)

    def rank_of(self, lane: str, infer: Infer) -> int:
        """As for `Limiter.slot`: facts without extraction fill what the lanes that must keep an order leave free."""
        return self.longest.left(lane) if infer == "full" else 0

    # -- requests -----------------------------------------------------------------------------------------

    def server_now(self) -> str:
        """The server's clock, by its newest `Date` header: a lower bound."""
        return self.api.wire.server_now or self.now()

    @overload
    async def send(
        self, intent: IntendedFact, *, patience: Patience | None = None, rank: float = FIRST_OF_ALL
    ) -> FactResult: ...
    @overload
    async def send(
        self, intent: IntendedBatch, *, patience: Patience | None = None, rank: float = FIRST_OF_ALL
    ) -> SentBatchResult: ...
    @overload
    async def send(self, intent: KeyQuestion) -> FactResult | KeyNotHeld: ...
    async def send(
        self, intent: Intent, *, patience: Patience | None = None, rank: float = FIRST_OF_ALL
    ) -> FactResult | SentBatchResult | KeyNotHeld:
        """Send the bytes of an intent until the server starts on them, and classify the result.

        The first two rows of the recovery table are handled here: if the server did not start (429 or 503 with
        `Retry-After`, no connection), the same bytes go again after a pause, up to a limit. `patience` is given for a
        write that is in doubt already: it is sent only once, and the result is NotYet if the server did not start. Then
        the listing is read first, because the server may have restarted. If that becomes apparent while a throttled
        write (429, 503) waits, the write is in doubt too: the server may have stored it nevertheless, and no longer
        know its key. `rank` as for `Limiter.slot`.
        """
        if not self.is_due(intent.key):
            return Stopping("it is deferred")
        is_resend, patience = patience is not None, patience or Patience(self, intent.key)
        is_throttled = False
        while True:
            try:
                result = await self._request(intent, rank)
            except InDoubt as problem:
                return Doubt(problem.reason, problem.finished)
            except (Stopping, Unanswered) as problem:
                return problem
            except NotBegun as problem:
                connected, reason, asked_s = False, problem.reason, problem.retry_after_s
            else:
                if not isinstance(result, RetryLater):
                    self._note_result(intent, result)
                    return result
                connected, reason, asked_s = True, result.reason, result.retry_after_s
            self.counters.retries += 1
            if patience.is_over(THROTTLED_LIMIT_S if connected else NO_CONNECTION_LIMIT_S):
                self.give_up_on(intent.key, reason)
            elif await patience.wait(asked_s, why=reason):
                if is_resend:
                    return NotYet(reason)
                is_throttled |= connected
                if is_throttled and self._may_be_forgotten(intent):
                    return Doubt(reason)
                continue
            if not connected:
                self.halt("unreachable", reason)  # without a connection, no lane can send
            return Stopping(reason)

    def _may_be_forgotten(self, intent: Intent) -> bool:
        """Whether something has shown since the last send that the server may have lost the keys of its writes."""
        self.deferred.keys.note_refused_connections(self.api.wire.refused)
        return not isinstance(intent, KeyQuestion) and self.deferred.keys.may_be_forgotten(intent.key)

    async def _request(self, intent: Intent, rank: float) -> WriteResult | BatchResult | KeyNotHeld:
        """One request in a slot; the limiter learns from its response before the slot is free again."""
        post = self.api.post_batch if isinstance(intent, IntendedBatch) else self.api.post_fact
        async with self.limiter.slot(rank=rank) as slot:
            if self.should_stop():
                raise Stopping("the run stops")
            await self.confirm_lanes()
            self.deferred.keys.note_refused_connections(self.api.wire.refused)
            if not isinstance(intent, KeyQuestion):
                self.deferred.note_send(intent.key)
                self.all_may_begin.set()
            try:
                response = await self.deferred.await_response(
                    intent.key, intent.content, lambda: post(intent.content, key=intent.key), self.brake
                )
            except InDoubt:
                self.limiter.slow_down("without an answer", None)
                raise
            if response.is_throttled:
                self.limiter.slow_down(str(response.status), response.retry_after_s)
            else:
                self.limiter.note_success(slot)
        session = intent.session
        assert session.server_id is not None  # noqa: S101 - a fact is intended only in a session that was made
        match intent:
            case IntendedFact():
                return classify(response, session_id=session.server_id, infer=intent.infer)
            case KeyQuestion():
                return classify_question(response, session_id=session.server_id, infer=intent.infer)
            case IntendedBatch():
                return classify_batch(
                    response, session_id=session.server_id, infer=session.infer, messages=len(intent.facts)
                )

    async def call_in_slot(self, key: str, kind: Kind, call: Callable[[], Awaitable[T]], *, rank: int) -> T:
        """Make a request that prepares writes (scopes, sessions), in a slot.

        `rank` as for `Limiter.slot`. Raises what the request raises, and Unanswered.
        """
        async with self.limiter.slot(kind, rank=rank) as slot:
            await self.confirm_lanes()
            try:
                found = await self.deferred.await_response(key, b"", call, self.brake)
            except NotBegun as problem:
                if problem.status is not None:
                    self.limiter.slow_down(str(problem.status), problem.retry_after_s)
                raise
            self.limiter.note_success(slot)
            return found

    def _note_result(self, intent: Intent, result: WriteResult | BatchResult | KeyNotHeld) -> None:
        if isinstance(result, KeyRejected):
            self.halt("key", result.reason)
        if isinstance(intent, KeyQuestion):
            return
        if isinstance(result, Refused):
            self.deferred.note_refused(intent.key)
        if isinstance(result, ScopeRejected):
            self.stopped_scopes[intent.session.selector] = result.reason
        if not isinstance(result, Doubt | InFlight | OtherBody):
            self.deferred.keys.forget(intent.key)


def _ask(ledger: Ledger) -> None:
    if ledger.workers is not None:
        ledger.workers.ask()


class Patience:
    """Waits for a server that did not start on a request: longer each time, and at least as long as it asked for."""

    def __init__(self, run: Run, key: str) -> None:
        """Time counts from now. `key` names what waits."""
        self._run = run
        self._key = key
        self._began = run.clock()
        self._waits = 0

    def is_over(self, limit_s: float = NO_CONNECTION_LIMIT_S) -> bool:
        """Whether the run stops, or `limit_s` seconds have passed."""
        return self._run.should_stop() or self._run.clock() - self._began > limit_s

    async def wait(self, asked_s: float | None = None, *, why: str) -> bool:
        """Wait once; False if the run stops, or defers the key to the next run."""
        pause_s = backoff_s(self._waits, first_s=0.2, longest_s=5.0, asked_s=asked_s)
        self._waits += 1
        return await self._run.pause(pause_s, self._key, why)
