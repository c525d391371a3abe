"""The review file: every memory that was refused, is undecidable, or cannot be found, with the reason, for a person."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from spectron_migrate.files.atomic import replacing
from spectron_migrate.files.private import make_private_directory
from spectron_migrate.ledger import Ledger, sending
from spectron_migrate.ledger.read import memories, plans
from spectron_migrate.records import canonical_json


def write_review(ledger: Ledger, plan: int, folder: Path) -> Path | None:
    """Write `refused.jsonl` atomically; None, and no file, where there is nothing to review."""
    path = folder / "refused.jsonl"
    rows = list(plans.named_facts(ledger, plan, ("refused", "undecidable"), reason=sending.WITHOUT_PASSAGE))
    if not rows:
        with suppress(FileNotFoundError):
            path.unlink()
        return None
    make_private_directory(folder)
    with replacing(path) as lines:
        for row in rows:
            memory = memories.memory_of(ledger, row.mem0_id)
            record = memory.to_json() if memory else None
            line = {"id": row.mem0_id, "version": row.version, "state": row.state, "reason": row.reason}
            lines.write((canonical_json({**line, "memory": record}) + "\n").encode())
    return path
