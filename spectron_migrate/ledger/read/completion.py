"""Ids that begin with a prefix, for completion in a shell: as many as are found within 0.2 s."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal

MOST = 50
TIME_LIMIT_S = 0.2

IdKind = Literal["user_id", "agent_id", "run_id", "undecidable memory", "pending memory", "migration", "scope"]
_QUERIES: dict[IdKind, str] = {
    "undecidable memory": "SELECT DISTINCT mem0_id FROM fact JOIN version ON version.id = fact.id"
    " WHERE state = 'undecidable' AND substr(mem0_id, 1, length(?)) = ? LIMIT ?",
    "pending memory": "SELECT DISTINCT mem0_id FROM pending"
    " WHERE is_older = 0 AND substr(mem0_id, 1, length(?)) = ? LIMIT ?",
    "migration": "SELECT id FROM migration WHERE substr(id, 1, length(?)) = ? LIMIT ?",
    "scope": "SELECT path FROM scope WHERE created_by_us = 1 AND substr(path, 1, length(?)) = ? ORDER BY path LIMIT ?",
}


def ids_beginning_with(prefix: str, kind: IdKind, state: Path) -> list[str]:
    """At most 50 ids in the ledger of a state directory, sorted; none if there is no ledger. Raises nothing."""
    deadline = time.monotonic() + TIME_LIMIT_S
    found: set[str] = set()
    # It may be no ledger of this format, or the time is up. What was found so far is returned.
    with suppress(sqlite3.Error, ValueError):
        uri = f"{(state / 'ledger.db').absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=0.05)) as db:
            db.set_progress_handler(lambda: time.monotonic() > deadline, 1000)
            for word in _ids(db, prefix, kind):
                found.add(word)
                if len(found) >= MOST:
                    break
    return sorted(found)


def _ids(db: sqlite3.Connection, prefix: str, kind: IdKind) -> Iterator[str]:
    if kind in _QUERIES:
        for row in db.execute(_QUERIES[kind], (prefix, prefix, MOST)):
            yield str(row[0])
        return
    for row in db.execute("SELECT record FROM memory"):
        owner = json.loads(row[0]).get(kind)
        if owner is not None and str(owner).startswith(prefix):
            yield str(owner)
