"""Checks before the first byte is written: the right server, a sufficient key, and scopes of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from spectron_migrate.delivery.marker import OTHER_SERVER_HINT, RunMarker, check_markers, shows_own_marker
from spectron_migrate.delivery.older_ledger import check_ledger_age
from spectron_migrate.delivery.side_by_side import begun
from spectron_migrate.errors import NotLegal, ScopeRefused, Unreachable, WrongLedger
from spectron_migrate.ledger import Ledger, markers, sessions
from spectron_migrate.ledger.read import adoption_steps, known, plans, receipts
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.records import counted, name_first
from spectron_migrate.spectron.api import SpectronApi, UnknownSession
from spectron_migrate.spectron.grants import Me, require_grant
from spectron_migrate.spectron.rows import ScopeNode, Turn
from spectron_migrate.spectron.scopes import ancestors, listed_paths

SESSIONS_ASKED = 5
"""The most sessions that are listed. If all of them have ended, the server counts as another one."""
ALWAYS_ASKED = 2
"""The session of the turn that was planned last, and the newest one: several workers may write to others after it was
opened.
"""
SCOPES_AHEAD = 4
"""The most scopes that are registered while the server is marked. A run begins with no more requests in flight."""
LAG_S = 8.0
"""A listing that lacks turns is requested again for this long, which does not count as hanging."""


async def check_server(
    ledger: Ledger,
    api: SpectronApi,
    mapping: ScopeMapping,
    *,
    plan: int,
    marker: RunMarker,
    into_existing: bool,
    applications_write: bool = False,
    retry_refused: bool = False,
    ahead: int = SCOPES_AHEAD,
    now: str,
    warn: Callable[[str], None],
) -> Me:
    """Check that the plan may be written to this server with this key, and mark the server; returns whose key it is.

    `applications_write`: applications register scopes too, which are not foreign, and may write the same texts.
    `retry_refused`: refused facts are sent as well. `ahead`: how many scopes may be registered while the server is
    marked. Raises KeyRefused, NotLegal for scopes that others made, and WrongLedger if this ledger wrote to another
    server or if another ledger has written to this one.
    """
    refuse_half_adopted(ledger)
    paths = plans.target_paths(ledger, plan, refused=retry_refused)
    is_first = _is_unlisted(ledger)
    is_due = bool(paths) and marker.is_due(ledger, now)
    new = plans.unintended_paths(ledger, paths)
    wants_list = is_first or is_due or bool(new)
    with (  # three reads, none of which needs another
        begun(api.me()) as asking,
        begun(_check_same_server(ledger, api)) as comparing,
        begun(_list_scopes(ledger, api, is_first=is_first, now=now, warn=warn))
        if wants_list
        else nullcontext() as listing,
    ):
        me = await asking
        await comparing
        for verb in ("memory:read", "memory:write"):
            require_grant(me, verb, paths, hint="a replay also reads: without it nothing in doubt can be decided")
        listed = await listing if listing is not None else None
    if listed is not None:
        there = [node.path for node in listed]
        check_markers(ledger, mapping, there)
        if not receipts.count_sessions(ledger):
            _forget_other_server(ledger, api, there)
            is_first, new = _is_unlisted(ledger), plans.unintended_paths(ledger, paths)
        before = set(there)
        with ledger.transaction(durable=False):  # this gets on disk with the marker's number, or before the first scope
            # Only targets and their ancestors matter later on. Earlier intents stay as they are.
            kept = before if is_first else before & {node for path in new for node in [*ancestors(path), path]}
            sessions.keep_scope_listing(ledger, sorted(kept), now)
            ledger.keep_server(api.endpoint, me.principal)
    if not into_existing and (is_first or not applications_write):
        _refuse_foreign_scopes(ledger, paths)
    if paths:
        own = marker.own_work(ledger, now)
        await check_ledger_age(ledger, api, own, plan, applications_write=applications_write)
    if is_due:
        # With batches, later checks may still stop the run: of extraction, and for a copy of this ledger.
        first = known.first_paths(ledger, plan, ahead) if ahead and mapping.write != "batch" else []
        lacking = await marker.leave(ledger, api, mapping, set(paths), beside=first, now=now)
        for why in lacking:
            warn(f"{why}: without this marker a copy or an old backup of the ledger could write memories twice")
        if mapping.write == "batch" and not lacking:
            # Two copies may cut their batches differently, and then never meet each other's keys.
            await marker.check_again(ledger, api, mapping)
    known_server = ledger.migration()
    if known_server is not None and (known_server.endpoint, known_server.principal) != (api.endpoint, me.principal):
        with ledger.transaction():
            ledger.keep_server(api.endpoint, me.principal)
    return me


async def check_joined(ledger: Ledger, api: SpectronApi) -> Me:
    """The checks of a process that joins others. These have already checked the scopes and marked the server.

    Returns whose key it is.

    Raises WrongLedger if the server is not theirs. Missing grants show at the first write to each scope.
    """
    me = await api.me()
    migration = ledger.migration()
    if migration is not None and migration.endpoint not in (None, api.endpoint):
        nothing_shows = receipts.newest_session(ledger) is None
        await _check_same_server(ledger, api)
        if nothing_shows and not shows_own_marker(ledger, await listed_paths(api)):
            raise WrongLedger(
                f"other processes deliver to {migration.endpoint}, and nothing shows yet that {api.endpoint} is the"
                " same server",
                hint="give all of them the same endpoint; nothing was sent",
            )
    return me


def refuse_half_adopted(ledger: Ledger) -> None:
    """Raises WrongLedger while an adoption is due or unfinished: planned facts may be on the server already."""
    if (made := adoption_steps.backup_of(ledger)) is not None:
        raise WrongLedger(
            f"the ledger at {ledger.path} is a backup of {made}: what was written since is on the server",
            hint="find it first: spectron-migrate replay --adopt",
        )
    if adoption_steps.is_unfinished(ledger):
        raise WrongLedger(
            f"an adoption of the ledger at {ledger.path} was begun and not finished: what it has not looked for yet may"
            " be on the server",
            hint="run spectron-migrate replay --adopt again",
        )


def _is_unlisted(ledger: Ledger) -> bool:
    migration = ledger.migration()
    return migration is not None and migration.scopes_listed_at is None


async def _list_scopes(
    ledger: Ledger, api: SpectronApi, *, is_first: bool, now: str, warn: Callable[[str], None]
) -> list[ScopeNode]:
    """All scopes; none, with a warning, if the key may no longer list them."""
    why = None
    try:
        listed = await api.scopes()
    except ScopeRefused as error:
        if is_first:
            raise
        listed, why = [], error.message
        warn(f"{why}: nobody can see whether another ledger of this migration has written")
    with ledger.transaction():
        markers.note_lacking(ledger, "", why, now)
    return listed


def _forget_other_server(ledger: Ledger, api: SpectronApi, listed: Sequence[str]) -> None:
    """Forget the scopes of another server if no session was begun there, so that this one is listed afresh.

    For a ledger without any session id: only its own marker can identify the server. (With a session id, the turns of
    the session do.) Raises WrongLedger if sessions were begun at another endpoint and nothing shows that this is the
    same server.
    """
    known = ledger.migration()
    if known is None or known.endpoint in (None, api.endpoint) or shows_own_marker(ledger, listed):
        return
    if sessions.any_begun(ledger):
        raise WrongLedger(
            f"the ledger at {ledger.path} was begun at {known.endpoint}, and nothing shows that {api.endpoint} is the"
            " same server",
            hint="is the endpoint right? another server needs a --state directory of its own; nothing was sent",
        )
    with ledger.transaction():
        sessions.forget_scopes(ledger)


async def _check_same_server(ledger: Ledger, api: SpectronApi) -> None:
    """Raises WrongLedger if the server does not list our confirmed turns: continuing would write everything twice.

    A session that the server no longer knows may have ended, and one whose listing hangs is left to its lane. In these
    cases up to `SESSIONS_ASKED` sessions are listed: none may lack turns, and at least one must be listed completely.
    If an adoption left no turn in any of them, the marker identifies the server.
    """
    answers: list[_Answer] = []
    for number, (server_id, claimed) in enumerate(receipts.sessions_to_show(ledger, SESSIONS_ASKED)):
        if any(each.is_whole for each in answers):
            others = number >= ALWAYS_ASKED and all(each.is_whole for each in answers)
            if others or not claimed:
                return  # a session without turns proves nothing, and its listing may hang
        answers.append(await _ask_session(api, server_id, claimed))
        if answers[-1].lacks:
            break
    wrong = next((each for each in answers if each.lacks), None)
    if wrong is None and (not answers or any(each.is_whole for each in answers)):
        return
    hanging = next((each for each in answers if each.hangs), None)
    if wrong is None and hanging is not None:
        raise Unreachable(hanging.problem, hint="is the server up? nothing was sent")
    if not any(each.any_claimed for each in answers) and adoption_steps.last_adopted(ledger) is not None:
        listed_scopes = [node.path for node in await api.scopes()]
        if shows_own_marker(ledger, listed_scopes):
            return
    raise WrongLedger(
        f"Spectron at {api.endpoint}, context {api.context}, does not have what the ledger at {ledger.path} wrote:"
        f" {(wrong or answers[0]).problem}",
        hint=OTHER_SERVER_HINT,
    )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the server shows of one of our sessions: all its turns, or one of the flags below."""

    any_claimed: bool
    problem: str = ""
    lacks: bool = False
    """Whether claimed turns are not listed."""
    hangs: bool = False
    """Whether no listing came."""

    @property
    def is_whole(self) -> bool:
        return not self.problem


