"""The review file: memories that were refused, are undecidable or pending, or cannot be found, with the reason."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from spectron_migrate.files.atomic import replacing
from spectron_migrate.files.private import make_private_directory
from spectron_migrate.ledger import Ledger, sending
from spectron_migrate.ledger.pending import find_pending
from spectron_migrate.ledger.read import memories, plans
from spectron_migrate.records import canonical_json


def write_review(ledger: Ledger, plan: int, folder: Path) -> Path | None:
    """Write `refused.jsonl` atomically; None, and no file, where there is nothing to review."""
    path = folder / "refused.jsonl"
    states = ("refused", "undecidable", "pending")
    stored_reasons = (sending.WITHOUT_PASSAGE, sending.EXTRACTION_UNKNOWN)
    rows = list(plans.named_facts(ledger, plan, states, stored_reasons=stored_reasons))
    if not rows:
        with suppress(FileNotFoundError):
            path.unlink()
        return None
    make_private_directory(folder)
    with replacing(path) as lines:
        for row in rows:
            found = find_pending(ledger, row.mem0_id) if row.state == "pending" else None
            memory = found.memory if found is not None else memories.memory_of(ledger, row.mem0_id)
            record = memory.to_json() if memory else None
            line = {"id": row.mem0_id, "version": row.version, "state": row.state, "reason": row.reason}
            lines.write((canonical_json({**line, "memory": record}) + "\n").encode())
    return path
