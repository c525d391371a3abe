"""The locks of rounds and of following.

During a cutover, the ledger is written only in rounds and drains. Both hold one lock, so that two processes never do it
at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from spectron_migrate.errors import LedgerLocked
from spectron_migrate.state.following import FOLLOW_LOCK
from spectron_migrate.state.store import Lock, StateStore, store_at

LOCK_FILE = "round.lock"


@asynccontextmanager
async def round_lock(
    state: Path | StateStore, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, patience_s: float
) -> AsyncIterator[None]:
    """Keep other processes from running a round. Raises LedgerLocked, naming the holder, after `patience_s` seconds."""
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

    If another process holds it and the state is in a directory, raises LedgerLocked, naming that process. With the
    state in a database the other one may be on another host: then returns None, so that the caller can take over when
    it ends.
    """
    store = store_at(state)
    lock = store.try_lock(FOLLOW_LOCK)
    if lock is None and store.folder is not None:
        raise LedgerLocked(
            f"{store.holder_of(FOLLOW_LOCK)} follows already", hint="stop it first: one process follows at a time"
        )
    return lock
