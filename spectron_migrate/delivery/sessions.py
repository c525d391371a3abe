"""Scopes and sessions for a lane: registered, opened and durable before a fact uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from spectron_migrate.delivery.brake import Stopping
from spectron_migrate.delivery.deferred import Unanswered
from spectron_migrate.delivery.limiter import Kind
from spectron_migrate.delivery.older_ledger import may_open_session, may_use_session
from spectron_migrate.delivery.run import Patience, Run
from spectron_migrate.errors import KeyRefused, MigrateError, NotLegal, ScopeRefused, Unreachable
from spectron_migrate.ledger import sessions
from spectron_migrate.ledger.sending import PlannedFact
from spectron_migrate.ledger.sessions import SessionRow
from spectron_migrate.records import canonical_json
from spectron_migrate.spectron import scopes
from spectron_migrate.spectron.wire import InDoubt, NotBegun

SESSION_TRIES = 3
"""After this many unanswered requests for one session the lane gives up, because each may leave an empty orphan."""


async def open_session(run: Run, lane: str, fact: PlannedFact) -> SessionRow | None:
    """An open session of the lane with room for the fact, reserved for the caller; None if there can be none now.

    In that case the run stops, or the scope is in `run.stopped_scopes`, or the session is deferred.
    """
    found = await run.writer.grouped(
        sessions.open_session,
        lane,
        fact.selector,
        fact.run,
        fact.infer,
        run.session_size,
        taken=run.taken_sessions,
        own=run.own.sessions,
    )
    if found is None:
        found = await _open_new(run, fact, run.rank_of(lane, fact.infer))
    elif found.id in run.taken_sessions:
        return await open_session(run, lane, fact)  # another stream has found it at the same moment
    if found is None:
        return None
    run.taken_sessions.add(found.id)
    if not await may_use_session(run, found):
        run.taken_sessions.discard(found.id)
        return None
    return found


async def _open_new(run: Run, fact: PlannedFact, rank: int) -> SessionRow | None:
    key = canonical_json(["session", fact.selector, fact.run, fact.infer])
    if not run.is_due(key) or not await may_open_session(run, fact):
        return None
    try:
        for path in scopes.paths_of(fact.selector):
            await _register(run, path, rank)
        return await _request_session(run, fact, key, rank)
    except (Stopping, Unanswered):
        return None
    except ScopeRefused as error:
        run.stopped_scopes[fact.selector] = error.message
    except KeyRefused as error:
        run.halt("key", error.message)
    except NotLegal as error:
        run.fail(error)
    except (NotBegun, InDoubt) as problem:
        run.give_up_on(key, problem.reason)
    except Unreachable as error:
        run.give_up_on(key, error.message)
    return None


async def _register(run: Run, path: str, rank: int) -> None:
    """Register a path before its first use, by one lane only. The ledger records it first, with all its ancestors.

    POST /scopes may create the ancestors too, and `erase` must know which nodes we created.
    """
    while path in run.registering:
        await run.registering[path].wait()
    done = run.registering[path] = asyncio.Event()
    try:
        if await run.writer.grouped(sessions.is_registered, path):
            return
        await run.writer.durable(sessions.intend_scopes, [*scopes.ancestors(path), path], run.now())
        created = await _register_patiently(run, path, rank)
        # This becomes durable with the next durable commit, which comes before the first session of the scope.
        run.writer.post(sessions.scope_registered, path, created_by_us=created)
    finally:
        del run.registering[path]
        done.set()


async def _register_patiently(run: Run, path: str, rank: int) -> bool:
    key = f"scope {path}"
    patience = Patience(run, key)

    def register() -> Awaitable[bool]:
        return run.own.take_ahead(path) or scopes.register(run.api, path)

    while run.is_due(key):
        retry_after_s = None
        try:
            return await run.call_in_slot(key, Kind.SCOPE, register, rank=rank)
        except NotBegun as problem:
            retry_after_s, reason = problem.retry_after_s, problem.reason
            if patience.is_over():
                raise
        except InDoubt as problem:
            reason = problem.reason
            if path in await scopes.live_paths(run.api):
                return False
            if patience.is_over():
                raise
        await patience.wait(retry_after_s, why=reason)
    raise Stopping(f"scope {path} is deferred")


async def _request_session(run: Run, fact: PlannedFact, key: str, rank: int) -> SessionRow:
    """Open a session; its id is durable before any fact uses it.

    If the response is lost, the session stays an orphan. If the next run receives the response, the session is used,
    although it may have been counted as an orphan.
    """
    patience, unanswered = Patience(run, key), 0
    metadata = {"source": "mem0", **({"mem0_run": fact.run} if fact.run else {})}
    while run.is_due(key):
        row = await run.writer.durable(sessions.begin_session, fact.selector, fact.run, fact.infer, run.now())
        try:
            opened = await run.call_in_slot(
                key, Kind.SESSION, lambda: run.api.create_session(fact.selector, metadata), rank=rank
            )
        except NotBegun as problem:
            await run.writer.grouped(sessions.session_not_made, row)
            if patience.is_over():
                raise
            await patience.wait(problem.retry_after_s, why=problem.reason)
            continue
        except InDoubt as problem:
            await run.writer.durable(sessions.orphan_session, row)
            unanswered += 1
            if unanswered >= SESSION_TRIES or patience.is_over():
                raise
            await patience.wait(why=problem.reason)
            continue
        except NotLegal:  # it was made, but in scopes that we did not ask for
            await run.writer.durable(sessions.orphan_session, row)
            raise
        except MigrateError:
            await run.writer.grouped(sessions.session_not_made, row)
            raise
        # This becomes durable with the intent of the first fact in the session.
        if not await run.writer.grouped(sessions.session_made, row, opened.id, opened.selector):
            await run.writer.durable(sessions.orphan_session, row)
            raise NotLegal(
                f"Spectron answered POST /sessions with session {opened.id}, which this migration has opened before",
                hint="what is in doubt in a shared session cannot be decided: Spectron must open a new one each time",
            )
        run.counters.sessions += 1
        run.own.sessions.add(row)
        return SessionRow(row, fact.selector, fact.run, fact.infer, opened.id, 0)
    raise Stopping("the session is deferred")
