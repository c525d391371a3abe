"""Ids that begin with a prefix, for a shell that completes a word: as many as are found within 0.2 s."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Literal

MOST = 50
TIME_LIMIT_S = 0.2

IdKind = Literal["user_id", "agent_id", "run_id", "undecidable memory", "migration", "scope"]
_OWNER = (
    "SELECT DISTINCT json_extract(record, '$.{field}') AS owner FROM memory"
    " WHERE owner GLOB ? AND owner IS NOT NULL LIMIT ?"
)
_QUERIES: dict[IdKind, str] = {
    "user_id": _OWNER.format(field="user_id"),
    "agent_id": _OWNER.format(field="agent_id"),
    "run_id": _OWNER.format(field="run_id"),
    "undecidable memory": "SELECT DISTINCT mem0_id FROM fact WHERE state = 'undecidable' AND mem0_id GLOB ? LIMIT ?",
    "migration": "SELECT id FROM migration WHERE id GLOB ? LIMIT ?",
    "scope": "SELECT path FROM scope WHERE created_by_us = 1 AND path GLOB ? ORDER BY path LIMIT ?",
}


def ids_beginning_with(prefix: str, kind: IdKind, state: Path) -> list[str]:
    """At most 50 ids in all ledgers of a state directory, sorted; none where there is no ledger. Raises nothing."""
    pattern = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in prefix) + "*"
    deadline = time.monotonic() + TIME_LIMIT_S
    found: set[str] = set()
    for path in (state / "ledger.db", *sorted(state.glob("shard-*/ledger.db"))):
        if not path.is_file():
            continue
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.05)) as db:
                db.set_progress_handler(lambda: time.monotonic() > deadline, 1000)
                for row in db.execute(_QUERIES[kind], (pattern, MOST)):
                    found.add(str(row[0]))
        except sqlite3.Error:
            continue  # not a ledger, or out of time: what was found so far is returned
    return sorted(found)[:MOST]