async def _ask_session(api: SpectronApi, server_id: str, claimed: set[str]) -> _Answer:
    any_claimed = bool(claimed)
    listed: set[str] | None = None

    def is_whole(turns: Sequence[Turn]) -> bool:
        nonlocal listed
        listed = {turn.id for turn in turns}
        return claimed <= listed

    try:
        async with asyncio.timeout(api.timeout_s + LAG_S):
            await api.turns(server_id, shows=is_whole)
    except UnknownSession as error:
        return _Answer(any_claimed, error.message)
    except Unreachable as error:
        return _Answer(any_claimed, error.message, hangs=True)
    except TimeoutError:
        if listed is None:  # otherwise it did answer, and its listing counts
            return _Answer(any_claimed, f"Spectron at {api.endpoint} does not list session {server_id}", hangs=True)
    lacking = claimed - (listed or set())
    if not lacking:
        return _Answer(any_claimed)
    problem = f"{len(lacking):,} of {counted(len(claimed), 'turn')} of session {server_id} not listed"
    return _Answer(any_claimed, problem, lacks=True)


def _refuse_foreign_scopes(ledger: Ledger, paths: Sequence[str]) -> None:
    """Raises NotLegal if others made a scope that the plan writes to."""
    foreign = plans.foreign_paths(ledger, paths)
    if foreign:
        raise NotLegal(
            f"{counted(len(foreign), 'scope')} existed before this migration first wrote there: {name_first(foreign)}",
            hint="--into-existing writes to them all the same, and perhaps twice; if the ledger was lost, take over"
            " what is there: spectron-migrate replay --adopt",
        )
