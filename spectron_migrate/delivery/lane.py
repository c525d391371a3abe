"""The facts of one lane, oldest first, one undecided send at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from spectron_migrate.delivery.run import Patience, Run
from spectron_migrate.delivery.settle import Outcome, settle
from spectron_migrate.errors import KeyRefused, MigrateError, NotLegal, ScopeRefused, Unreachable
from spectron_migrate.ledger import sending
from spectron_migrate.ledger.sending import IntendedFact, PlannedFact, SessionRow
from spectron_migrate.records import Infer, Selector, canonical_json
from spectron_migrate.spectron import scopes
from spectron_migrate.spectron.answers import (
    Doubt,
    KeyStopped,
    OtherBody,
    Receipt,
    Refused,
    Running,
    ScopeStopped,
    WrongSession,
)
from spectron_migrate.spectron.wire import InDoubt, NotBegun

AHEAD = 8
"""Facts whose intent is made durable in one commit."""
SESSION_TRIES = 3


class LaneStream:
    """One of the two streams of a lane: its `full` facts strictly in order, or its `none` facts."""

    def __init__(self, run: Run, lane: str, infer: Infer) -> None:
        """`none` facts wait for their own session alone, so they need not wait for the other stream."""
        self._run = run
        self._lane = lane
        self._infer = infer
        self._sessions: dict[tuple[Selector, str | None], SessionRow] = {}

    async def deliver(self) -> None:
        """Settle what is in doubt, then send until nothing is left, the lane is held, or the run stops."""
        if not await self._settle_doubts():
            return
        run = self._run
        while not run.should_stop():
            facts = await run.writer.grouped(sending.next_planned, run.plan, self._lane, self._infer, AHEAD)
            if not facts:
                return
            allowed = run.take(len(facts))
            if not allowed:
                return  # what other lanes have reserved, they send
            if not await self._send_some(facts[:allowed]):
                return

    async def _settle_doubts(self) -> bool:
        run = self._run
        doubts = await run.writer.grouped(sending.intended_facts, lane=self._lane)
        together: dict[int, list[IntendedFact]] = {}
        for fact in doubts:
            if fact.infer == self._infer:
                # `full` facts were sent one after the other over all sessions of the lane.
                together.setdefault(0 if self._infer == "full" else fact.session.id, []).append(fact)
        for facts in together.values():
            if run.should_stop():
                return False
            outcome = await settle(run, facts)
            if outcome is not Outcome.DECIDED and not await self._may_pass(facts[0].session):
                return False
        if self._infer == "none":
            return True
        return not await run.writer.grouped(sending.held_full, self._lane)

    async def _send_some(self, facts: Sequence[PlannedFact]) -> bool:
        """Make intents durable, then send them one by one; False where the stream must not go on."""
        run = self._run
        pairs: list[tuple[PlannedFact, SessionRow]] = []
        for fact in facts:
            session = await self._session_for(fact)
            if session is None:
                break
            pairs.append((fact, session))
            self._sessions[fact.selector, fact.run] = replace(session, used=session.used + 1)
        if not pairs:
            run.give_back(len(facts))
            return False
        intended = await run.writer.durable(sending.intend, pairs, run.server_now(), run.principal)
        run.give_back(len(facts) - len(intended))
        for place, sent in enumerate(intended):
            outcome = Outcome.NEVER_SENT if run.should_stop() else await self._send(sent)
            if outcome is Outcome.DECIDED:
                continue
            await self._take_back(intended[place + (outcome is not Outcome.NEVER_SENT) :])
            return outcome is not Outcome.NEVER_SENT and await self._may_pass(sent.session)
        return len(pairs) == len(facts)

    async def _send(self, fact: IntendedFact) -> Outcome:
        run = self._run
        try:
            verdict = await run.send(fact)
        except NotBegun:
            return Outcome.NEVER_SENT
        except InDoubt:
            return await settle(run, [fact])
        match verdict:
            case Receipt(turn_id=None):
                return await settle(run, [fact])
            case Receipt():
                await run.writer.grouped(sending.receipt, fact.id, verdict, decided_by="answer")
                run.counters.written += 1
            case Refused(_, reason):
                await run.writer.durable(sending.refuse, fact.id, reason)
            case WrongSession(session_id):
                reason = f"Spectron wrote to session {session_id} instead of ours"
                run.stopped_scopes[fact.session.selector] = reason
                await run.writer.durable(sending.undecidable, fact.id, reason)
                return Outcome.UNDECIDABLE
            case KeyStopped() | ScopeStopped():
                return Outcome.HELD
            case Doubt() | Running() | OtherBody():
                return await settle(run, [fact])
            case _:
                raise AssertionError(f"unclassified: {verdict}")
        run.reporter.advance(1, run.limiter.why)
        return Outcome.DECIDED

    async def _may_pass(self, session: SessionRow) -> bool:
        """Doubt holds a `full` lane; of a `none` stream it holds only the session, which is used no more."""
        run = self._run
        if self._infer == "full" or run.stop is not None or session.selector in run.stopped_scopes:
            return False
        await run.writer.durable(sending.close_session, session.id)
        self._sessions.pop((session.selector, session.run), None)
        return True

    async def _take_back(self, facts: Sequence[IntendedFact]) -> None:
        """Intents that certainly never left wait for the next run."""
        ids = [fact.id for fact in facts]
        await self._run.writer.durable(sending.back_to_planned, ids)
        self._run.give_back(len(ids))
        self._sessions.clear()

    # -- sessions -----------------------------------------------------------------------------------------

    async def _session_for(self, fact: PlannedFact) -> SessionRow | None:
        run = self._run
        if fact.selector in run.stopped_scopes:
            return None
        cached = self._sessions.get((fact.selector, fact.run))
        if cached is not None and cached.used < run.session_size:
            return cached
        if cached is None:
            found = await run.writer.grouped(
                sending.open_session, fact.selector, fact.run, self._infer, run.session_size
            )
            if found is not None:
                return found
        else:
            await run.writer.durable(sending.close_session, cached.id)
        try:
            await self._register(fact.selector)
            return await self._make_session(fact)
        except ScopeRefused as error:
            run.stopped_scopes[fact.selector] = error.message
        except KeyRefused as error:
            run.halt("key", error.message)
        except NotLegal as error:
            run.fail(error)
        except (NotBegun, InDoubt) as problem:
            run.halt("unreachable", problem.reason)
        except Unreachable as error:
            run.halt("unreachable", error.message)
        return None

    async def _register(self, selector: Selector) -> None:
        """Every path is registered before its first use; what may be created is noted before it is asked for."""
        run = self._run
        for path in scopes.paths_of(selector):
            if await run.writer.grouped(sending.is_registered, path):
                continue
            now = run.now()
            await run.writer.durable(sending.intend_scopes, [*scopes.ancestors(path), path], now)
            created = await self._patiently_register(path)
            await run.writer.durable(sending.scope_registered, path, created_by_us=created)

    async def _patiently_register(self, path: str) -> bool:
        run = self._run
        patience = Patience(run)
        while True:
            retry_after_s = None
            try:
                async with run.limiter.slot():
                    return await scopes.register(run.api, path)
            except NotBegun as problem:
                retry_after_s = problem.retry_after_s
                if patience.is_over():
                    raise
            except InDoubt:
                if path in await scopes.live_paths(run.api):
                    return False
                if patience.is_over():
                    raise
            await patience.wait(retry_after_s)

    async def _make_session(self, fact: PlannedFact) -> SessionRow:
        """A new session, its id durable before any fact names it; one whose answer is lost stays an orphan."""
        run = self._run
        patience, lost = Patience(run), 0
        while True:
            now = run.now()
            row = await run.writer.durable(sending.begin_session, fact.selector, fact.run, self._infer, now)
            try:
                async with run.limiter.slot():
                    opened = await run.api.create_session(
                        fact.selector, {"source": "mem0", **({"mem0_run": fact.run} if fact.run else {})}
                    )
            except (NotBegun, InDoubt) as problem:
                await run.writer.durable(sending.orphan_session, row)
                lost += isinstance(problem, InDoubt)
                if lost >= SESSION_TRIES or patience.is_over():
                    raise
                await patience.wait(problem.retry_after_s if isinstance(problem, NotBegun) else None)
                continue
            except MigrateError:
                await run.writer.durable(sending.orphan_session, row)
                raise
            run.counters.sessions += 1
            await self._check_echo(opened.selector, fact.selector, row)

            return await run.writer.durable(sending.session_made, row, opened.id, opened.selector)

    async def _check_echo(self, echo: Selector | None, asked: Selector, row: int) -> None:
        """A session in another scope than asked for would put memories where they do not belong."""
        if echo is None or _as_sets(echo) == _as_sets(asked):
            return
        await self._run.writer.durable(sending.orphan_session, row)
        raise NotLegal(
            f"Spectron opened a session in {canonical_json(echo)} where {canonical_json(asked)} was asked for",
            hint="nothing was written to it; the key's grants are not what the mapping assumes",
        )


def _as_sets(selector: Selector) -> set[frozenset[str]]:
    return {frozenset(path.strip("/") for path in clause) for clause in selector}
