"""Checks whether the server has writes of this migration that the ledger lacks, because the ledger is older or was
copied.

This is checked before the process first writes to a session of an earlier process, and before it opens a session in a
scope of an earlier process (docs/protocol.md, A ledger that is lost, restored or copied).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from spectron_migrate.delivery.marker import BEHIND_HINT, OTHER_SERVER_HINT
from spectron_migrate.delivery.own_work import OwnWork
from spectron_migrate.delivery.passages import folded
from spectron_migrate.delivery.run import Run
from spectron_migrate.errors import KeyRefused, ScopeRefused, Unreachable, WrongLedger
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import known
from spectron_migrate.ledger.read.known import NextFact, SessionTurns
from spectron_migrate.ledger.read.turns import claimed_passages
from spectron_migrate.ledger.sending import PlannedFact
from spectron_migrate.ledger.sessions import SessionRow
from spectron_migrate.records import Selector, counted, same_text
from spectron_migrate.spectron.api import MAX_K, SpectronApi, UnknownSession
from spectron_migrate.spectron.rows import Turn

CHECKED_FIRST = 256
"""How many groups of facts that share sessions are checked before anything is sent.

Every run begins with the same groups, so a ledger that is behind is noticed there. The others are checked right before
their own first write.
"""
AT_ONCE = 8
SPLIT, PART = 1000, 100
"""A text of this many characters or more may be stored in several passages. The first one has at least this length."""
_LONGEST_QUERY = 1_000

Read = Callable[..., Awaitable[Any]]
"""Asks the ledger a question, such as those of `ledger.read.known`, as `GroupCommit.grouped` does."""


# -- before anything is sent --------------------------------------------------------------------------------


async def check_ledger_age(
    ledger: Ledger, api: SpectronApi, own: OwnWork, plan: int, *, applications_write: bool
) -> None:
    """Raises WrongLedger if the server has writes that the ledger does not know, or lacks writes that it knows.

    `applications_write`: applications may write the same texts, so scopes are not searched. Raises KeyRefused and
    Unreachable.
    """
    if not known.has_earlier_work(ledger, own.began):
        return
    sessions = set(known.sessions_in_doubt(ledger))
    new: list[NextFact] = []
    for fact in known.next_facts(ledger, plan, CHECKED_FIRST):
        found = known.open_sessions(ledger, fact)
        sessions |= set(found)
        if not found and _is_to_search(ledger, own, fact, applications_write=applications_write):
            new.append(fact)
    sessions -= own.sessions
    slots = asyncio.Semaphore(AT_ONCE)

    async def read(question: Callable[..., Any], *args: object) -> Any:
        return question(ledger, *args)

    async def check(checking: Awaitable[None]) -> None:
        async with slots:
            await checking

    checks = [_check_session(api, known.known_session(ledger, session), ledger) for session in sorted(sessions)]
    checks += [_check_scope(api, fact.selector, fact.id, read, ledger) for fact in new]
    failures = [one for one in await asyncio.gather(*map(check, checks), return_exceptions=True) if one is not None]
    if failures:
        raise next((one for one in failures if isinstance(one, WrongLedger)), failures[0])
    own.sessions |= sessions
    own.groups |= {(fact.selector, fact.run, fact.infer) for fact in new}


def _is_to_search(ledger: Ledger, own: OwnWork, fact: NextFact, *, applications_write: bool) -> bool:
    if applications_write or (fact.selector, fact.run, fact.infer) in own.groups:
        return False
    return known.is_earlier_scope(ledger, fact.selector, own.began)


# -- before a lane's own first write ------------------------------------------------------------------------


async def may_use_session(run: Run, session: SessionRow) -> bool:
    """Whether the ledger knows everything in an open session; if not, the run stops."""
    if session.id in run.own.sessions:
        return True
    there = await run.writer.grouped(known.known_session, session.id)
    if not await _holds(run, f"session {session.id}", _check_session(run.api, there, run.ledger)):
        return False
    run.own.sessions.add(session.id)
    return True


async def may_open_session(run: Run, fact: PlannedFact) -> bool:
    """Whether the ledger knows everything in the scopes of the fact's first session; if not, the run stops."""
    group = (fact.selector, fact.run, fact.infer)
    if run.applications_write or group in run.own.groups:
        return True
    if await run.writer.grouped(known.is_earlier_scope, fact.selector, run.own.began):
        checking = _check_scope(run.api, fact.selector, fact.id, run.writer.grouped, run.ledger)
        if not await _holds(run, f"scopes {fact.selector}", checking):
            return False
    run.own.groups.add(group)
    return True


