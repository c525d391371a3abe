"""What is in Spectron, and under which ids: receipts as streams, so that memory use stays flat."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.schema import STORED, marks
from spectron_migrate.records import Infer, Json


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """A stored version of a memory, with everything that tells it apart on the server."""

    mem0_id: str
    version: int
    newest: bool
    """Whether the ledger knows no later text of this memory, in whatever state."""
    text: str
    text_at: str | None
    order_key: str
    selector: str
    """Canonical JSON, as the ledger keeps it."""
    run: str | None
    infer: Infer
    category: str | None
    """As it was sent; None leaves it to the server."""
    state: str
    session_id: str
    turn_id: str | None
    chunk_id: str | None
    ids: tuple[str, ...]
    """Entity and attribute ids of its extraction."""
    late: bool
    echoed: bool
    tombstoned: bool
    owners: dict[str, str]
    """The ids that say whose memory it is, of the newest record."""


@dataclass(frozen=True, slots=True)
class OurSession:
    """A session that the server made for us, and turns in it that are known to have no receipt."""

    server_id: str
    selector: str
    infer: Infer
    residue: frozenset[str]
    undecided: tuple[tuple[str, str], ...]
    """Mem0 id and text of facts that were sent to it and are not decided."""


_RECEIPTS = (
    "SELECT fact.mem0_id, fact.version, fact.body, fact.text_at, fact.order_key, fact.selector, fact.run, fact.infer,"
    " fact.state, session.server_id, fact.turn_id, fact.chunk_id, fact.ids, fact.late,"
    " session.echo IS NOT NULL AS echoed, memory.tombstoned_at IS NOT NULL AS tombstoned, memory.record,"
    " NOT EXISTS (SELECT 1 FROM fact AS later WHERE later.mem0_id = fact.mem0_id AND later.version > fact.version)"
    " AS newest"
    " FROM fact JOIN session ON session.id = fact.session JOIN memory ON memory.mem0_id = fact.mem0_id"
    f" WHERE fact.state IN ({', '.join('?' * len(STORED))})"
)


def receipts(ledger: Ledger) -> Iterator[ReceiptRow]:
    """Every stored version, session by session, in the order they were sent."""
    rows = ledger.db.execute(f"{_RECEIPTS} ORDER BY fact.session, fact.position", STORED)
    for row in rows:
        record, body = json.loads(row["record"]), json.loads(row["body"])
        yield ReceiptRow(
            mem0_id=row["mem0_id"],
            version=row["version"],
            newest=bool(row["newest"]),
            text=str(body["text"]),
            text_at=row["text_at"],
            order_key=row["order_key"],
            selector=row["selector"],
            run=row["run"],
            infer=row["infer"],
            category=body.get("memory_category"),
            state=row["state"],
            session_id=row["server_id"],
            turn_id=row["turn_id"],
            chunk_id=row["chunk_id"],
            ids=tuple(json.loads(row["ids"])) if row["ids"] else (),
            late=bool(row["late"]),
            echoed=bool(row["echoed"]),
            tombstoned=bool(row["tombstoned"]),
            owners={name: record[name] for name in ("user_id", "agent_id", "app_id", "run_id") if record.get(name)},
        )


def memories_in_messages(ledger: Ledger) -> Iterator[tuple[str, str, str]]:
    """Memories that Mem0 has and that are in the turn of a message, that message, and their texts."""
    rows = ledger.db.execute(
        "SELECT fact.mem0_id, message, body FROM fact JOIN memory USING (mem0_id) WHERE message IS NOT NULL"
        " AND tombstoned_at IS NULL AND NOT EXISTS (SELECT 1 FROM fact AS later"
        "  WHERE later.mem0_id = fact.mem0_id AND later.version > fact.version)"
    )
    return ((row["mem0_id"], row["message"], str(json.loads(row["body"])["text"])) for row in rows)


def claimed_turns(ledger: Ledger, server_id: str) -> set[str]:
    """Turn ids of a session that have a receipt at this moment."""
    rows = ledger.db.execute(
        "SELECT turn_id FROM fact JOIN session ON session.id = fact.session"
        " WHERE server_id = ? AND turn_id IS NOT NULL",
        (server_id,),
    )
    return {row["turn_id"] for row in rows}


def session_to_show(ledger: Ledger) -> tuple[str, set[str]] | None:
    """A session that the right server has: the newest with claimed turns and these, else the newest at all."""
    row = ledger.db.execute(
        "SELECT session.id, server_id FROM session WHERE server_id IS NOT NULL ORDER BY EXISTS"
        " (SELECT 1 FROM fact WHERE fact.session = session.id AND turn_id IS NOT NULL) DESC, session.id DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    turns = ledger.db.execute("SELECT turn_id FROM fact WHERE session = ? AND turn_id IS NOT NULL", (row["id"],))
    return row["server_id"], {turn["turn_id"] for turn in turns}


def newest_session(ledger: Ledger) -> str | None:
    """The server's id of the newest session with a receipt."""
    row = ledger.db.execute(
        "SELECT server_id FROM session WHERE server_id IS NOT NULL AND EXISTS"
        " (SELECT 1 FROM fact WHERE fact.session = session.id AND turn_id IS NOT NULL) ORDER BY id DESC LIMIT 1"
    ).fetchone()
    return str(row["server_id"]) if row else None


def our_sessions(ledger: Ledger) -> Iterator[OurSession]:
    """Every session that the server made for us, empty ones included."""
    rows = ledger.db.execute(
        "SELECT id, server_id, selector, infer FROM session WHERE server_id IS NOT NULL ORDER BY id"
    )
    for row in rows:
        left = ledger.db.execute("SELECT residue FROM fact WHERE session = ? AND residue IS NOT NULL", (row["id"],))
        undecided = ledger.db.execute(
            "SELECT mem0_id, body FROM fact WHERE session = ? AND state IN ('intended', 'undecidable')"
            " ORDER BY position",
            (row["id"],),
        )
        yield OurSession(
            server_id=row["server_id"],
            selector=row["selector"],
            infer=row["infer"],
            residue=frozenset(turn for fact in left for turn in json.loads(fact["residue"])),
            undecided=tuple((fact["mem0_id"], str(json.loads(fact["body"])["text"])) for fact in undecided),
        )


def fingerprint(ledger: Ledger) -> list[Json]:
    """What changes whenever the ledger says something else about what is stored."""
    row = ledger.db.execute(
        "SELECT count(*), max(id), count(turn_id), max(recorded_at), max(plan) FROM fact"
    ).fetchone()
    states = ledger.db.execute("SELECT state, count(*) FROM fact GROUP BY state ORDER BY state").fetchall()
    gone = ledger.db.execute("SELECT count(*) FROM memory WHERE tombstoned_at IS NOT NULL").fetchone()
    migration = ledger.migration()
    return [migration.id if migration else None, *row, [list(state) for state in states], gone[0]]


def written_selectors(ledger: Ledger) -> list[str]:
    """The different selectors, as canonical JSON, to which anything was stored."""
    rows = ledger.db.execute(
        f"SELECT DISTINCT selector FROM fact WHERE state IN ({marks(STORED)}) ORDER BY selector", STORED
    )
    return [row["selector"] for row in rows]
