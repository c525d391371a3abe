"""How much a run may still send and spend, and when its next request may begin.

For one process, or for all processes that deliver together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.writer import GroupCommit
from spectron_migrate.spectron.api import Sleep

if TYPE_CHECKING:
    from spectron_migrate.ledger.workers import Workers

TOKENS_AT_ONCE = 2_000
"""Tokens that a process reserves at a time. If it is killed, no more than these are lost."""
TURNS_S = 0.1
"""A process reserves the turns of this many seconds at a time, or a single turn if the rate is lower."""
MISSED_S = 0.25
"""A turn that is used later than this is lost, so that unused turns do not add up to a burst."""


class Budget(Protocol):
    """How many memories may still be sent, and how many tokens spent."""

    async def take_sends(self, wanted: int) -> int:
        """Reserve up to that many sends, so that no other lane takes them."""

    def give_back_sends(self, unused: int) -> None:
        """Return reserved sends that were not used."""

    async def sends_left(self) -> int:
        """How many sends nobody has reserved; 0 if there is no limit."""

    async def allows_tokens(self, total: int) -> bool:
        """Whether this process may spend this many tokens in all."""

    def close(self, ledger: Ledger, spent: int) -> bool:
        """End the run; returns whether nothing more may be sent. `spent`: tokens of this process."""


class OwnBudget:
    """The budget of a process that delivers alone."""

    def __init__(self, sends: int | None, tokens: int | None) -> None:
        """None sets no limit."""
        self._sends = sends
        self._tokens = tokens

    async def take_sends(self, wanted: int) -> int:
        """Reserve up to that many sends."""
        if self._sends is None:
            return wanted
        reserved = min(wanted, self._sends)
        self._sends -= reserved
        return reserved

    def give_back_sends(self, unused: int) -> None:
        """Return unused sends."""
        if self._sends is not None:
            self._sends += unused

    async def sends_left(self) -> int:
        """How many are not reserved."""
        return self._sends or 0

    async def allows_tokens(self, total: int) -> bool:
        """Whether the limit is not exceeded."""
        return self._tokens is None or total <= self._tokens

    def close(self, ledger: Ledger, spent: int) -> bool:
        """Whether nothing is left."""
        return self._sends == 0


class SharedBudget:
    """The budget of all processes that deliver together, kept in the ledger.

    What a killed process had reserved is lost.
    """

    def __init__(self, writer: GroupCommit, *, sends: bool, tokens: bool) -> None:
        """Whether there is a limit."""
        self._writer = writer
        self._has_sends = sends
        self._has_tokens = tokens
        self._granted = 0

    async def take_sends(self, wanted: int) -> int:
        """Reserve up to that many sends."""
        if not self._has_sends:
            return wanted
        return await self._writer.grouped(lambda ledger: _workers(ledger).take_sends(wanted))

    def give_back_sends(self, unused: int) -> None:
        """Return unused sends."""
        if self._has_sends and unused:
            self._writer.post(lambda ledger: _workers(ledger).give_back(sends=unused))

    async def sends_left(self) -> int:
        """How many no process has reserved."""
        return await self._writer.grouped(lambda ledger: _workers(ledger).sends_left()) if self._has_sends else 0

    async def allows_tokens(self, total: int) -> bool:
        """Whether enough is reserved, or could be."""
        if not self._has_tokens or total <= self._granted:
            return True
        wanted = max(total - self._granted, TOKENS_AT_ONCE)
        self._granted += await self._writer.grouped(lambda ledger: _workers(ledger).take_tokens(wanted))
        return total <= self._granted

    def close(self, ledger: Ledger, spent: int) -> bool:
        """Return unspent tokens to the budget; returns whether nothing more may be sent."""
        unspent, self._granted = self._granted - spent, spent
        if self._has_tokens and unspent:
            _workers(ledger).give_back(tokens=unspent)
        return self._has_sends and not _workers(ledger).sends_left()


class SharedPace:
    """Gives each request of all processes a turn, at the rate that was set for all of them."""

    def __init__(self, writer: GroupCommit, max_rps: float, *, clock: Callable[[], float], sleep: Sleep) -> None:
        """`clock` in seconds, monotonic."""
        self._writer = writer
        self._gap_s = 1.0 / max_rps
        self._at_once = max(1, int(max_rps * TURNS_S))
        self._clock = clock
        self._sleep = sleep
        self._turns: deque[float] = deque()
        self._queue = asyncio.Lock()

    async def wait(self) -> None:
        """Wait for the next turn of this process; raises what `sleep` raises."""
        async with self._queue:
            while self._turns and self._turns[0] < self._clock() - MISSED_S:
                self._turns.popleft()
            if not self._turns:
                count, gap_s = self._at_once, self._gap_s
                ahead_s = await self._writer.grouped(lambda ledger: _workers(ledger).take_turns(count, gap_s))
                first = self._clock() + ahead_s
                self._turns.extend(first + turn * gap_s for turn in range(count))
            wait_s = self._turns.popleft() - self._clock()
            if wait_s > 0:
                await self._sleep(wait_s)


def _workers(ledger: Ledger) -> Workers:
    assert ledger.workers is not None  # noqa: S101 - only such a ledger has a shared budget
    return ledger.workers
