"""The review file: memories that were refused, are undecidable or pending, or cannot be found, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from spectron_migrate.ledger import Ledger, sending
from spectron_migrate.ledger.pending import find_pending
from spectron_migrate.ledger.read import memories, plans
from spectron_migrate.ledger.read.plans import NamedFact
from spectron_migrate.records import canonical_json
from spectron_migrate.state.store import StateStore, store_at

FILE = "review/refused.jsonl"


def write_review(ledger: Ledger, plan: int, state: Path | StateStore) -> str | None:
    """Write the whole `review/refused.jsonl` and return its path; with nothing to review, remove it and return None."""
    store = store_at(state)
    states = ("refused", "undecidable", "pending")
    stored_reasons = (sending.WITHOUT_PASSAGE, sending.EXTRACTION_UNKNOWN)
    rows = list(plans.named_facts(ledger, plan, states, stored_reasons=stored_reasons))
    if not rows:
        store.remove(FILE)
        return None
    store.write_lines(FILE, _lines(ledger, rows))
    return store.describe(FILE)


def _lines(ledger: Ledger, rows: Iterable[NamedFact]) -> Iterator[bytes]:
    for row in rows:
        found = find_pending(ledger, row.mem0_id) if row.state == "pending" else None
        memory = found.memory if found is not None else memories.memory_of(ledger, row.mem0_id)
        record = memory.to_json() if memory else None
        line = {"id": row.mem0_id, "version": row.version, "state": row.state, "reason": row.reason}
        yield (canonical_json({**line, "memory": record}) + "\n").encode()