async def _holds(run: Run, key: str, checking: Awaitable[None]) -> bool:
    if not run.is_due(key):
        return False
    try:
        await checking
    except WrongLedger as error:
        run.fail(error)
    except KeyRefused as error:
        run.halt("key", error.message)
    except Unreachable as error:
        run.give_up_on(key, error.message)
    else:
        return True
    return False


# -- what is compared ---------------------------------------------------------------------------------------


async def _check_session(api: SpectronApi, session: SessionTurns, ledger: Ledger) -> None:
    """Compare the turns of a session with the ledger. A session that has ended shows nothing."""
    try:
        turns = await api.turns(session.server_id, shows=lambda listed: session.claimed <= {one.id for one in listed})
    except (UnknownSession, ScopeRefused):
        return
    lacking = session.claimed - {turn.id for turn in turns}
    if lacking:
        raise WrongLedger(
            f"Spectron at {api.endpoint}, context {api.context}, does not have what the ledger at {ledger.path} wrote:"
            f" {len(lacking):,} of {counted(len(session.claimed), 'turn')} of session {session.server_id} not listed",
            hint=OTHER_SERVER_HINT,
        )
    unknown = unknown_turns(session, turns)
    if unknown:
        raise WrongLedger(
            f"session {session.server_id} of this migration has {counted(len(unknown), 'turn')} that the ledger at"
            f" {ledger.path} does not know: another ledger has written there",
            hint=BEHIND_HINT,
        )


def unknown_turns(session: SessionTurns, turns: Sequence[Turn]) -> list[Turn]:
    """The turns that belong to no fact that the ledger knows (pure).

    Up to one turn for each fact in doubt may belong to these facts, whatever its text. Further turns must have the text
    of one of them.
    """
    unclaimed = [turn for turn in turns if turn.id not in session.claimed | session.explained]
    if len(unclaimed) <= session.in_doubt:
        return []
    return [turn for turn in unclaimed if not any(same_text(turn.content, text) for text in session.texts)]


async def _check_scope(api: SpectronApi, selector: Selector, fact: int, read: Read, ledger: Ledger) -> None:
    """Look for the text of a fact that this ledger has not sent.

    A run writes a scope's oldest memories first. So if the ledger is behind, the next memory is there without a
    receipt.
    """
    text = await read(known.text_of, fact)
    try:
        found = await api.query(
            text[:_LONGEST_QUERY],
            lens=selector,
            k=MAX_K,
            mode="bm25",
            include=("passages",),
            include_duplicates=True,
        )
    except ScopeRefused:
        return
    hits = [hit.id for hit in found.hits if hit.source == "memory_chunk" and _begins(text, hit.text)]
    if found.tier == "cache" or len(hits) >= MAX_K:
        return
    # The order matters, because other workers may send equal texts meanwhile. Everything that the answer shows was
    # intended before it, and whatever gets its receipt after the count is claimed by then.
    copies = await read(known.copies_without_passage, selector, text)
    unclaimed = set(hits) - set(await read(claimed_passages, hits))
    if len(unclaimed) > copies:
        paths = ", ".join(sorted({path for clause in selector for path in clause}))
        raise WrongLedger(
            f"{paths} already has a memory that the ledger at {ledger.path} is about to write: another ledger of this"
            " migration has written there",
            hint=BEHIND_HINT,
        )


def _begins(text: str, passage: str) -> bool:
    """Whether a passage is the text, or the first piece of a long text."""
    whole, piece = folded(text), folded(passage)
    if len(text) < SPLIT:
        return whole == piece
    return whole.startswith(piece) and len(piece) >= PART
