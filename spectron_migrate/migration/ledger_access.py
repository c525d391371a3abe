"""Access to the ledgers of one migration: open them to read, and keep other processes from writing them.

During a cutover, ledgers are written only in rounds and drains. Both hold one lock, so that two processes never do it
at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from spectron_migrate.errors import LedgerLocked
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.shards import find, open_all
from spectron_migrate.state.following import FOLLOW_LOCK
from spectron_migrate.state.store import Lock, StateStore, store_at

LOCK_FILE = "round.lock"


@contextmanager
def open_ledgers(state: Path | StateStore) -> Iterator[list[Ledger]]:
    """All ledgers of the migration, for reading."""
    with ExitStack() as open_things:
        ledgers = open_all(state)
        for ledger in ledgers:
            open_things.enter_context(ledger)
        yield ledgers


@contextmanager
def hold_ledgers(state: Path | StateStore) -> Iterator[None]:
    """Keep every replay from writing meanwhile; raises LedgerLocked naming who is at work."""
    with ExitStack() as open_things:
        for folder in find(state).complete().folders:
            open_things.enter_context(Ledger.open_for_writing(folder))
        yield


@asynccontextmanager
async def round_lock(
    state: Path | StateStore, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, patience_s: float
) -> AsyncIterator[None]:
    """Keep every other process from a round; raises LedgerLocked naming who had it for `patience_s` seconds."""
    store = store_at(state)
    store.prepare()
    waited, pause_s = 0.0, 0.1
    while (lock := store.try_lock(LOCK_FILE)) is None:
        if waited >= patience_s:
            raise LedgerLocked(
                f"{store.holder_of(LOCK_FILE)} has been running a round for more than {waited:.0f} s",
                hint="wait until its round has ended",
            )
        await sleep(pause_s)
        waited += pause_s
    with lock:
        yield


def follow_lock(state: Path | StateStore) -> Lock | None:
    """Take the lock of the process that follows.

    If another process follows: None where that may be on another host, so that this one can take over when it ends;
    in a directory raises LedgerLocked, naming it.
    """
    store = store_at(state)
    lock = store.try_lock(FOLLOW_LOCK)
    if lock is None and store.folder is not None:
        raise LedgerLocked(
            f"{store.holder_of(FOLLOW_LOCK)} follows already", hint="stop it first: one process follows at a time"
        )
    return lock
