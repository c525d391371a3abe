"""One shard of a replay that several processes share: the plan that they agree on, and the lanes of each."""

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
from spectron_migrate.ledger.gathering import is_gathered
from spectron_migrate.ledger.read import memories, plans
from spectron_migrate.ledger.shards import HASH, LOCK, Shard, counts_in, hold, refuse_outbox
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.records import Memory, Placement, Skipped, digest
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.store import StateStore

if TYPE_CHECKING:
    from spectron_migrate.spectron.api import SpectronApi


class Sharding:
    """A running shard: `join` before anything is planned, `close` at the end."""

    def __init__(
        self, shard: Shard, state: Path | StateStore, dump: Dump, mapping: ScopeMapping, *, context: str
    ) -> None:
        """`state`: the directory that all shards share. Raises InputError for raw files, which have no shared plan."""
        if dump.raw:
            raise InputError(
                "--shard needs a dump directory, because the shards keep their shared plan there",
                hint="make one of raw files: spectron-migrate export --from FILE --dump DIR",
            )
        self.shard = shard
        self._state = shard.folder(state).parent
        self._dump = dump
        self._mapping = mapping
        self._migration = migration_id(context, dump.source.identity)
        self._plan = digest(dump.digest, mapping.digest)
        self._open = ExitStack()
        self._others: list[Ledger] = []

    def join(self, *, dry_run: bool = False, sleep: Callable[[float], None] = time.sleep) -> None:
        """Agree with the other shards on the export to deliver; a newer one is taken over once none of them runs.

        Raises InputError for another number of shards, another mapping or another migration, and LedgerLocked while
        others run with an older export. A dry run only checks.
        """
        self._check()
        if not dry_run:
            self._open.enter_context(hold(self._state, self._is_agreed, self._take_over_export, sleep=sleep))
        self._others = [
            ledger for ledger in self._open_other_ledgers() if plans.knows_other_dump(ledger, self._dump.digest)
        ]

    def _check(self) -> None:
        """Raises InputError where this shard does not match the others; changes nothing."""
        if (self._state / "ledger.db").exists():
            with Ledger.open_for_reading(self._state) as plain:
                if plain.migration() is not None:
                    raise InputError(
                        f"the migration in {self._state} was started without shards",
                        hint="continue without --shard, or start over in a fresh context with its own --state",
                    )
        others = {of for of in counts_in(self._state) if of != self.shard.of}
        if others:
            raise InputError(
                f"--shard is {self.shard}, but the migration in {self._state} was started with {min(others)} shards",
                hint=f"continue with --shard i/{min(others)}",
            )
        shared = read_plan(self._dump.path)
        if shared is not None:
            self._check_fits(shared)

    def close(self) -> None:
        """Let other shards take over a newer export."""
        self._open.close()

    def own_share(self, ledger: Ledger, memory: Memory, mapped: Placement | Skipped) -> Placement | Skipped | None:
        """What this shard plans for the memory; None where another shard does.

        A memory that this shard sent stays with it, and one that another shard sent is not sent again, whatever lane
        a later export puts it in. A skipped memory has no lane: the hash of its id decides which shard names it.
        """
        known = memories.is_known(ledger, memory.id)
        if isinstance(mapped, Skipped):
            return mapped if known or self.shard.takes(memory.id) else None
        if not self.shard.takes(mapped.lane):
            return Skipped(memory.id, merge.ELSEWHERE) if known else None
        if any(memories.was_sent(sibling, memory.id) for sibling in self._others):
            return Skipped(memory.id, merge.MOVED)
        return mapped

    async def first_listing(self, api: SpectronApi, *, now: str, ledger: Ledger | None = None) -> Sequence[str]:
        """The scopes that existed before any shard registered one; the first shard to ask keeps them for all.

        A shard that lost its ledger gets the scopes that exist now, so that those it made itself count as foreign.
        """
        shared = read_plan(self._dump.path)
        if shared is None:
            listed = tuple(sorted(node.path for node in await api.scopes()))
            ours = SharedPlan(
                self._migration, self.shard.of, HASH, self._mapping.digest, self._plan, listed_at=now, scopes=listed
            )
            shared = create_plan(self._dump.path, ours)
            self._check_fits(shared)
            if shared.plan != self._plan:
                raise LedgerLocked(
                    f"another shard has started with another export of {self._dump.path}",
                    hint="run this shard again; nothing was written",
                )
        if ledger is not None and not begin_shard(self._dump.path, str(self.shard), plans.made_at(ledger)):
            return [node.path for node in await api.scopes()]
        return shared.scopes

    def intended_elsewhere(self, paths: Sequence[str]) -> set[str]:
        """Those of the paths that another shard intended to register; it may have begun since this one did."""
        found: set[str] = set()
        for folder in self._other_folders():
            with Ledger.open_for_reading(folder) as ledger:
                found |= set(paths) - set(plans.unintended_paths(ledger, paths))
        return found

    def _is_agreed(self) -> bool:
        """Whether the shards agree on this export, by the state directory that they share and by the dump."""
        shared = read_plan(self._dump.path)
        ours = (self._state / LOCK).read_text() == self._plan
        return ours and (shared is None or shared.plan == self._plan)

    def _take_over_export(self) -> None:
        (self._state / LOCK).write_text(self._plan)
        shared = read_plan(self._dump.path)
        if shared is not None:
            replace_plan(self._dump.path, replace(shared, plan=self._plan))

    def _check_fits(self, shared: SharedPlan) -> None:
        where = f"{self._dump.path / 'plan.json'}"
        if shared.migration != self._migration:
            raise InputError(
                f"{where} belongs to migration {shared.migration}, this one is {self._migration}",
                hint="for another context or source use a copy of the dump, or remove the file once the other is done",
            )
        if (shared.shards, shared.hash) != (self.shard.of, HASH):
            raise InputError(
                f"--shard is {self.shard}, but the dump is replayed in {shared.shards} shards ({where})",
                hint=f"continue with --shard i/{shared.shards}",
            )
        if shared.mapping != self._mapping.digest:
            raise InputError(
                f"the mapping is not the one that the other shards use ({where})",
                hint="another mapping would move lanes between shards: continue with the one of the other shards",
            )

    def _open_other_ledgers(self) -> list[Ledger]:
        return [self._open.enter_context(Ledger.open_for_reading(folder)) for folder in self._other_folders()]

    def _other_folders(self) -> list[Path]:
        """Those of the other shards that have a ledger."""
        others = (Shard(number, self.shard.of) for number in range(self.shard.of) if number != self.shard.number)
        return [folder for shard in others if ((folder := shard.folder(self._state)) / "ledger.db").exists()]


