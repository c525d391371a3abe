"""What changed in Mem0 since the last round of following: the small part of a dump that a round plans.

A memory younger than the settle time waits, because an older row of the same lane may still be on its way into
Mem0's store, and must not be written after a newer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import islice

from spectron_migrate.ledger import Ledger, plan
from spectron_migrate.ledger.memory_rows import record_digest
from spectron_migrate.ledger.read import memories, plans
from spectron_migrate.ledger.read.memories import KnownDigests
from spectron_migrate.records import Memory, digest, format_time, has_time, parse_time

_BATCH = 100
"""Memories that are looked up together; a text may be large."""
_WAITING = "waiting:"
"""Prefix of the fingerprint of a plan while memories of its dump still wait."""


class Settling:
    """Decides which texts of one scan are old enough to be sent."""

    def __init__(self, scan_began: str, settle_s: float, first_seen: Mapping[str, str] | None = None) -> None:
        """`first_seen`: when memories with a time in the future were first seen, by id."""
        self.first_seen: dict[str, str] = {}
        """`first_seen` after this scan, for the next one."""
        self._known_since = first_seen or {}
        self._began = scan_began
        self._before = format_time(parse_time(scan_began) - timedelta(seconds=settle_s))

    def is_settled(self, memory: Memory) -> bool:
        """Whether every older row has had the settle time to appear in Mem0's store."""
        if memory.text_at is None or not has_time(memory):
            return True
        if memory.text_at <= self._began:
            return memory.text_at <= self._before
        seen = self._known_since.get(memory.id, self._began)
        self.first_seen[memory.id] = seen  # a clock that is ahead delays nothing for longer than the settle time
        return seen <= self._before


class Changes:
    """Chooses the memories of a dump that one round plans; `waiting_owners` then holds the owners who must wait."""

    def __init__(
        self, settling: Settling, *, only: Mapping[str, Memory | None] | None = None, most_waiting: int
    ) -> None:
        """`only`: the memories that earlier rounds have not planned, with None for one that is gone.

        No other is checked.

        `most_waiting`: how many waiting memories, and how many of their owners, are remembered by id.
        """
        self.waiting = 0
        self.waiting_memories: dict[str, Memory | None] | None = {}
        """The waiting memories, for the next round; None if there are too many."""
        self.waiting_owners: set[str] | None = set()
        """Ids of the users, agents, runs and apps of waiting memories; None if there are too many."""
        self.only = only
        self._settling = settling
        self._most = most_waiting
        self._all = False

    def continue_plan(self, ledger: Ledger, scan: plan.ScanRow, *, mapping_digest: str) -> int | None:
        """The plan to continue; None if there is no plan of all memories with this mapping.

        In that case a new plan begins, and every settled memory is checked again.
        """
        last = plan.last_plan_and_scan(ledger)
        migration = ledger.migration()
        same_mapping = migration is not None and migration.mapping_digest == mapping_digest
        if (
            last is None
            or not same_mapping
            or last[1] not in (_WAITING + mapping_digest, plans.whole_fingerprint(last[2], mapping_digest))
        ):
            self.only, self._all = None, True
            return None
        plan.keep_scan(ledger, scan)
        # Another plan since then, perhaps from an older copy of the dump, may have left facts undelivered.
        plan.adopt_undecided(ledger, last[0])
        return last[0]

    def wanted(self, ledger: Ledger, given: Iterable[Memory]) -> Iterator[Memory]:
        """The memories to plan now: those that changed and whose new texts have settled."""
        rest = iter(given)
        while batch := list(islice(rest, _BATCH)):
            known = memories.known_digests(ledger, [memory.id for memory in batch])
            yield from (memory for memory in batch if self._is_wanted(memory, known.get(memory.id)))

    def _is_wanted(self, memory: Memory, known: KnownDigests | None) -> bool:
        # Compare the text too, not only the record: overlapping calls may have given the record an older text since.
        same_text = known is not None and known.text == digest(memory.memory)
        as_known = known is not None and same_text and not known.deleted and known.record == record_digest(memory)
        if as_known and not self._all:
            return False
        if not same_text and not self._settling.is_settled(memory):
            self.note_waiting(memory)
            return False
        return True

    def finish(self, ledger: Ledger, number: int, scan: plan.ScanRow, *, mapping_digest: str) -> None:
        """Mark the plan as made from this dump, unless some of its memories still wait."""
        if self.waiting:
            plan.set_fingerprint(ledger, number, _WAITING + mapping_digest)
        else:
            plan.set_fingerprint(ledger, number, plans.whole_fingerprint(scan.id, mapping_digest), scan=scan.id)

    def note_waiting(self, memory: Memory) -> None:
        """Leave the memory to a later round."""
        self.waiting += 1
        if self.waiting_memories is not None:
            self.waiting_memories[memory.id] = memory
            if len(self.waiting_memories) > self._most:
                self.waiting_memories = None
        if self.waiting_owners is not None:
            self.waiting_owners.update(memory.entity_ids.values())
            if len(self.waiting_owners) > self._most:
                self.waiting_owners = None
