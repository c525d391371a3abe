"""Shards: which lanes each takes, where their ledgers are, and how they share one plan while they run."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.errors import Incomplete, InputError, LedgerLocked
from spectron_migrate.files.locks import try_lock_handle, unlock_handle
from spectron_migrate.files.private import make_private_directory
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.records import counted
from spectron_migrate.state.store import StateStore, place_of

HASH = "sha256(lane), first 8 bytes, big-endian, modulo shards"
"""How a lane is assigned to a shard; stored in the shared plan, so that all shards agree."""
LOCK = "shards.lock"
MOST = 1024
_FOLDER = re.compile(r"shard-([0-9]+)-of-([0-9]+)")
_TRIES = 50
_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several processes that replay one dump together; each takes whole lanes."""

    number: int
    """Starts at 0."""
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`i/N`; raises InputError for anything else."""
        match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
        shard = cls(int(match[1]), int(match[2])) if match else None
        if shard is None or not 1 <= shard.of <= MOST or shard.number >= shard.of:
            raise InputError(
                f"--shard is {text}, it must be i/N with i from 0 to N-1 and N up to {MOST}",
                hint="for two processes: --shard 0/2 and --shard 1/2",
            )
        return shard

    def __str__(self) -> str:
        """As it is written on the command line."""
        return f"{self.number}/{self.of}"

    def folder(self, state: Path | StateStore) -> Path:
        """The directory of this shard's ledger and review files; raises InputError for a state in Postgres."""
        place = place_of(state)
        if isinstance(place, PostgresLocation):
            raise InputError(f"--shard is for a state in a directory, and this one is in {place}", hint="leave it out")
        return place / f"shard-{self.number}-of-{self.of}"

    def takes(self, lane: str) -> bool:
        """Whether this shard sends the lane."""
        hashed = hashlib.sha256(lane.encode("utf-8", "surrogatepass")).digest()[:8]
        return int.from_bytes(hashed, "big") % self.of == self.number


@dataclass(frozen=True, slots=True)
class Found:
    """The ledgers of a state."""

    folders: tuple[Path | PostgresLocation, ...]
    """One for a migration without shards, else one for each shard that has run."""
    missing: tuple[str, ...] = ()
    """Shards that have no ledger here."""

    sharded: bool = False

    def complete(self) -> Found:
        """Return itself; raises Incomplete if a shard is missing."""
        if self.missing:
            raise Incomplete(
                f"{counted(len(self.missing), 'shard has', 'shards have')} no ledger here: {', '.join(self.missing)}",
                hint=f"every shard has to run at least once: spectron-migrate replay --shard {self.missing[0]}",
            )
        return self


def counts_in(state: Path | StateStore) -> list[int]:
    """The numbers of shards found in `state`: one, or none for a migration without shards."""
    return sorted({of for of, _ in _shards_in(state)})


def refuse_outbox(state: Path | StateStore, *, beginning: Shard | None = None) -> None:
    """Raises InputError where the migration in `state` is in shards, or `beginning` would make it so."""
    counts = [beginning.of] if beginning is not None else counts_in(state)
    if counts:
        raise InputError(
            f"`cutover.catch_up` is outbox, and the migration in {state} is in shards ({counts[0]} of them)",
            hint="an outbox is drained into one ledger: use `catch_up: follow`, or replay without --shard",
        )


def _shards_in(state: Path | StateStore) -> list[tuple[int, int]]:
    place = place_of(state)
    if isinstance(place, PostgresLocation):
        return []
    return sorted(
        (int(match[2]), int(match[1]))
        for path in place.glob("shard-*-of-*/ledger.db")
        if (match := _FOLDER.fullmatch(path.parent.name))
    )


def find(state: Path | StateStore) -> Found:
    """The ledgers in `state`; raises InputError where there is none, or shards of two different counts."""
    shards = _shards_in(state)
    if not shards:
        if not Ledger.exists(state):
            raise InputError(f"there is no ledger in {state}", hint="spectron-migrate replay makes it, or name --state")
        return Found((place_of(state),))
    counts = counts_in(state)
    if len(counts) > 1:
        raise InputError(
            f"{state} holds shards of {' and of '.join(map(str, counts))}: a migration has one number of them",
            hint="give each migration its own --state",
        )
    present = {number for _, number in shards}
    missing = tuple(str(Shard(number, counts[0])) for number in range(counts[0]) if number not in present)
    return Found(tuple(Shard(number, counts[0]).folder(state) for number in sorted(present)), missing, True)


def open_all(state: Path | StateStore) -> list[Ledger]:
    """All ledgers of a migration, for reading; raises Incomplete where a shard is missing."""
    ledgers: list[Ledger] = []
    try:
        ledgers.extend(Ledger.open_for_reading(folder) for folder in find(state).complete().folders)
    except BaseException:
        for ledger in ledgers:
            ledger.close()
        raise
    return ledgers


def hold(
    state: Path, agreed: Callable[[], bool], agree: Callable[[], None], *, sleep: Callable[[float], None] = time.sleep
) -> IO[str]:
    """Keep the shared plan of the shards unchanged until the returned handle is closed.

    `agreed` returns whether that plan is the caller's; `agree` replaces it, and is called only while no shard runs.
    Raises LedgerLocked where others run with another plan.
    """
    make_private_directory(state)
    (state / LOCK).touch(mode=0o600)
    handle = (state / LOCK).open("a+")
    try:
        for _ in range(_TRIES):
            if try_lock_handle(handle.fileno()):
                if not agreed():
                    agree()
                if try_lock_handle(handle.fileno(), shared=True) and agreed():
                    return handle
            elif try_lock_handle(handle.fileno(), shared=True):
                if agreed():
                    return handle
                unlock_handle(handle.fileno())
            sleep(_PAUSE_S)
        raise LedgerLocked(
            f"other shards in {state} are still at work with an earlier export of the dump",
            hint="wait until they have ended, or stop them; it is safe to stop at any moment",
        )
    except BaseException:
        handle.close()
        raise
