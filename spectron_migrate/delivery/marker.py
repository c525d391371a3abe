"""The marker that a run leaves on the server, by which a ledger that is older than the server notices that.

A marker is a scope node below each constant prefix of the run's targets, such as `user/x---m<migration>-<number>`.
Nothing is ever written to it. `cutover complete` leaves one more, `x---m<migration>-complete`, for states that do not
know of the completion. See docs/protocol.md, A ledger that is lost, restored or copied.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

from spectron_migrate.backoff import backoff_s
from spectron_migrate.delivery.own_work import OwnWork
from spectron_migrate.delivery.side_by_side import all_of, in_background
from spectron_migrate.errors import MigrateError, ScopeRefused, Unreachable, WrongLedger
from spectron_migrate.ledger import Ledger, markers, sessions
from spectron_migrate.ledger.cutover_note import cutover_note
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.mapping.segments import MARKER
from spectron_migrate.records import name_first, parse_time
from spectron_migrate.spectron import scopes
from spectron_migrate.spectron.api import MAX_READ_WAIT_S, Sleep, SpectronApi
from spectron_migrate.spectron.wire import InDoubt, NotBegun

NEW_NUMBER_AFTER_S = 12 * 3600.0
"""A process takes a new number each time this much time has passed."""
TRIES = 6
BESIDE_PATIENCE_S = 2.0
"""How long to wait, once the markers are made, for scopes that are registered beside them.

