"""From a dump to a plan in the ledger: every memory is planned, skipped by name, or refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice

from spectron_migrate import __version__
from spectron_migrate.dump import Dump
from spectron_migrate.errors import InputError, NotLegal
from spectron_migrate.ledger import Ledger, erasing, messages, plan
from spectron_migrate.ledger.merge import Merge
from spectron_migrate.ledger.read import memories, plans
from spectron_migrate.mapping import ScopeMapping, Unmapped
from spectron_migrate.migration.changes import Changes
from spectron_migrate.migration.sharding import Sharding
from spectron_migrate.records import (
    NAMED,
    Filters,
    Memory,
    Placement,
    Reporter,
    Skipped,
    canonical_json,
    counted,
    digest,
    has_time,
    name_first,
    order_key,
)

GUESSED_SHARE = 0.05
"""A share of guessed times above this is worth a warning."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A finished plan."""

    id: int
    merged: bool
    """False where the same dump, mapping and filters were planned before: the ledger is read, not the dump."""


@dataclass
class _Noticed:
    """What planning noticed on the way, for warnings."""

    taken: int = 0
    guessed: int = 0
    timeless: int = 0
    future: int = 0
    expiring: int = 0


def make_plan(
    ledger: Ledger,
    dump: Dump,
    mapping: ScopeMapping,
    filters: Filters,
    *,
    context: str,
    now: str,
    reporter: Reporter,
    go_on: Callable[[], None] = lambda: None,
    sharding: Sharding | None = None,
    changes: Changes | None = None,
) -> Planned:
    """Merge the memories that pass the filters into the ledger, in one transaction.

    With `changes` only what changed and has settled is merged, into the plan that is there.

    Raises WrongLedger for a ledger of another context or source, InputError for memories that the mapping
    refuses and for a changed mapping that would move what was sent already. Nothing is kept then. `go_on` is
    called for each memory and may raise.
    """
    _warn_unknown(filters, dump, reporter)
    _warn_raw(dump, reporter)
    _refuse_half_erased(ledger)
    fingerprint = digest(dump.digest, mapping.digest, *_spell(filters))
    scan = _scan(dump)
    with ledger.transaction():
        migration = ledger.claim(
            context=context,
            source=dump.source.identity,
            mapping_digest=mapping.digest,
            tool_version=__version__,
            now=now,
            shard=(sharding.shard.number, sharding.shard.of) if sharding else (0, 1),
        )
        same_mapping = migration.mapping_digest == mapping.digest
        merge_into = partial(Merge, ledger, scan=scan, migration=migration.id, same_mapping=same_mapping, now=now)
        last = plan.last_plan(ledger)
        if last is not None:
            _bury(merge_into(last[0]), ledger, dump)
            messages.take_refused_apart(ledger.db, last[0])
            if last[1] == fingerprint:
                return Planned(last[0], merged=False)
        reporter.stage("plan", dump.count)
        if not same_mapping:
            _hold_against_sent(ledger, mapping)
            messages.take_planned_apart(ledger.db)
        onto = changes.onto(ledger, scan, mapping_digest=mapping.digest) if changes is not None else None
        number = plan.begin_plan(ledger, scan, fingerprint, now) if onto is None else onto
        if not filters:
            messages.adopt(ledger.db, number)
        merge = merge_into(number)
        noticed = _Noticed()
        if changes is None or not changes.unchanged:
            chosen = partial(_is_chosen, ledger, filters, changes)
            mine = _whose(ledger, sharding)
            noticed = _merge_all(merge, dump, mapping, chosen, mine, now=now, reporter=reporter, go_on=go_on)
            _merge_tombstones(merge, ledger, dump, filters)
        _refuse_moves(merge.scope_changes)
        plan.finish_plan(ledger, number, mapping_digest=mapping.digest)
        if changes is not None:
            changes.finish(ledger, number, scan, mapping_digest=mapping.digest)
    if filters:
        _warn_left_behind(ledger, number, dump, mapping, filters, now=now, reporter=reporter)
    if merge.moved:
        reporter.warn(f"{merge.moved} memories belong to another scope in Mem0 now: they stay where they were sent")
    _warn(noticed, plans.count_replaced(ledger, number), reporter)
    return Planned(number, merged=True)


def _scan(dump: Dump) -> plan.ScanRow:
    return plan.ScanRow(
        id=dump.digest,
        kind=dump.source.kind,
        began=dump.began,
        ended=None if dump.raw else dump.manifest.ended,
        complete=dump.complete,
        manifest_digest=dump.digest,
    )


def _refuse_half_erased(ledger: Ledger) -> None:
    halted = erasing.unfinished(ledger)
    if halted:
        raise NotLegal(
            f"an erase of scope {', '.join(halted)} was begun and not finished",
            hint="end it: spectron-migrate erase with the same scope; until then nothing is written",
        )


def _merge_tombstones(merge: Merge, ledger: Ledger, dump: Dump, filters: Filters) -> None:
    for mem0_id, stone in dump.tombstones.items():
        known = memories.memory_of(ledger, mem0_id)
        if known is not None and filters.admits(known):
            merge.tombstone(mem0_id, stone.first_missed)


def _merge_all(
    merge: Merge,
    dump: Dump,
    mapping: ScopeMapping,
    chosen: Callable[[Memory], bool],
    mine: _Mine,
    *,
    now: str,
    reporter: Reporter,
    go_on: Callable[[], None],
) -> _Noticed:
    noticed = _Noticed()
    refused: list[Unmapped] = []
    for memory in dump.memories():
        reporter.advance(1)
        go_on()
        if not chosen(memory):
            continue
        placed = mapping.map_memory(memory)
        if isinstance(placed, Unmapped):
            refused.append(placed)
            continue
        own = mine(memory, placed)
        if own is None:
            continue
        if not refused:
            merge.add(memory, own, seen_again=dump.manifest.returned_at.get(memory.id))
        if isinstance(own, Placement):
            _notice(noticed, memory, now)
    if refused:
        problems = [f"the mapping has no rule for memory {one.id}: {one.why}" for one in refused[:NAMED]]
        more = [f"and {len(refused) - NAMED} more"] if len(refused) > NAMED else []
        raise InputError.of_all(
            problems + more, hint="give them a rule, or let them go by name with `unmapped: skip` in the mapping"
        )
    return noticed


