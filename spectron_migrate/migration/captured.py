"""Makes memories of captured results, and handles captured messages that are written in place of their memories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from spectron_migrate.ledger import Ledger, messages
from spectron_migrate.ledger.merge import Merge
from spectron_migrate.ledger.read import memories
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.records import Memory, Placement, digest
from spectron_migrate.state.outbox import CapturedResult


def memory_of(result: CapturedResult, known: Memory | None) -> Memory | None:
    """The memory as the call left it; None for a change of an unknown memory."""
    fields = {**known.to_json(), **result.record} if known is not None else result.record
    if result.text is None or (result.event == "UPDATE" and known is None):
        return None
    created = known.created_at if known is not None else result.completed
    times = {
        "created_at": created,
        "updated_at": result.completed,
        "text_at": result.completed,
        "text_at_source": "updated_at",
    }
    kept = {name: value for name, value in fields.items() if name in Memory.__slots__}
    return Memory.from_json({**kept, "id": result.mem0_id, "memory": result.text, "hash": None, **times})


class CapturedMessages:
    """The messages among captured results. What Mem0 made of a message follows it and names it in its record."""

    def __init__(self, ledger: Ledger, mapping: ScopeMapping, merge: Merge, results: Sequence[CapturedResult]) -> None:
        """`results` in order of completion."""
        self._ledger = ledger
        self._mapping = mapping
        self._merge = merge
        self._made: defaultdict[str, list[CapturedResult]] = defaultdict(list)
        self._taken: set[str] = set()
        for result in results:
            if "message" in result.record:
                self._made[result.record["message"]].append(result)

    def take(self, result: CapturedResult) -> None:
        """Plan a message in place of its memories, if all of them map to its selector and none is known already.

        Otherwise the memories themselves are written, because a reading of Mem0 was faster, or they map to other
        scopes.
        """
        message = memory_of(result, None)
        placement = self._mapping.map_memory(message) if message is not None else None
        if message is None or not isinstance(placement, Placement):
            return
        # A drain that was killed may have planned it already.
        is_planned = messages.fact_of_message(self._ledger.db, message.id) is not None
        if is_planned or all(self._goes_with(placement, made) for made in self._made[message.id]):
            self._merge.add_message(message, placement)
            self._taken.add(message.id)

    def of(self, result: CapturedResult) -> str | None:
        """The message that is written in place of this result; None if the memory itself is written.

        An earlier result may have taken the message apart.
        """
        message = result.record.get("message")
        return message if message in self._taken and messages.fact_of_message(self._ledger.db, message) else None

    def _goes_with(self, placement: Placement, result: CapturedResult) -> bool:
        if result.event == "DELETE":
            return True
        memory = memory_of(result, memories.memory_of(self._ledger, result.mem0_id))
        if memory is None or memories.was_read_after(self._ledger, result.mem0_id, result.completed):
            return False
        known = memories.last_version(self._ledger, result.mem0_id)
        if known is not None and known.text_digest == digest(memory.memory):
            return False
        own = self._mapping.map_memory(memory)
        return isinstance(own, Placement) and own.selector == placement.selector
