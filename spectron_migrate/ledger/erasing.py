"""What the ledger knows about a scope that is to be erased, and what it records afterwards.

A scope includes every selector with a path at or below it, because erasing a node removes those rows too. Everything
that was sent belongs to a session, so it is found through the sessions of those selectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from spectron_migrate.database.interface import ResultRow
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.overtaken import skip_if_overtaken
from spectron_migrate.ledger.read.erases import BEGUN, DONE, KIND
from spectron_migrate.ledger.read.turns import claimed_turns, residue_turns
from spectron_migrate.ledger.schema import CONTAINS, SENT, marks
from spectron_migrate.ledger.sending import plan_again
from spectron_migrate.records import Selector, canonical_json, selector_of

SPLIT, PART = 1000, 100
"""A text of this many characters or more may be stored in several passages.

Each but the last has at least this length.
"""


@dataclass(frozen=True, slots=True)
class SessionThere:
    """One of our sessions in the scope, with its known turns."""

    server_id: str
    claimed: frozenset[str]
    residue: frozenset[str]


def is_ours(ledger: Ledger, path: str) -> bool:
    """Whether our own request created the node (201), and it was not listed before."""
    row = ledger.db.execute("SELECT created_by_us, listed_before FROM scope WHERE path = ?", (path,)).fetchone()
    return row is not None and bool(row["created_by_us"]) and not row["listed_before"]


def was_intended(ledger: Ledger, path: str) -> bool:
    """Whether the node did not exist before, and our intent to register it is durable."""
    row = ledger.db.execute("SELECT intended_at, listed_before FROM scope WHERE path = ?", (path,)).fetchone()
    return row is not None and row["intended_at"] is not None and not row["listed_before"]


def selectors_in(ledger: Ledger, path: str) -> Iterator[tuple[Selector, int]]:
    """The selector of every session in the scope, and how many of its facts are undecided."""
    for row in _sessions(ledger, path):
        undecided = ledger.db.execute(
            "SELECT count(*) FROM fact WHERE session = ? AND state IN ('intended', 'undecidable')", (row["id"],)
        ).fetchone()
        yield selector_of(row["selector"]), int(undecided[0])


def sessions_in(ledger: Ledger, path: str) -> Iterator[SessionThere]:
    """Our sessions in the scope that the server created."""
    for row in _sessions(ledger, path):
        if row["server_id"] is None:
            continue
        yield SessionThere(
            row["server_id"],
            frozenset(claimed_turns(ledger, row["id"])),
            frozenset(residue_turns(ledger, row["id"])),
        )


def count_in(ledger: Ledger, path: str) -> int:
    """How many facts in the scope are, or may be, in Spectron."""
    return sum(
        ledger.db.execute(
            f"SELECT count(*) FROM fact WHERE session = ? AND state IN ({marks(SENT)})", (row["id"], *SENT)
        ).fetchone()[0]
        for row in _sessions(ledger, path)
    )


def wrote(ledger: Ledger, path: str, chunk_id: str, text: str) -> bool:
    """Whether a passage is ours: by its id, or by its text if we do not know the id.

    A long text is stored in several passages and the answer names only the first; the others are recognised as parts.
    """
    part = text.strip()
    for row in _sessions(ledger, path):
        facts = ledger.db.execute(
            "SELECT chunk_id, version.text, EXISTS (SELECT 1 FROM residue WHERE residue.fact = fact.id) AS has_residue"
            " FROM fact JOIN version ON version.id = fact.id LEFT JOIN receipt ON receipt.fact = fact.id"
            f" WHERE fact.session = ? AND (chunk_id = ? OR {CONTAINS})",
            (row["id"], chunk_id, part),
        )
        for fact in facts:
            if fact["chunk_id"] == chunk_id:
                return True
            whole = fact["text"].strip()
            if whole == part:
                if fact["chunk_id"] is None or fact["has_residue"]:
                    return True
            elif len(whole) >= SPLIT and (len(part) >= PART or whole.endswith(part)):
                return True
    return False


def begin(ledger: Ledger, path: str, *, now: str) -> None:
    """Record, before the call, that the scope is about to be erased. Call inside a transaction."""
    sessions = [row["server_id"] for row in _sessions(ledger, path)]
    _step(ledger, path, {"phase": BEGUN, "memories": count_in(ledger, path), "sessions": sessions}, now)


def finish(ledger: Ledger, path: str, *, now: str) -> None:
    """Record that the scope is empty: plan its facts again and remove its sessions. Call inside a transaction.

    Overtaken facts are skipped. Every plan must be made again, because the server may still hold the old keys and would
    answer with them instead of writing.
    """
    db = ledger.db
    for session in [row["id"] for row in _sessions(ledger, path)]:
        for table in ("receipt", "extracted"):
            db.execute(f"DELETE FROM {table} WHERE fact IN (SELECT id FROM fact WHERE session = ?)", (session,))
        db.execute("DELETE FROM residue WHERE session = ?", (session,))
        facts = db.execute(
            f"SELECT id FROM fact WHERE session = ? AND state IN ({marks(SENT)}) ORDER BY position", (session, *SENT)
        )
        for fact in [row["id"] for row in facts.fetchall()]:
            plan_again(ledger, fact, was_sent=False)
            db.execute("UPDATE fact SET late = 0 WHERE id = ?", (fact,))
            skip_if_overtaken(ledger, fact)
        # Refused facts of the session leave it too.
        db.execute("UPDATE fact SET session = NULL, position = NULL, was_sent = 0 WHERE session = ?", (session,))
        db.execute("DELETE FROM session WHERE id = ?", (session,))
    db.execute("UPDATE plan SET complete = 0")
    _step(ledger, path, {"phase": DONE}, now)


def _sessions(ledger: Ledger, path: str) -> list[ResultRow]:
    """The sessions with a path in the scope or below it."""
    return ledger.db.execute(
        "SELECT session.id, server_id, selector.text AS selector FROM session"
        " JOIN selector ON selector.no = session.selector WHERE selector.no IN"
        " (SELECT selector FROM selector_path WHERE path = ? OR path >= ? AND path < ?) ORDER BY session.id",
        (path, f"{path}/", f"{path}0"),  # `0` comes right after `/`
    ).fetchall()


def _step(ledger: Ledger, path: str, detail: dict[str, object], now: str) -> None:
    ledger.db.execute(
        "INSERT INTO step(kind, subject, detail, who, at) VALUES (?, ?, ?, 'erase', ?)",
        (KIND, path, canonical_json(detail), now),
    )