def _bury(merge: Merge, ledger: Ledger, dump: Dump) -> None:
    """What adapters captured and a complete reading does not show was deleted by a call that nobody captured.

    Absence alone tells it: no dump ever held such a memory, so none can miss it.
    """
    if dump.raw or not dump.complete or not dump.whole or dump.began is None:
        return
    gone = plan.captured_before(ledger, dump.began)
    if gone:
        gone.difference_update(memory.id for memory in dump.memories())
    for mem0_id in sorted(gone):
        merge.tombstone(mem0_id, dump.began)


_Mine = Callable[[Memory, "Placement | Skipped"], "Placement | Skipped | None"]


def _whose(ledger: Ledger, sharding: Sharding | None) -> _Mine:
    """Without shards everything is ours."""
    if sharding is None:
        return lambda _, placed: placed
    return partial(sharding.own, ledger)


def _is_chosen(ledger: Ledger, filters: Filters, changes: Changes | None, memory: Memory) -> bool:
    return filters.admits(memory) and (changes is None or changes.wants(ledger, memory))


def _notice(noticed: _Noticed, memory: Memory, now: str) -> None:
    noticed.taken += 1
    noticed.guessed += memory.text_at_source == "updated_at"
    noticed.timeless += not has_time(memory)
    noticed.future += memory.text_at is not None and memory.text_at > now
    noticed.expiring += memory.expiration_date is not None


def _hold_against_sent(ledger: Ledger, mapping: ScopeMapping) -> None:
    """Whatever this run is about: all that was sent stays where it is, in the lane that the new mapping gives it."""
    moves = []
    for each in plan.sent(ledger):
        placed = mapping.map_memory(each.memory)
        if not isinstance(placed, Placement):
            continue
        now = canonical_json(placed.selector)
        if now == each.selector:
            plan.relane(ledger, each.memory.id, placed.lane)
        elif each.stands:
            moves.append(plan.ScopeChange(each.memory.id, each.selector, now))
    _refuse_moves(moves)


def _refuse_moves(changes: list[plan.ScopeChange]) -> None:
    """A memory in two scopes is worse than an old mapping."""
    if not changes:
        return
    named = [f"memory {one.mem0_id} was sent to {one.sent_to}, now {one.now}" for one in changes[:NAMED]]
    raise InputError(
        f"the changed mapping moves {counted(len(changes), 'memory')} already sent: {'; '.join(named)}",
        hint="go on with the mapping that sent them, or begin anew in a fresh context with its own --state",
    )


def _warn_unknown(filters: Filters, dump: Dump, reporter: Reporter) -> None:
    """A name that nobody bears is more often a slip than a wish."""
    unknown = sorted(filters.users - dump.manifest.users.keys())
    if unknown:
        reporter.warn(f"the dump has no memory of user {name_first([repr(user) for user in unknown])}")


def _warn_raw(dump: Dump, reporter: Reporter) -> None:
    """What raw files leave out is told here: no export has said it."""
    for note in dump.notes:
        reporter.warn(note)
    left_out = list(islice(dump.skipped, NAMED)) if dump.raw else []
    if left_out:
        count = sum(dump.manifest.skipped.values())
        named = "; ".join(f"memory {row.id}: {row.reason}" for row in left_out)
        more = f"; and {count - NAMED} more" if count > NAMED else ""
        reporter.warn(f"{counted(count, 'row')} of {dump.path} will not be written: {named}{more}")


def _warn_left_behind(
    ledger: Ledger, number: int, dump: Dump, mapping: ScopeMapping, filters: Filters, *, now: str, reporter: Reporter
) -> None:
    """Filters choose memories, never the order: what they leave behind in a lane will come late."""
    left = 0
    for memory in dump.memories():
        if filters.admits(memory):
            continue
        placed = mapping.map_memory(memory)
        if isinstance(placed, Placement) and placed.infer == "full":
            key = order_key(memory, dump.began or now)
            left += plans.would_come_late(ledger, number, placed.lane, key, memory.id)
    if left:
        reporter.warn(
            f"the filters leave {left} older memories behind in the same scopes' order: written later, they come late"
            " and supersede nothing"
        )


def _warn(noticed: _Noticed, replaced: int, reporter: Reporter) -> None:
    if noticed.taken and noticed.guessed / noticed.taken > GUESSED_SHARE:
        reporter.warn(
            f"{noticed.guessed} of {noticed.taken} memories have a guessed time (`updated_at`, which a metadata edit"
            " moves too): their order may not be the order of the texts"
        )
    if noticed.timeless:
        reporter.warn(f"{noticed.timeless} memories have no time: they go in first, and supersede nothing")
    if noticed.future:
        reporter.warn(f"{noticed.future} memories have a time in the future")
    if noticed.expiring:
        reporter.warn(f"{counted(noticed.expiring, 'memory')} would expire in Mem0 and will not in Spectron")
    if replaced:
        reporter.warn(f"{replaced} memories are older here than in the ledger and were left out")


def _spell(filters: Filters) -> list[str]:
    return [
        "\n".join(f"{kind}={value}" for value in sorted(values))
        for kind, values in (("user", filters.users), ("agent", filters.agents), ("run", filters.runs))
    ]