def refuse_plain(dump: Dump, state: Path | StateStore, *, context: str) -> None:
    """Raises InputError where shards replay this migration: a plain replay beside them would write twice."""
    counts = counts_in(state)
    if counts:
        raise InputError(
            f"the migration in {state} was started with {counts[0]} shards",
            hint=f"continue with --shard 0/{counts[0]} and so on",
        )
    shared = None if dump.raw else read_plan(dump.path)
    if (
        shared is not None
        and shared.migration == migration_id(context, dump.source.identity)
        and not _is_gathered(state)
    ):
        raise InputError(
            f"the dump {dump.path} is replayed in {shared.shards} shards",
            hint=f"continue with --shard 0/{shared.shards} and so on",
        )


def _is_gathered(state: Path | StateStore) -> bool:
    """Whether the ledgers of shards became the one that is here."""
    if not Ledger.exists(state):
        return False
    with Ledger.open_for_reading(state) as ledger:
        return is_gathered(ledger)


def join_shards(
    shard: Shard | None,
    state: Path | StateStore,
    dump: Dump | None,
    mapping: ScopeMapping,
    context: str,
    open_things: ExitStack,
    *,
    dry_run: bool,
) -> Sharding | None:
    """Join the plan that all shards share, until `open_things` closes; None for a plain replay."""
    if dump is None:
        return None
    if shard is None:
        refuse_plain(dump, state, context=context)
        return None
    cutover = read_journal(state).state
    if cutover.is_under_way and cutover.catch_up == "outbox":
        refuse_outbox(state, beginning=shard)
    sharding = Sharding(shard, state, dump, mapping, context=context)
    open_things.callback(sharding.close)
    sharding.join(dry_run=dry_run)
    return sharding
