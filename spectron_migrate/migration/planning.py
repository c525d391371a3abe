"""Makes a plan in the ledger from a dump.

Every memory is planned or skipped with a reason; a memory without a rule stops planning before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal

from spectron_migrate import __version__
from spectron_migrate.dump import Dump
from spectron_migrate.errors import InputError
from spectron_migrate.ledger import Ledger, decisions, messages, pending, plan
from spectron_migrate.ledger.ledger import MigrationRow
from spectron_migrate.ledger.merge import Merge
from spectron_migrate.ledger.read import memories
from spectron_migrate.mapping import ScopeMapping, Unmapped
from spectron_migrate.mapping.text_times import with_text_at
from spectron_migrate.mapping.unmapped import UnmappedMemories
from spectron_migrate.mem0.seen_ids import SeenIds
from spectron_migrate.migration.changes import Changes
from spectron_migrate.migration.planning_warnings import warn_before_planning, warn_left_behind, warn_merged
from spectron_migrate.migration.time_notes import TimeNotes
from spectron_migrate.records import NAMED, Filters, Memory, Placement, canonical_json, counted, digest
from spectron_migrate.reporter import Reporter

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Planned:
    """A finished plan."""

    id: int
    merged: bool
    """False if the same dump, mapping and filters were planned before, so that the dump was not read again."""


def make_plan(
    ledger: Ledger,
    dump: Dump,
    mapping: ScopeMapping,
    filters: Filters,
    *,
    context: str,
    now: str,
    reporter: Reporter,
    check_interrupted: Callable[[], None] = lambda: None,
    changes: Changes | None = None,
    deletions: bool = True,
    choices: Mapping[str, Literal["newer", "older"]] | None = None,
) -> Planned:
    """Merge the memories that pass the filters into the ledger, in one transaction.

    With `changes`, only what changed and has settled is merged, into the existing plan. `deletions`: whether memories
    that Mem0 no longer has get tombstones. `check_interrupted` is called for each memory and may raise. `choices`: what
    a person says of the text of pending memories, by Mem0 id.

    Raises WrongLedger for a ledger of another context or source, and InputError for memories without a rule, for
    a changed mapping that would move what was sent already, and for choices about memories that are not pending; then
    the ledger is as before.
    """
    warn_before_planning(ledger, dump, filters, reporter)
    fingerprint = fingerprint_of(dump, mapping, filters)
    scan = _scan_row(dump)
    with ledger.transaction():
        migration = _claim(ledger, dump, mapping, context=context, now=now)
        same_mapping = migration.mapping_digest == mapping.digest
        merge_into = partial(Merge, ledger, scan=scan, migration=migration.id, same_mapping=same_mapping, now=now)
        choose = partial(_apply_choices, ledger, mapping, choices or {}, merge_into, now=now)
        unchanged = _unchanged_plan(ledger, dump, scan, fingerprint, merge_into, deletions=deletions)
        if unchanged is not None:
            choose(unchanged)
            return Planned(unchanged, merged=False)
        if not same_mapping:
            _check_sent_memories(ledger, mapping)
            messages.take_planned_apart(ledger.db)
        only = changes.only if changes is not None else None
        reporter.stage("plan", dump.count if only is None else len(only))
        number = _begin_plan(ledger, scan, fingerprint, mapping, changes, now=now)
        if not filters:
            messages.adopt(ledger.db, number)
        merge = merge_into(number)
        notes = TimeNotes()
        if only is None or only:
            chosen = _chosen_memories(ledger, dump, mapping, filters, changes, reporter, check_interrupted)
            notes = _merge_memories(merge, dump, mapping, chosen, now=now, changes=changes)
            if deletions:
                _merge_tombstones(merge, ledger, dump, filters, changes)
        choose(number)
        _refuse_moves(merge.scope_changes)
        plan.finish_plan(ledger, number, mapping_digest=mapping.digest, count=only is None)
        if changes is not None:
            changes.finish(ledger, number, scan, mapping_digest=mapping.digest)
    if filters:
        warn_left_behind(ledger, number, dump, mapping, filters, now=now, reporter=reporter)
    warn_merged(ledger, number, merge, notes, reporter)
    return Planned(number, merged=True)


def find_unchanged_plan(
    ledger: Ledger, dump: Dump, mapping: ScopeMapping, filters: Filters, *, context: str
) -> Planned | None:
    """The plan of this dump, mapping and filters, if `make_plan` would change nothing, so that it can be read in place.

    None if it might change something, for instance if the ledger has captured writes.
    """
    migration, last = ledger.migration(), plan.last_plan(ledger)
    if migration is None or (migration.context, migration.source) != (context, dump.source.identity):
        return None
    if last is None or last[1] != fingerprint_of(dump, mapping, filters) or plan.has_captures(ledger):
        return None
    return Planned(last[0], merged=False)


def fingerprint_of(dump: Dump, mapping: ScopeMapping, filters: Filters) -> str:
    """A fingerprint of the inputs of a plan."""
    return digest(dump.digest, mapping.digest, *_filter_parts(filters))


def _claim(ledger: Ledger, dump: Dump, mapping: ScopeMapping, *, context: str, now: str) -> MigrationRow:
    return ledger.claim(
        context=context,
        source=dump.source.identity,
        mapping_digest=mapping.digest,
        tool_version=__version__,
        now=now,
    )


def _scan_row(dump: Dump) -> plan.ScanRow:
    return plan.ScanRow(
        id=dump.digest,
        kind=dump.source.kind,
        began=dump.began,
        ended=None if dump.raw else dump.manifest.ended,
        complete=dump.complete,
        manifest_digest=dump.digest,
        ancestors=dump.ancestors,
    )


def _unchanged_plan(
    ledger: Ledger,
    dump: Dump,
    scan: plan.ScanRow,
    fingerprint: str,
    merge_into: Callable[[int], Merge],
    *,
    deletions: bool,
) -> int | None:
    """The number of the last plan, if it was made from this very dump, mapping and filters; None if not.

    In either case, memories that only captures brought and that this scan does not show get tombstones.
    """
    last = plan.last_plan(ledger)
    if last is None:
        return None
    number = plan.keep_scan(ledger, scan)
    # A scan of some users says nothing about the others, even if the dump was read whole before.
    if deletions and dump.complete and dump.whole and not dump.manifest.filters:
        _tombstone_unseen_captures(merge_into(last[0]), ledger, dump)
        if plan.follows_another_dump(ledger, number):
            _tombstone_unseen(merge_into(last[0]), ledger, dump)
    messages.take_refused_apart(ledger.db, last[0])
    return last[0] if last[1] == fingerprint else None


def _begin_plan(
    ledger: Ledger, scan: plan.ScanRow, fingerprint: str, mapping: ScopeMapping, changes: Changes | None, *, now: str
) -> int:
    """The number of the plan to merge into: a new one, or the last one if `changes` continue it."""
    continued = changes.continue_plan(ledger, scan, mapping_digest=mapping.digest) if changes is not None else None
    return plan.begin_plan(ledger, scan, fingerprint, now) if continued is None else continued


def _merge_tombstones(
    merge: Merge, ledger: Ledger, dump: Dump, filters: Filters, changes: Changes | None = None
) -> None:
    """Give tombstones to memories that Mem0 no longer has: all that are gone from the dump, or those in `changes`."""
    only = changes.only if changes is not None else None
    gone = dump.tombstones if only is None else [mem0_id for mem0_id, memory in only.items() if memory is None]
    for mem0_id in gone:
        stone = dump.tombstones.get(mem0_id)
        if stone is None:
            continue
        known = memories.memory_of(ledger, mem0_id)
        if known is not None and filters.admits(known):
            merge.tombstone(mem0_id, stone.first_missed)


def _timed_memories(
    dump: Dump, mapping: ScopeMapping, only: Mapping[str, Memory | None] | None = None
) -> Iterator[Memory]:
    """All memories of the dump, or `only` these, each with the time that the mapping's `text_at` chooses."""
    imported = dump.manifest.imported
    memories = dump.memories() if only is None else (memory for memory in only.values() if memory is not None)
    return (with_text_at(memory, mapping.text_at, imported=imported) for memory in memories)


