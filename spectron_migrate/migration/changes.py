"""What changed in Mem0 since the ledger last looked: the small part of a dump that a round of following plans.

A memory younger than the settle time waits, because a row of the same lane that is older may still be on its way
into Mem0's store, and may not land behind a newer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from spectron_migrate.ledger import Ledger, merge, plan
from spectron_migrate.ledger.read import memories
from spectron_migrate.records import Memory, digest, format_time, has_time, parse_time

_WAITING = "waiting:"
"""Stands in place of a plan's fingerprint while memories of its dump are not in it yet."""


class Settling:
    """Tells which texts are old enough to be sent, as one scan sees it."""

    def __init__(self, scan_began: str, settle_s: float, first_seen: Mapping[str, str] | None = None) -> None:
        """`first_seen`: since when memories with a time in the future have been known, by id."""
        self.first_seen: dict[str, str] = {}
        """The same, as of this scan."""
        self._known = first_seen or {}
        self._began = scan_began
        self._before = format_time(parse_time(scan_began) - timedelta(seconds=settle_s))

    def is_settled(self, memory: Memory) -> bool:
        """Whether every row that is older has had the settle time to appear in Mem0's store."""
        if memory.text_at is None or not has_time(memory):
            return True
        if memory.text_at <= self._began:
            return memory.text_at <= self._before
        seen = self._known.get(memory.id, self._began)
        self.first_seen[memory.id] = seen  # a clock that is ahead holds nothing up for longer than the settle time
        return seen <= self._before


class Changes:
    """One round's choice among the memories of a dump; afterwards it tells who waits."""

    def __init__(self, settling: Settling, *, unchanged: bool = False, most_waiting: int) -> None:
        """`unchanged`: the scan found nothing that an earlier round had not planned, so nothing is looked at.

        At most `most_waiting` owners of waiting memories are kept by name.
        """
        self.waiting = 0
        self.waiting_owners: set[str] | None = set()
        """Ids of the users, agents, runs and apps of memories that wait; None where they are too many."""
        self.unchanged = unchanged
        self._settling = settling
        self._most = most_waiting
        self._all = False

    def onto(self, ledger: Ledger, scan: plan.ScanRow, *, mapping_digest: str) -> int | None:
        """The plan that this round goes on with; None where there is none of all memories under this mapping.

        Then a new plan begins, and every settled memory is looked at once more.
        """
        last = plan.last_plan_and_scan(ledger)
        migration = ledger.migration()
        same_mapping = migration is not None and migration.mapping_digest == mapping_digest
        if (
            last is None
            or not same_mapping
            or last[1] not in (_WAITING + mapping_digest, _fingerprint(last[2], mapping_digest))
        ):
            self.unchanged, self._all = False, True
            return None
        plan.keep_scan(ledger, scan)
        # What another plan left behind, of an older copy of the dump perhaps, is delivered with this one.
        plan.adopt_undecided(ledger, last[0])
        return last[0]

    def wants(self, ledger: Ledger, memory: Memory) -> bool:
        """Whether the memory is planned now: it changed, and its new text has settled."""
        known = memories.known_digests(ledger, memory.id)
        # The text beside the record: overlapping calls may have given the record an older text since.
        same_text = known is not None and known.text == digest(memory.memory)
        as_known = known is not None and same_text and not known.deleted and known.record == merge.record_digest(memory)
        if as_known and not self._all:
            return False
        if not same_text and not self._settling.is_settled(memory):
            self._wait(memory)
            return False
        return True

    def finish(self, ledger: Ledger, number: int, scan: plan.ScanRow, *, mapping_digest: str) -> None:
        """The plan is that of this dump, unless memories of it still wait."""
        if self.waiting:
            plan.set_fingerprint(ledger, number, _WAITING + mapping_digest)
        else:
            plan.set_fingerprint(ledger, number, _fingerprint(scan.id, mapping_digest), scan=scan.id)

    def _wait(self, memory: Memory) -> None:
        self.waiting += 1
        if self.waiting_owners is not None:
            self.waiting_owners.update(memory.entity_ids.values())
            if len(self.waiting_owners) > self._most:
                self.waiting_owners = None


def _fingerprint(dump_digest: str, mapping_digest: str) -> str:
    return digest(dump_digest, mapping_digest, "", "", "")
