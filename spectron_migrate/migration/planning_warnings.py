"""Warnings of planning: about filters, about rows that are left out, and about what a plan leaves behind."""

from __future__ import annotations

from itertools import islice

from spectron_migrate.dump import Dump
from spectron_migrate.dump.owners_seen import OwnersSeen
from spectron_migrate.errors import NotLegal
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.merge import Merge
from spectron_migrate.ledger.read import erases, memories, plans
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.mapping.text_times import with_text_at
from spectron_migrate.migration.time_notes import TimeNotes
from spectron_migrate.records import NAMED, Filters, Placement, counted, name_first, order_key
from spectron_migrate.reporter import Reporter


def warn_before_planning(ledger: Ledger, dump: Dump, filters: Filters, reporter: Reporter) -> None:
    """Warn about filters and rows that select nothing; raises InputError, or NotLegal while an erase is unfinished."""
    _check_filters(ledger, filters, dump, reporter)
    _warn_skipped(dump, reporter)
    refuse_half_erased(ledger)


def warn_left_behind(
    ledger: Ledger, number: int, dump: Dump, mapping: ScopeMapping, filters: Filters, *, now: str, reporter: Reporter
) -> None:
    """Warn if the filters leave out older memories of a lane, because those will be late."""
    left = 0
    for given in dump.memories():
        if filters.admits(given):
            continue
        memory = with_text_at(given, mapping.text_at, imported=dump.manifest.imported)
        mapped = mapping.map_memory(memory)
        if isinstance(mapped, Placement) and mapped.infer == "full":
            key = order_key(memory, dump.began or now)
            left += plans.would_come_late(ledger, number, mapped.lane, key, memory.id)
    if left:
        reporter.warn(
            f"the filters leave out {left} older memories of the same scopes: written later, they will be late and"
            " supersede nothing"
        )


def warn_merged(ledger: Ledger, number: int, merge: Merge, notes: TimeNotes, reporter: Reporter) -> None:
    """Warn about memories that the finished plan does not move, leaves out, or dates by a guess."""
    if merge.moved:
        moved = counted(merge.moved, "memory is", "memories are")
        reporter.warn(f"{moved} in another scope in Mem0 now: what was sent stays where it is")
    notes.warn(reporter)
    _warn_left_out(merge, plans.count_replaced(ledger, number), reporter)


def _check_filters(ledger: Ledger, filters: Filters, dump: Dump, reporter: Reporter) -> None:
    """Raise InputError if neither dump nor ledger has a memory of these owners; warn about users without one."""
    unknown = sorted(filters.users - dump.manifest.users.keys())
    if set(unknown) == filters.users or filters.agents or filters.runs:
        seen = OwnersSeen(filters).look(dump.memories())
        if not seen.selects and not memories.knows_owners(ledger, filters):
            raise seen.refusal(f"the dump in {dump.path}")
    if unknown:
        reporter.warn(f"the dump has no memory of user {name_first([repr(user) for user in unknown])}")


def _warn_skipped(dump: Dump, reporter: Reporter) -> None:
    """Name the rows with content that the dump left out; for raw files, every row that is no memory."""
    for note in dump.notes:
        reporter.warn(note)
    left_out = list(islice(dump.skipped if dump.raw else dump.left_out, NAMED))
    if left_out:
        count = sum((dump.manifest.skipped if dump.raw else dump.manifest.left_out).values())
        named = "; ".join(f"memory {row.id}: {row.reason}" for row in left_out)
        more = f"; and {count - NAMED} more" if count > NAMED else ""
        reporter.warn(f"{counted(count, 'row')} of {dump.path} will not be written: {named}{more}")


def refuse_half_erased(ledger: Ledger) -> None:
    """Raise NotLegal while an erase is unfinished.

    Its request may still arrive, and would erase what is written now.
    """
    halted = erases.unfinished(ledger)
    if halted:
        raise NotLegal(
            f"an erase of scope {', '.join(halted)} was begun but not finished",
            hint="run spectron-migrate erase for the same scope again; nothing is written before it has finished",
        )


def _warn_left_out(merge: Merge, replaced: int, reporter: Reporter) -> None:
    """Name the memories whose text was left out."""
    if replaced:
        named = f": {name_first(merge.left_out)}" if merge.left_out else ""
        reporter.warn(
            f"{counted(replaced, 'memory has', 'memories have')} an older text in this dump than in the ledger, which"
            f" was left out{named}"
        )
    waiting = [memory.id for memory in merge.waiting]
    if waiting:
        reporter.warn(
            f"{counted(len(waiting), 'memory was', 'memories were')} captured after this dump was read, with another"
            f" text; the next export decides: {name_first(waiting)}"
        )