def _chosen_memories(
    ledger: Ledger,
    dump: Dump,
    mapping: ScopeMapping,
    filters: Filters,
    changes: Changes | None,
    reporter: Reporter,
    check_interrupted: Callable[[], None],
) -> Iterator[Memory]:
    """The memories of the dump that this plan is about."""
    given = _timed_memories(dump, mapping, changes.only if changes is not None else None)
    admitted = _admitted(given, filters, reporter, check_interrupted)
    return admitted if changes is None else changes.wanted(ledger, admitted)


def _admitted(
    given: Iterable[Memory], filters: Filters, reporter: Reporter, check_interrupted: Callable[[], None]
) -> Iterator[Memory]:
    for memory in given:
        reporter.advance(1)
        check_interrupted()
        if filters.admits(memory):
            yield memory


def _merge_memories(
    merge: Merge, dump: Dump, mapping: ScopeMapping, chosen: Iterable[Memory], *, now: str, changes: Changes | None
) -> TimeNotes:
    """Merge each memory; raises InputError naming those without a rule."""
    notes = TimeNotes()
    refused = UnmappedMemories()
    for memory in chosen:
        mapped = mapping.map_memory(memory)
        if isinstance(mapped, Unmapped):
            refused.add(memory, mapped)
            continue
        if not refused.count:
            merge.add(memory, mapped, seen_again=dump.manifest.returned_at.get(memory.id))
            if changes is not None and merge.waiting:
                changes.note_waiting(merge.waiting.pop())
        if isinstance(mapped, Placement):
            notes.add(memory, mapped.selector, now)
    merge.flush()
    if refused.count:
        raise InputError(
            f"the mapping has no rule for {counted(refused.count, 'memory')}: {'; '.join(refused.groups())}",
            hint="give them a rule, or let them go by name with `unmapped: skip` in the mapping",
        )
    return notes


