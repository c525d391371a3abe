"""Compares all of Mem0 with the ledger, memory by memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from spectron_migrate.dump import Dump
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.pending import is_decided_older
from spectron_migrate.ledger.read import cutover, memories
from spectron_migrate.ledger.schema import UNDECIDED
from spectron_migrate.migration.changes import Settling
from spectron_migrate.records import digest

_BATCH = 100
"""How many memories are looked up at a time; a text may be large."""
NAMED = 100
"""How many memories that differ are named."""


@dataclass(frozen=True, slots=True)
class Differences:
    """The result of comparing Mem0 with the ledger, memory by memory."""

    memories: int
    waiting: int
    """Too young to be sent; not counted as a difference."""
    missing: int
    """In Mem0, and unknown to the ledger or known with another text."""
    undecided: int
    extra: int
    """Alive in the ledger, and not in Mem0; 0 if nobody can say what is not in Mem0."""
    named: tuple[str, ...] = ()
    """The first ids that are missing or undecided."""

    @property
    def total(self) -> int:
        """How many there are; 0 if Mem0 and the ledger agree."""
        return self.missing + self.undecided + self.extra

    def is_same(self, other: Differences) -> bool:
        """Whether both name the same memories for the same reasons, as far as they are named."""
        one, two = ((each.missing, each.undecided, each.extra, sorted(each.named)) for each in (self, other))
        return one == two


def compare_with_ledger(ledger: Ledger, dump: Dump, settling: Settling) -> Differences:
    """Compare every memory of a complete dump with the ledger, and the ledger with the dump."""
    waiting = missing = undecided = found = count = 0
    named: list[str] = []
    given = dump.memories()
    shown_by = {dump.digest, *dump.ancestors}
    while batch := list(islice(given, _BATCH)):
        ids = [memory.id for memory in batch]
        texts = memories.newest_texts(ledger, ids)
        for memory in batch:
            count += 1
            known = texts.get(memory.id)
            found += known is not None and known.tombstoned_at is None
            is_other = known is None or known.tombstoned_at is not None or known.digest != digest(memory.memory)
            if is_other and not is_decided_older(ledger, memory, shown_by):
                if not settling.is_settled(memory):
                    waiting += 1
                    continue
                missing += 1
            elif known is not None and known.state in UNDECIDED:
                undecided += 1
            else:
                continue
            if len(named) < NAMED:
                named.append(memory.id)
    # Where nothing proves that a reading is whole, no deletion is carried over, and the gate `base` says so.
    extra = cutover.count_living(ledger) - found if dump.complete is not None else 0
    return Differences(count, waiting, missing, undecided, extra, tuple(named))