After that each scope is left to its lane, which takes the answer when it comes.
"""
COMPLETE = "complete"
"""In place of a number: the cutover of the migration is complete."""
_MARKER = re.compile(re.escape(MARKER) + rf"([0-9a-f]+)(?:\.([0-9]+\.[0-9]+))?-([0-9]+|{COMPLETE})")
BEHIND_HINT = (
    "name the state directory of the ledger that wrote last with --state; if that is gone, take over what is there:"
    " spectron-migrate replay --adopt"
)
OTHER_SERVER_HINT = (
    "is the endpoint right? a fresh server needs a --state directory of its own; if this one was restored from a"
    " backup: spectron-migrate replay --adopt"
)


def is_marker(path: str) -> bool:
    """Whether a scope is the marker of a run, of any migration."""
    return _MARKER.fullmatch(path.rsplit("/", 1)[-1]) is not None


class RunMarker:
    """Marks the server for one process. A follower keeps one marker for all its rounds and drains."""

    def __init__(self, *, sleep: Sleep) -> None:
        """`sleep` waits between tries."""
        self._sleep = sleep
        self._own: dict[object, OwnWork] = {}
        self.looked_for_completion = False
        """Whether this process has asked the server if the cutover is complete."""

    def own_work(self, ledger: Ledger, now: str) -> OwnWork:
        """What this process has begun in the ledger."""
        return self._own.setdefault(ledger.path, OwnWork(now))

    def forget_sessions(self, ledger: Ledger, *, now: str) -> None:
        """Check the sessions and scopes of this process again before each use, because others may have written there.

        If a lagging replica took over, the ledger may have lost what another worker wrote.
        """
        if (own := self._own.get(ledger.path)) is not None:
            own.sessions.clear()
            own.groups.clear()
            own.began = now

    def is_due(self, ledger: Ledger, now: str) -> bool:
        """Whether the process must look for other markers and leave its own before it writes from this ledger."""
        marked_at = self.own_work(ledger, now).marked_at
        # By the wall clock, because another host may have written while this one was suspended.
        return marked_at is None or abs(_seconds_between(marked_at, now)) >= NEW_NUMBER_AFTER_S

    async def leave(
        self,
        ledger: Ledger,
        api: SpectronApi,
        mapping: ScopeMapping,
        targets: Collection[str],
        *,
        beside: Sequence[str] = (),
        now: str,
    ) -> list[str]:
        """Take the ledger's next number and register its markers; returns why the missing ones could not be made.

        `beside`: scopes to register at the same time, because the run begins with them. If that fails, their lanes try
        again; if it takes long, their lanes go on waiting. Raises Unreachable and KeyRefused. The number is durable
        before the first request.
        """
        prefixes = prefixes_of(mapping, targets)
        with ledger.transaction():
            number = markers.take_number(ledger, now)
            ours = [f"{prefix}/{MARKER}{markers.marked_migration(ledger)}-{number}" for prefix in prefixes]
            # A prefix that is itself a target is registered first, because if it were made as an ancestor, it would not
            # count as ours.
            first = [prefix for prefix in prefixes if prefix in targets and not sessions.is_registered(ledger, prefix)]
            beside = [path for path in beside if path not in first and not sessions.is_registered(ledger, path)]
            above = dict.fromkeys(node for path in [*first, *ours, *beside] for node in scopes.ancestors(path))
            sessions.intend_scopes(ledger, [*above, *beside], now)
        for path in first:
            await self._mark(ledger, api, path, now)
        own = self.own_work(ledger, now)
        own.ahead |= {path: in_background(scopes.register(api, path)) for path in beside}
        registering = asyncio.ensure_future(all_of(_note_registered(ledger, own, path) for path in beside))
        try:
            refused = await all_of(self._mark(ledger, api, path, now) for path in ours)
        finally:
            # Also if a signal ends this, because the ledger must know which nodes are ours.
            with suppress(TimeoutError):
                await asyncio.wait_for(registering, BESIDE_PATIENCE_S)
        own.marked_at = now
        return [why for why in refused if why is not None]

    async def check_again(self, ledger: Ledger, api: SpectronApi, mapping: ScopeMapping) -> None:
        """After `leave`: check whether a copy of this ledger left its marker at the same moment.

        If two processes each leave a marker and then list, at least one of them sees the other's. Raises WrongLedger,
        Unreachable and KeyRefused.
        """
        for attempt in range(TRIES):
            try:
                listed = [node.path for node in await api.scopes()]
            except ScopeRefused:
                return  # there was a warning before
            check_markers(ledger, mapping, listed)
            if shows_newest_marker(ledger, listed):
                return
            await self._sleep(backoff_s(attempt, first_s=0.25, longest_s=8.0, asked_s=None))

    async def leave_completion(self, api: SpectronApi, mapping: ScopeMapping, name: str) -> list[str]:
        """Leave the marker that says that the cutover is complete.

        Returns why missing markers could not be made. `name`: the migration's name in markers. Call it once the journal
        records the completion. Raises Unreachable and KeyRefused.
        """
        listed: list[str] | None = None
        with suppress(ScopeRefused):
            listed = [node.path for node in await api.scopes()]
        prefixes = (
            [each for each in mapping.constant_prefixes if each] if listed is None else prefixes_of(mapping, listed)
        )
        refused = []
        for path in (f"{prefix}/{MARKER}{name}-{COMPLETE}" for prefix in prefixes):
            if listed is None or path not in listed:
                try:
                    await self._register(api, path)
                except ScopeRefused as error:
                    refused.append(error.message)
        return refused

    async def _mark(self, ledger: Ledger, api: SpectronApi, path: str, now: str) -> str | None:
        """Register one node; returns why the key may not do that, or None."""
        created, why = False, None
        try:
            created = await self._register(api, path)
        except ScopeRefused as error:
            why = error.message
        with ledger.transaction():
            if is_marker(path):
                markers.note_lacking(ledger, path.rsplit("/", 1)[0], why, now)
            elif why is None:
                sessions.scope_registered(ledger, path, created_by_us=created)
        return why

    async def _register(self, api: SpectronApi, path: str) -> bool:
        """Register a node, and try again if the outcome is unknown. True if this call created the node."""
        for attempt in range(TRIES):
            asked_s = None
            try:
                return await scopes.register(api, path)
            except NotBegun as problem:
                asked_s, reason = problem.retry_after_s, problem.reason
            except InDoubt as problem:
                reason = problem.reason
                if path in await scopes.live_paths(api):
                    return False
            if asked_s is not None and asked_s > MAX_READ_WAIT_S:
                break
            await self._sleep(backoff_s(attempt, first_s=0.25, longest_s=8.0, asked_s=asked_s))
        raise Unreachable(
            f"Spectron at {api.endpoint} did not register scope {path}: {reason}",
            hint="nothing was written; is the server up? then run the command again",
        )


async def _note_registered(ledger: Ledger, own: OwnWork, path: str) -> None:
    """Record a scope that was registered ahead of its lane. If that failed, the lane registers it."""
    request = own.ahead[path]
    try:
        created = await asyncio.shield(request)
    except (NotBegun, InDoubt, MigrateError):
        own.ahead.pop(path)
        return
    with ledger.transaction(durable=False):  # this gets on disk with the first session, which is begun durably
        sessions.scope_registered(ledger, path, created_by_us=created)
    own.ahead.pop(path)


def prefixes_of(mapping: ScopeMapping, targets: Iterable[str]) -> list[str]:
    """The constant prefixes of the mapping that lead to the targets, for each target the longest one (pure)."""
    longest_first = sorted(mapping.constant_prefixes, key=len, reverse=True)
    found = {
        prefix
        for path in targets
        if (prefix := next((each for each in longest_first if f"{path}/".startswith(f"{each}/")), None)) is not None
    }
    return sorted(found)


def check_markers(ledger: Ledger, mapping: ScopeMapping, listed: Iterable[str]) -> None:
    """Raises WrongLedger if the server has a marker of this migration that the ledger does not know."""
    prefixes, unknown = set(mapping.constant_prefixes), _unknown_markers(ledger, listed)
    others = [path for path in unknown if path.rsplit("/", 1)[0] in prefixes]
    if not others:
        return
    raise WrongLedger(
        f"another ledger of this migration has written to Spectron: it left {name_first(others)}, which the ledger at"
        f" {ledger.path} does not know, so memories could be written twice",
        hint=BEHIND_HINT,
    )


def marker_of_completion(mapping: ScopeMapping, name: str, listed: Iterable[str]) -> str | None:
    """The marker that says that the cutover is complete; None if there is none (pure).

    `name`: the migration's name in markers.
    """
    wanted = {f"{prefix}/{MARKER}{name}-{COMPLETE}" for prefix in mapping.constant_prefixes}
    return min(wanted.intersection(listed), default=None)


def take_over_markers(ledger: Ledger, listed: Iterable[str], *, now: str) -> None:
    """Record all markers of this migration as known, because everything that their runs wrote has been looked for.

    Call inside a transaction.
    """
    markers.note_known(ledger, _unknown_markers(ledger, listed).values(), now)


def shows_own_marker(ledger: Ledger, listed: Iterable[str]) -> bool:
    """Whether the server has a marker that a run of this ledger left."""
    known = markers.known_markers(ledger)
    return not known.isdisjoint(_markers_of_migration(ledger, listed).values())


def shows_newest_marker(ledger: Ledger, listed: Iterable[str]) -> bool:
    """Whether the listing is newer than the newest marker of this ledger."""
    newest = max((int(name) for name in markers.known_markers(ledger) if name.isdigit()), default=0)
    return str(newest) in _markers_of_migration(ledger, listed).values()


def _unknown_markers(ledger: Ledger, listed: Iterable[str]) -> dict[str, str]:
    """Markers of this migration that the ledger does not know, each with the name that it would use for it."""
    known = markers.known_markers(ledger)
    if cutover_note(ledger) == "complete":
        known.add(COMPLETE)
    return {path: name for path, name in _markers_of_migration(ledger, listed).items() if name not in known}


def _markers_of_migration(ledger: Ledger, listed: Iterable[str]) -> dict[str, str]:
    """Markers of this migration, with the names that a ledger uses for them."""
    migration = markers.marked_migration(ledger)
    found = {path: match for path in listed if (match := _MARKER.fullmatch(path.rsplit("/", 1)[-1]))}
    return {
        path: f"{match[2]}-{match[3]}" if match[2] else match[3]
        for path, match in found.items()
        if match[1] == migration
    }


def _seconds_between(earlier: str, later: str) -> float:
    return (parse_time(later) - parse_time(earlier)).total_seconds()
