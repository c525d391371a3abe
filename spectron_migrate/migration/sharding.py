"""One shard's part in a replay that several processes share: the plan they keep to, and what is theirs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spectron_migrate.dump import Dump
from spectron_migrate.dump.plan_file import SharedPlan, begin_shard, create_plan, read_plan, replace_plan
from spectron_migrate.errors import InputError, LedgerLocked
from spectron_migrate.ledger import Ledger, merge, migration_id
from spectron_migrate.ledger.read import memories, plans
from spectron_migrate.ledger.shards import HASH, LOCK, Shard, counts_in, hold
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.records import Memory, Placement, Skipped, digest

if TYPE_CHECKING:
    from spectron_migrate.spectron.api import SpectronApi


class Sharding:
    """A shard at work; `join` before anything is planned, `close` at the end."""

    def __init__(self, shard: Shard, state: Path, dump: Dump, mapping: ScopeMapping, *, context: str) -> None:
        """`state` is the directory that all shards share. Raises InputError for raw files, which have no plan."""
        if dump.raw:
            raise InputError(
                "--shard needs a dump directory, where the shards keep what they agreed on",
                hint="spectron-migrate export --from FILE --dump DIR makes one of raw files",
            )
        self.shard = shard
        self._state = state
        self._dump = dump
        self._mapping = mapping
        self._migration = migration_id(context, dump.source.identity)
        self._plan = digest(dump.digest, mapping.digest)
        self._open = ExitStack()
        self._siblings: list[Ledger] = []

    def join(self, *, dry_run: bool = False, sleep: Callable[[float], None] = time.sleep) -> None:
        """Keep to the plan that the other shards have; a newer export becomes it once none of them runs.

        Raises InputError for another number of shards, another mapping or another migration, LedgerLocked
        where others still run with an older export. A dry run looks only.
        """
        self._check()
        if not dry_run:
            self._open.enter_context(hold(self._state, self._agreed, self._advance, sleep=sleep))
        self._siblings = [
            ledger for ledger in self._open_siblings() if plans.knows_other_dump(ledger, self._dump.digest)
        ]

    def _check(self) -> None:
        """Raises InputError where this shard does not fit the others; changes nothing."""
        if (self._state / "ledger.db").exists():
            with Ledger.open_for_reading(self._state) as plain:
                if plain.migration() is not None:
                    raise InputError(
                        f"the migration in {self._state} was begun without shards",
                        hint="go on without --shard, or begin anew in a fresh context with its own --state",
                    )
        others = {of for of in counts_in(self._state) if of != self.shard.of}
        if others:
            raise InputError(
                f"--shard is {self.shard}, but the migration in {self._state} was begun in {min(others)} shards",
                hint=f"go on with --shard i/{min(others)}",
            )
        standing = read_plan(self._dump.path)
        if standing is not None:
            self._fit(standing)

    def close(self) -> None:
        """Let others take over a newer export."""
        self._open.close()

    def own(self, ledger: Ledger, memory: Memory, placed: Placement | Skipped) -> Placement | Skipped | None:
        """What this shard plans for the memory; None where another does.

        A memory that was sent from here stays here, and one that another shard sent is not sent again,
        wherever a later export puts it. One that is skipped has no lane: the hash of its id says who names it.
        """
        known = memories.is_known(ledger, memory.id)
        if isinstance(placed, Skipped):
            return placed if known or self.shard.takes(memory.id) else None
        if not self.shard.takes(placed.lane):
            return Skipped(memory.id, merge.ELSEWHERE) if known else None
        if any(memories.was_sent(sibling, memory.id) for sibling in self._siblings):
            return Skipped(memory.id, merge.MOVED)
        return placed

    async def first_listing(self, api: SpectronApi, *, now: str, ledger: Ledger | None = None) -> Sequence[str]:
        """The scopes that were there before any shard registered one; the first to ask keeps them for all.

        A shard whose ledger was lost is told those that are there now: what it has written is foreign to it.
        """
        standing = read_plan(self._dump.path)
        if standing is None:
            listed = tuple(sorted(node.path for node in await api.scopes()))
            ours = SharedPlan(
                self._migration, self.shard.of, HASH, self._mapping.digest, self._plan, listed_at=now, scopes=listed
            )
            standing = create_plan(self._dump.path, ours)
            self._fit(standing)
            if standing.plan != self._plan:
                raise LedgerLocked(
                    f"another shard has begun meanwhile, with another export of {self._dump.path}",
                    hint="run this one again: nothing was written",
                )
        if ledger is not None and not begin_shard(self._dump.path, str(self.shard), plans.made_at(ledger)):
            return [node.path for node in await api.scopes()]
        return standing.scopes

    def _agreed(self) -> bool:
        """By the state directory, which all shards share whichever copy of a dump they read, and by the dump."""
        standing = read_plan(self._dump.path)
        ours = (self._state / LOCK).read_text() == self._plan
        return ours and (standing is None or standing.plan == self._plan)

    def _advance(self) -> None:
        (self._state / LOCK).write_text(self._plan)
        standing = read_plan(self._dump.path)
        if standing is not None:
            replace_plan(self._dump.path, replace(standing, plan=self._plan))

    def _fit(self, standing: SharedPlan) -> None:
        where = f"{self._dump.path / 'plan.json'}"
        if standing.migration != self._migration:
            raise InputError(
                f"{where} belongs to migration {standing.migration}, this one is {self._migration}",
                hint="another context or source: give it a copy of the dump, or remove the file when the other is over",
            )
        if (standing.shards, standing.hash) != (self.shard.of, HASH):
            raise InputError(
                f"--shard is {self.shard}, but the dump is replayed in {standing.shards} shards ({where})",
                hint=f"go on with --shard i/{standing.shards}",
            )
        if standing.mapping != self._mapping.digest:
            raise InputError(
                f"the mapping is not the one that the other shards use ({where})",
                hint="another mapping would change which lane is whose: go on with the one that began",
            )

    def _open_siblings(self) -> list[Ledger]:
        others = (Shard(number, self.shard.of) for number in range(self.shard.of) if number != self.shard.number)
        folders = [shard.folder(self._state) for shard in others]
        return [
            self._open.enter_context(Ledger.open_for_reading(folder))
            for folder in folders
            if (folder / "ledger.db").exists()
        ]


def refuse_plain(dump: Dump, state: Path, *, context: str) -> None:
    """Raises InputError where shards are replaying this migration: a plain replay beside them would write twice."""
    counts = counts_in(state)
    if counts:
        raise InputError(
            f"the migration in {state} was begun in {counts[0]} shards",
            hint=f"go on with --shard 0/{counts[0]} and so on",
        )
    standing = None if dump.raw else read_plan(dump.path)
    if standing is not None and standing.migration == migration_id(context, dump.source.identity):
        raise InputError(
            f"the dump {dump.path} is replayed in {standing.shards} shards",
            hint=f"go on with --shard 0/{standing.shards} and so on",
        )
