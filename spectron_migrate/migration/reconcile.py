"""Reconciling: compares all of Mem0 with the ledger, memory by memory, until two readings in a row agree.

This is what turns following into a guarantee: the comparison finds every write to Mem0, however it was made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from spectron_migrate.migration.differences import Differences
from spectron_migrate.migration.round_result import Round
from spectron_migrate.migration.rounds import CatchUpSettings, Rounds, comparison_beside
from spectron_migrate.records import Json, counted, format_time
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.following import is_followed
from spectron_migrate.state.routing import read_routing
from spectron_migrate.state.store import StateStore, read_object, write_object

STATE_FILE = "reconciled.json"
IN_A_ROW = 2
MOST_ROUNDS = 8
"""After this many rounds reconciling gives up, because some writers never pause."""
MOST_AGED = 0.5
"""If the last comparison took more than this share of `max_lag`, a round that reads only later changes follows it."""
QUIET_PAUSE_S = 5.0
"""The least time between the two readings that prove that Mem0 stood still, whatever `settle` says.

Two readings of a small store take milliseconds. An application that writes every second might write before and after
both. And a call to Mem0 may end some seconds after its adapter last looked at the routing, which it does every 0.5 s.
"""
FOLLOWER_PATIENCE_S = 120.0
FOLLOWER_LOOK_S = 0.5
"""How long, and at what interval, to wait for the process that follows to end its round."""
HELD_EVERY_S = 5.0
HELD_PATIENCE_S = 960.0
"""At what interval, and for how long, lanes held by doubt are tried again.

After 15 minutes any doubt can be decided.
"""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The result of the last comparisons."""

    agree: bool
    quiet: bool
    """Nothing changed in Mem0 in between, and nothing waits to settle; `complete` requires this."""
    began: str
    """When the first of the agreeing scans began."""
    ended: str
    rounds: int
    memories: int
    waiting: int
    differences: int
    named: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """As `reconciled.json` holds it."""
        return asdict(self) | {"named": list(self.named)}


class Compared(Protocol):
    """The result of one comparison, made in a round or beside the rounds."""

    @property
    def as_of(self) -> str:
        """The time as of which Mem0 was compared."""

    @property
    def compared(self) -> Differences | None:
        """The differences; None if the round did not compare."""

    @property
    def quiet(self) -> bool:
        """Whether nothing changed in Mem0 during the comparison, and nothing waits."""


class Agreement:
    """Counts comparisons in a row in which Mem0 and the ledger agree."""

    def __init__(self, *, quiet: bool = False) -> None:
        """`quiet`: count only comparisons during which nothing changed in Mem0."""
        self._want_quiet = quiet
        self._row: list[Compared] = []
        self._rounds = 0
        self._last: Compared | None = None

    def add(self, done: Compared) -> bool:
        """Add a comparison; returns whether two in a row agree now."""
        self._rounds += 1
        self._last = done
        agrees = done.compared is not None and done.compared.total == 0 and (done.quiet or not self._want_quiet)
        self._row = [*self._row, done][-IN_A_ROW:] if agrees else []
        return len(self._row) == IN_A_ROW

    def result(self, now: str) -> Reconciled:
        """The result so far."""
        last = self._last
        compared = last.compared if last is not None and last.compared is not None else Differences(0, 0, 0, 0, 0)
        agree = len(self._row) == IN_A_ROW
        return Reconciled(
            agree=agree,
            quiet=agree and all(done.quiet for done in self._row),
            began=self._row[0].as_of if agree else (last.as_of if last else now),
            ended=now,
            rounds=self._rounds,
            memories=compared.memories,
            waiting=compared.waiting,
            differences=compared.total,
            named=compared.named,
        )


async def reconcile(
    rounds: Rounds,
    api: SpectronApi,
    *,
    quiet: bool = False,
    supersede: bool = True,
    reporter: Reporter,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Reconciled:
    """Run rounds that compare until two in a row agree or too many have not; writes the result for the gates.

    `quiet`: also wait until young memories have settled and nothing changes any more. Hold `round_lock` meanwhile.
    Raises what a round raises.
    """
    agreement = Agreement(quiet=quiet)
    left, held_s = MOST_ROUNDS, 0.0
    while left:
        done = await rounds.round(api, compare=True, supersede=supersede)
        if agreement.add(done):
            latest = await _catch_up(rounds, api, done, supersede=supersede, now=now)
            if not quiet or latest.quiet:
                break
            agreement = Agreement(quiet=quiet)
            left -= 1
            continue
        if done.held and held_s < HELD_PATIENCE_S:
            reporter.info(f"{done.problem}: waiting for that")
            await sleep(HELD_EVERY_S)
            held_s += HELD_EVERY_S
            continue
        if done.problem is not None:
            break
        left -= 1
        if quiet and not done.waiting:
            await sleep(QUIET_PAUSE_S)
        if quiet and done.waiting:
            reporter.info(
                f"{counted(done.waiting, 'memory is', 'memories are')} younger than"
                f" {rounds.settings.settle_s:.0f} s: waiting for that"
            )
            await sleep(rounds.settings.settle_s)
    result = agreement.result(format_time(now()))
    write_result(rounds.settings.state, result)
    return result


async def reconcile_beside(
    settings: CatchUpSettings,
    *,
    reporter: Reporter,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Reconciled | None:
    """Compare all of Mem0 twice beside the rounds of the process that follows; writes the result if both agree.

    Returns None if this process has to reconcile in rounds of its own, because no follower ends a round in time or
    something differs. Raises what a reading of Mem0 raises.
    """
    agreement, agree = Agreement(), False
    comparison = None
    while not agree:
        comparison = comparison_beside(settings, comparison, reporter=reporter, now=now)
        try:
            await asyncio.to_thread(comparison.read)
        finally:
            comparison.stop()
        if not await _has_round_after(comparison.ended, settings.state, sleep=sleep):
            return None
        shown = await asyncio.to_thread(comparison.conclude)
        if shown is None or shown.compared.total:
            return None
        agree = agreement.add(shown)
    result = agreement.result(format_time(now()))
    write_result(settings.state, result)
    return result


async def _has_round_after(moment: str, state: Path | StateStore, *, sleep: Callable[[float], Awaitable[None]]) -> bool:
    """Wait until the routing shows a round that began after this moment; False if that takes too long."""
    waited_s = 0.0
    while waited_s < FOLLOWER_PATIENCE_S and is_followed(state):
        routing = read_routing(state)
        if routing is not None and routing.as_of is not None and routing.as_of > moment:
            return True
        await sleep(FOLLOWER_LOOK_S)
        waited_s += FOLLOWER_LOOK_S
    return False


async def _catch_up(
    rounds: Rounds, api: SpectronApi, last: Round, *, supersede: bool, now: Callable[[], datetime]
) -> Round:
    """The last round, or one more if the last one took so long that its result is already out of date."""
    age_s = (now() - last.began_at).total_seconds()
    if age_s <= rounds.settings.max_lag_s * MOST_AGED:
        return last
    return await rounds.round(api, supersede=supersede)


def write_result(state: Path | StateStore, result: Reconciled) -> None:
    """Write the result for the gates."""
    write_object(state, STATE_FILE, result.to_json())


def read_last_result(state: Path | StateStore) -> Reconciled | None:
    """The last result; None if there is none."""
    written = read_object(state, STATE_FILE)
    try:
        return None if written is None else Reconciled(**{**written, "named": tuple(written["named"])})
    except (KeyError, TypeError):
        return None
