"""Adoption (`replay --adopt`): facts that the server has get receipts, facts that it has lost are planned again.

For a ledger that was lost, restored or copied, and for a server that was restored. It lists the sessions that the
ledger knows, then looks for every fact by its words in its exact scopes, lists each session that a hit names, and
matches the turns with the facts (`migration/turn_matching.py`). Nothing is written to the server here, and plain
replays are refused until every fact has been looked for. See docs/protocol.md, Adoption.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spectron_migrate.delivery.brake import Brake, Stopping
from spectron_migrate.delivery.limiter import Limiter
from spectron_migrate.delivery.marker import shows_own_marker, take_over_markers
from spectron_migrate.errors import ScopeRefused, WrongLedger
from spectron_migrate.ledger import Ledger, adopting
from spectron_migrate.ledger.read import adoption, adoption_steps
from spectron_migrate.ledger.read.adoption import KnownSession
from spectron_migrate.migration.adoption_run import Adopted, AdoptionRun, AdoptionSettings
from spectron_migrate.migration.scope_search import ScopeSearch
from spectron_migrate.migration.turn_matching import Leftover, ListedTurn, expected_requests, is_older
from spectron_migrate.parallel import for_each
from spectron_migrate.records import counted, format_time, parse_time
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.grants import require_grant

LOOK_BACK = timedelta(hours=1)
"""Later runs also look for texts that are younger than the adoption by up to this much, because clocks differ."""


@dataclass(frozen=True, slots=True)
class AdoptionCost:
    """What an adoption looks for, and how many requests that takes."""

    memories: int
    scopes: int
    sessions: int
    """Sessions that the ledger knows. Each is listed."""
    requests_low: int
    """Requests that the search takes if everything is there."""
    requests_high: int
    """The most requests that the search takes. Writing what it does not find takes more."""

    def __str__(self) -> str:
        at_most = f"{counted(self.requests_low, 'request')} if they are there, at most {self.requests_high:,}"
        known = f", and listing {counted(self.sessions, 'session')}" if self.sessions else ""
        return (
            f"looking for {counted(self.memories, 'memory')} in {counted(self.scopes, 'scope')} of the server"
            f"{known}, before anything is written: about {at_most}"
        )


def adoption_cost(ledger: Ledger, session_size: int) -> AdoptionCost:
    """What it costs to look for everything that the ledger has not confirmed."""
    groups = adoption.sought_facts(ledger, after=0, before=None)
    sizes = [(len(facts), adoption.count_texts(ledger, facts)) for _, facts in groups]
    sessions = len(adoption.known_sessions(ledger))
    low, high = expected_requests(sizes, sessions=sessions, session_size=session_size)
    return AdoptionCost(sum(size for size, _ in sizes), len(groups), sessions, low, high)


async def adopt(
    ledger: Ledger,
    api: SpectronApi,
    settings: AdoptionSettings,
    *,
    everything: bool,
    limiter: Limiter,
    brake: Brake,
    reporter: Reporter,
    now: Callable[[], datetime],
) -> Adopted:
    """Look for all facts, or for those that were planned since the last adoption, until the brake stops it.

    If the brake stops it, what was found is kept, and the adoption stays unfinished. Raises WrongLedger if the server
    shows nothing that this ledger wrote, KeyRefused and Unreachable.
    """
    before = api.wire.requests
    me = await api.me()
    try:
        scopes = frozenset(node.path for node in await api.scopes())
    except ScopeRefused:
        scopes = None
    run = AdoptionRun(
        ledger, api, settings, me=me, scopes=scopes, limiter=limiter, brake=brake, reporter=reporter, now=now
    )
    try:
        await _look_for_all(run, everything=everything)
    except Stopping:
        run.found.finished = False
    run.found.requests = api.wire.requests - before
    return run.found


async def _look_for_all(run: AdoptionRun, *, everything: bool) -> None:
    """Look scope by scope, then hold the facts that may be older than a turn on the server, and finish."""
    ledger, settings, reporter = run.ledger, run.settings, run.reporter
    unclaimed = await _begin(run) if everything else {}
    last = None if everything else adoption_steps.last_adopted(ledger)
    after, until = last or (0, None)
    groups = dict(adoption.sought_facts(ledger, after=after, before=until))
    searches = [
        ScopeSearch(run, number, groups.get(number, []), unclaimed.get(number, []))
        for number in sorted({*groups, *unclaimed})
    ]
    paths = sorted({path for each in searches for path in each.paths})
    require_grant(run.me, "memory:read", paths, hint="without it, nothing shows what is already there")
    reporter.stage("look for memories", sum(map(len, groups.values())))

    async def search(each: ScopeSearch) -> None:
        await each.run()
        reporter.advance(len(each.fact_ids))

    await for_each(searches, search, in_flight=settings.in_flight)
    with ledger.transaction():
        if not settings.applications_write:
            _hold_lanes(run)
        adopting.finish(ledger, until=format_time(parse_time(run.stamp()) + LOOK_BACK), now=run.stamp())
        if everything and run.scopes is not None:
            adopting.keep_scopes(ledger, paths, run.scopes)
            take_over_markers(ledger, run.scopes, now=run.stamp())


async def _begin(run: AdoptionRun) -> dict[int, list[ListedTurn]]:
    """Compare the sessions that the ledger knows with the server; returns the turns that no receipt names."""
    known = adoption.known_sessions(run.ledger)
    await _check_same_server(run, known)
    with run.ledger.transaction():
        adopting.begin(run.ledger, now=run.stamp())
        if run.scopes is not None:
            adopting.scopes_gone(run.ledger, run.scopes)
    return await _list_sessions(run, known)


async def _check_same_server(run: AdoptionRun, known: Sequence[KnownSession]) -> None:
    """Raise WrongLedger if the server shows no turn and no marker of this ledger: then it is not a restored server.

    A marker without turns proves little: the sessions may have ended, or the server may have been restored to a moment
    after the marker was left. In either case every memory is looked for.
    """
    if run.scopes is not None and shows_own_marker(run.ledger, run.scopes):
        return
    with_turns = [session for session in known if session.facts]
    for session in with_turns:
        listed = await run.list_turns(session.server_id, session.selector)
        if listed is not None and any(turn.id in session.facts for turn in listed):
            return
    if with_turns:
        raise WrongLedger(
            f"Spectron at {run.api.endpoint}, context {run.api.context}, has nothing of what the ledger at"
            f" {run.ledger.path} wrote",
            hint="is the endpoint right? an empty server needs a --state directory of its own",
        )


async def _list_sessions(run: AdoptionRun, known: Sequence[KnownSession]) -> dict[int, list[ListedTurn]]:
    """Compare every known session with the server; returns the turns that no receipt names, by selector."""
    unclaimed: defaultdict[int, list[ListedTurn]] = defaultdict(list)

    async def compare(session: KnownSession) -> None:
        claimed = set(session.facts)
        turns = await run.list_turns(session.server_id, session.selector, shows=claimed)
        present = {turn.id for turn in turns or []}
        gone = [fact for turn, fact in session.facts.items() if turn not in present]
        free = [turn for turn in turns or [] if turn.id not in claimed | session.residue]
        with run.ledger.transaction():
            if gone:
                adopting.plan_gone(run.ledger, gone)
            for turn in session.spare - present:
                adopting.release_spare(run.ledger, session.id, turn)
            if gone or free:
                adopting.close(run.ledger, session.id)
        run.found.gone += len(gone)
        unclaimed[session.selector] += [ListedTurn(session.server_id, turn) for turn in free]

    run.reporter.stage("compare sessions", len(known))
    await for_each(known, compare, in_flight=run.settings.in_flight)
    return {selector: turns for selector, turns in unclaimed.items() if turns}


def _hold_lanes(run: AdoptionRun) -> None:
    """In each lane with a turn that may be newer, hold the first fact that would be sent with extraction."""
    for lane, leftovers in run.unknown.items():
        facts = adoption.read_sought(run.ledger, adoption.full_facts_above_high_water(run.ledger, lane))
        for fact in facts:
            newer = next((each for each in leftovers if not is_older(each, fact, read_at=run.read_at)), None)
            if newer is not None:
                adopting.hold(run.ledger, fact.id, _may_be_newer(newer))
                run.found.held += 1
                break


def _may_be_newer(leftover: Leftover) -> str:
    turn = leftover.listed.turn
    return (
        f"turn {turn.id} of session {leftover.listed.session} has the text of no memory of this dump, and may be newer:"
        " export again and replay --adopt; --resolve ID=absent writes this memory over it"
    )