def _apply_choices(
    ledger: Ledger,
    mapping: ScopeMapping,
    choices: Mapping[str, Literal["newer", "older"]],
    merge_into: Callable[..., Merge],
    number: int,
    *,
    now: str,
) -> None:
    """Plan or leave out the texts that a person decided about.

    Raises InputError naming every memory that is not pending.
    """
    wrong = []
    for mem0_id, answer in choices.items():
        found = pending.find_pending(ledger, mem0_id)
        if found is None:
            wrong.append(f"memory {mem0_id} is not pending")
            continue
        decisions.keep_decision(ledger, mem0_id, answer, now=now)
        if answer == "older":
            pending.say_older(ledger, mem0_id)
            continue
        mapped = mapping.map_memory(found.memory)
        if isinstance(mapped, Unmapped):
            wrong.append(f"the mapping has no rule for memory {mem0_id}: {mapped.why}")
            continue
        merge = merge_into(number, scan=found.scan)
        merge.add(found.memory, mapped, is_newer=True)
        _refuse_moves(merge.scope_changes)
    if wrong:
        raise InputError.of_all(wrong, hint="spectron-migrate status lists the memories that wait for a decision")


def _tombstone_unseen_captures(merge: Merge, ledger: Ledger, dump: Dump) -> None:
    """Tombstone memories that adapters captured before this complete scan and that it does not show.

    A call that no adapter captured must have deleted them. The dump has no tombstones for them, because no earlier dump
    ever held them.
    """
    if dump.began is None:
        return
    gone = plan.captured_before(ledger, dump.began)
    if gone:
        gone.difference_update(memory.id for memory in dump.memories())
    for mem0_id in sorted(gone):
        merge.tombstone(mem0_id, dump.began)


def _tombstone_unseen(merge: Merge, ledger: Ledger, dump: Dump) -> None:
    """Tombstone memories that another dump showed before this complete scan began and that it does not show.

    A follower that takes over from one on another host has a dump of its own, which never held what was deleted in
    between.
    """
    if dump.began is None:
        return
    with closing(SeenIds()) as seen:
        shown = (memory.id for memory in dump.memories())
        while page := list(islice(shown, _PAGE)):
            seen.add(page)
        for ids in plan.living_pages(ledger):
            for mem0_id in seen.not_seen(ids):
                merge.tombstone(mem0_id, dump.began)


def _check_sent_memories(ledger: Ledger, mapping: ScopeMapping) -> None:
    """Check every sent memory, whatever the filters, against a changed mapping: none may change its scope.

    Each moves to the lane that the new mapping gives it, so that the lane stays in order.
    """
    moves = []
    for each in plan.sent(ledger):
        mapped = mapping.map_memory(each.memory)
        if not isinstance(mapped, Placement):
            continue
        now = canonical_json(mapped.selector)
        if now == each.selector:
            plan.relane(ledger, each.memory.id, mapped.lane)
        elif each.stands:
            moves.append(plan.ScopeChange(each.memory.id, each.selector, now))
    _refuse_moves(moves)


def _refuse_moves(changes: list[plan.ScopeChange]) -> None:
    """Raise InputError if memories would be in two scopes."""
    if not changes:
        return
    named = [f"memory {one.mem0_id} was sent to {one.sent_to}, now {one.now}" for one in changes[:NAMED]]
    raise InputError(
        f"the changed mapping moves {counted(len(changes), 'memory')} already sent: {'; '.join(named)}",
        hint="continue with the mapping that sent them, or start over in a fresh context with its own --state",
    )


def _filter_parts(filters: Filters) -> list[str]:
    return [
        "\n".join(f"{kind}={value}" for value in sorted(values))
        for kind, values in (("user", filters.users), ("agent", filters.agents), ("run", filters.runs))
    ]
