"""What the adapters captured, as memories; and which messages are written in place of what Mem0 made of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from spectron_migrate.ledger import Ledger, messages
from spectron_migrate.ledger.merge import Merge
from spectron_migrate.ledger.read import memories
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.records import Memory, Placement, digest
from spectron_migrate.state.outbox import CapturedResult


def memory_of(row: CapturedResult, known: Memory | None) -> Memory | None:
    """The memory as the call left it; None for a change of one that nobody has heard of."""
    told = {**known.to_json(), **row.record} if known is not None else row.record
    if row.text is None or (row.event == "UPDATE" and known is None):
        return None
    created = known.created_at if known is not None else row.completed
    times = {
        "created_at": created,
        "updated_at": row.completed,
        "text_at": row.completed,
        "text_at_source": "updated_at",
    }
    kept = {name: value for name, value in told.items() if name in Memory.__slots__}
    return Memory.from_json({**kept, "id": row.mem0_id, "memory": row.text, "hash": None, **times})


class CapturedMessages:
    """The messages among some rows. What Mem0 made of a message follows it, and names it in its record."""

    def __init__(self, ledger: Ledger, mapping: ScopeMapping, merge: Merge, rows: Sequence[CapturedResult]) -> None:
        """Nothing is merged yet."""
        self._ledger = ledger
        self._mapping = mapping
        self._merge = merge
        self._made: defaultdict[str, list[CapturedResult]] = defaultdict(list)
        self._taken: set[str] = set()
        for row in rows:
            if "message" in row.record:
                self._made[row.record["message"]].append(row)

    def take(self, row: CapturedResult) -> None:
        """Plan a message in place of its memories, if all of them belong where it does and none is known already.

        Else the memories are written themselves: a reading of Mem0 was faster, or the mapping tells them apart.
        """
        message = memory_of(row, None)
        placed = self._mapping.map_memory(message) if message is not None else None
        if message is None or not isinstance(placed, Placement):
            return
        again = (
            messages.fact_of_message(self._ledger.db, message.id) is not None
        )  # whoever planned it died before saying so
        if again or all(self._goes_with(placed, made) for made in self._made[message.id]):
            self._merge.add_message(message, placed)
            self._taken.add(message.id)

    def of(self, row: CapturedResult) -> str | None:
        """The message that is written in place of what the row tells; None where the memory itself is.

        A row before this one may have taken it apart.
        """
        message = row.record.get("message")
        return message if message in self._taken and messages.fact_of_message(self._ledger.db, message) else None

    def _goes_with(self, placed: Placement, row: CapturedResult) -> bool:
        if row.event == "DELETE":
            return True
        memory = memory_of(row, memories.memory_of(self._ledger, row.mem0_id))
        if memory is None or memories.was_read_after(self._ledger, row.mem0_id, row.completed):
            return False
        known = memories.last_version(self._ledger, row.mem0_id)
        if known is not None and known.text_digest == digest(memory.memory):
            return False
        own = self._mapping.map_memory(memory)
        return isinstance(own, Placement) and own.selector == placed.selector
