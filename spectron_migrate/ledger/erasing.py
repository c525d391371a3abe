"""What the ledger knows of a scope that is to be erased, and what it says afterwards.

A scope takes in every selector that has a path in it or below it, because forgetting a node takes those rows too.
Whatever was sent belongs to a session, so the sessions lead to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from sqlite3 import Row

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.overtaken import skip_overtaken
from spectron_migrate.ledger.schema import SENT, marks
from spectron_migrate.records import Selector, canonical_json, selector_of

KIND = "erase"
BEGUN, DONE = "begun", "done"
SPLIT, PART = 1000, 100
"""Letters from which on a text may be stored in several passages, and what such a part has at least, unless it is
the end."""


@dataclass(frozen=True, slots=True)
class SessionThere:
    """A session of ours in the scope, and the turns in it that we know."""

    server_id: str
    claimed: frozenset[str]
    residue: frozenset[str]


def unfinished(ledger: Ledger) -> list[str]:
    """Scopes whose erase was begun and not finished."""
    last: dict[str, str] = {}
    for row in ledger.db.execute("SELECT subject, detail FROM step WHERE kind = ? ORDER BY id", (KIND,)):
        last[row["subject"]] = json.loads(row["detail"])["phase"]
    return sorted(path for path, phase in last.items() if phase == BEGUN)


def is_ours(ledger: Ledger, path: str) -> bool:
    """Whether our own 201 created the node."""
    row = ledger.db.execute("SELECT created_by_us, listed_before FROM scope WHERE path = ?", (path,)).fetchone()
    return row is not None and bool(row["created_by_us"]) and not row["listed_before"]


def was_intended(ledger: Ledger, path: str) -> bool:
    """Whether the node came to be by our registering: absent before, and in a durable intent of ours."""
    row = ledger.db.execute("SELECT intended_at, listed_before FROM scope WHERE path = ?", (path,)).fetchone()
    return row is not None and row["intended_at"] is not None and not row["listed_before"]


def selectors_in(ledger: Ledger, path: str) -> Iterator[tuple[Selector, int]]:
    """The selector of every session that the scope takes in, and how many of its facts nobody has decided."""
    for row in _sessions(ledger, path):
        undecided = ledger.db.execute(
            "SELECT count(*) FROM fact WHERE session = ? AND state IN ('intended', 'undecidable')", (row["id"],)
        ).fetchone()
        yield selector_of(row["selector"]), int(undecided[0])


def sessions_in(ledger: Ledger, path: str) -> Iterator[SessionThere]:
    """Sessions of ours in the scope that the server made."""
    for row in _sessions(ledger, path):
        if row["server_id"] is None:
            continue
        facts = ledger.db.execute("SELECT turn_id, residue FROM fact WHERE session = ?", (row["id"],)).fetchall()
        yield SessionThere(
            row["server_id"],
            frozenset(fact["turn_id"] for fact in facts if fact["turn_id"]),
            frozenset(turn for fact in facts if fact["residue"] for turn in json.loads(fact["residue"])),
        )


def count_in(ledger: Ledger, path: str) -> int:
    """Memories of ours in the scope that are in Spectron."""
    return sum(
        ledger.db.execute(
            f"SELECT count(*) FROM fact WHERE session = ? AND state IN ({marks(SENT)})", (row["id"], *SENT)
        ).fetchone()[0]
        for row in _sessions(ledger, path)
    )


def wrote(ledger: Ledger, path: str, chunk_id: str, text: str) -> bool:
    """Whether a passage is ours: by its id; by its text alone only where we were not told the id.

    A long text is stored in several passages of which only the first is told, so the others are known as its parts.
    """
    needle = canonical_json(text.strip())[1:-1]
    for row in _sessions(ledger, path):
        facts = ledger.db.execute(
            "SELECT chunk_id, residue, body FROM fact WHERE session = ? AND (chunk_id = ? OR instr(body, ?) > 0)",
            (row["id"], chunk_id, needle),
        )
        for fact in facts:
            if fact["chunk_id"] == chunk_id:
                return True
            whole = str(json.loads(fact["body"])["text"]).strip()
            if whole == text.strip():
                if fact["chunk_id"] is None or fact["residue"] is not None:
                    return True
            elif len(whole) >= SPLIT and (len(needle) >= PART or whole.endswith(text.strip())):
                return True
    return False


def begin(ledger: Ledger, path: str, *, now: str) -> None:
    """Note, before the call, that the scope is about to be erased. Call inside a transaction."""
    sessions = [row["server_id"] for row in _sessions(ledger, path)]
    _step(ledger, path, {"phase": BEGUN, "memories": count_in(ledger, path), "sessions": sessions}, now)


def finish(ledger: Ledger, path: str, *, now: str) -> None:
    """The scope is empty: its memories are planned anew, its sessions are no more. Call inside a transaction.

    Nothing of an older text is written again, nor of a memory that Mem0 no longer has. Plans have to be made
    anew, because keys that the server still holds would answer instead of writing.
    """
    db = ledger.db
    for session in [row["id"] for row in _sessions(ledger, path)]:
        facts = db.execute(
            f"SELECT id, mem0_id, version, body FROM fact WHERE session = ? AND state IN ({marks(SENT)})",
            (session, *SENT),
        )
        for fact in facts.fetchall():
            _plan_again(ledger, fact)
        # What was refused there is no longer in anybody's way either.
        db.execute(
            "UPDATE fact SET session = NULL, position = NULL, sent_after = NULL, sent_by = NULL WHERE session = ?",
            (session,),
        )
        db.execute("UPDATE fact SET batch = NULL WHERE batch IN (SELECT id FROM batch WHERE session = ?)", (session,))
        db.execute("DELETE FROM batch WHERE session = ?", (session,))
        db.execute("DELETE FROM session WHERE id = ?", (session,))
    db.execute("UPDATE plan SET complete = 0")
    _step(ledger, path, {"phase": DONE}, now)


def _plan_again(ledger: Ledger, fact: Row) -> None:
    body = json.loads(fact["body"])
    body.pop("session_id", None)
    ledger.db.execute(
        "UPDATE fact SET state = 'planned', reason = NULL, body = ?, late = 0, session = NULL, position = NULL,"
        " batch = NULL, sent_after = NULL, sent_by = NULL, attempts = 0, turn_id = NULL, seq = NULL, chunk_id = NULL,"
        " ids = NULL, decided_by = NULL, altered = 0, candidate = NULL, residue = NULL WHERE id = ?",
        (canonical_json(body), fact["id"]),
    )
    skip_overtaken(ledger, fact)


def erased(ledger: Ledger) -> dict[str, str]:
    """Scopes that were erased, and when last."""
    rows = ledger.db.execute("SELECT subject, detail, at FROM step WHERE kind = ? ORDER BY id", (KIND,))
    return {row["subject"]: row["at"] for row in rows if json.loads(row["detail"])["phase"] == DONE}


def erased_times(ledger: Ledger) -> int:
    """How often anything was erased: keys made after that must differ from those the server may still hold."""
    rows = ledger.db.execute("SELECT detail FROM step WHERE kind = ?", (KIND,))
    return sum(json.loads(row["detail"])["phase"] == DONE for row in rows)


def _sessions(ledger: Ledger, path: str) -> list[Row]:
    rows = ledger.db.execute("SELECT id, server_id, selector FROM session ORDER BY id").fetchall()
    return [row for row in rows if _touches(selector_of(row["selector"]), path)]


def _touches(selector: Selector, path: str) -> bool:
    return any(one == path or one.startswith(path + "/") for clause in selector for one in clause)


def _step(ledger: Ledger, path: str, detail: dict[str, object], now: str) -> None:
    ledger.db.execute(
        "INSERT INTO step(kind, subject, detail, who, at) VALUES (?, ?, ?, 'erase', ?)",
        (KIND, path, canonical_json(detail), now),
    )
