"""Late writers go on writing to Mem0 after `cutover complete`. Finds what they left there and brings it to Spectron.

A host that never read the routing, or a job that nobody thought of, writes to Mem0 as before. `read_late_writes` finds
what is newer there than in the ledger; `bring_late_writes` delivers it as late memories. Once a cutover is
sealed, deletions are no longer carried over: an emptied Mem0 must not hide anything in Spectron.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from spectron_migrate.errors import NotLegal
from spectron_migrate.migration.reconcile import HELD_EVERY_S, HELD_PATIENCE_S
from spectron_migrate.migration.round_result import Round
from spectron_migrate.migration.rounds import Rounds
from spectron_migrate.records import format_time
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.late_writes import LateWrites, keep_late_writes


async def read_late_writes(rounds: Rounds, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> LateWrites:
    """Read all of Mem0, compare it with the ledger and keep the result; nothing is sent. Hold `round_lock` meanwhile.

    Raises what a round raises if Mem0 cannot be read in full.
    """
    found = await rounds.compare()
    late = LateWrites(
        format_time(now()), found.memories, found.missing + found.undecided, found.named, max(0, found.extra)
    )
    keep_late_writes(rounds.settings.state, late)
    return late


async def bring_late_writes(
    rounds: Rounds,
    api: SpectronApi,
    *,
    reporter: Reporter,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> tuple[Round, LateWrites]:
    """Deliver what is newer in Mem0 than in the ledger, as late memories. Then read Mem0 again to see what is left.

    Hold `round_lock` meanwhile. Raises NotLegal before `complete`, and what a round raises.
    """
    if read_journal(rounds.settings.state).state.phase != "complete":
        raise NotLegal(
            "the cutover is not complete: until then replay --follow brings what is written to Mem0",
            hint="spectron-migrate replay --follow",
        )
    held_s = 0.0
    while (done := await rounds.bring_late(api)).held and held_s < HELD_PATIENCE_S:
        reporter.info(f"{done.problem}: waiting for that")
        await sleep(HELD_EVERY_S)
        held_s += HELD_EVERY_S
    return done, await read_late_writes(rounds, now=now)
