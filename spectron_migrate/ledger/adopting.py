"""Adoption: records facts that the server already has, but that this ledger did not send (`replay --adopt`).

That happens if the ledger was lost, restored or copied, or if the server was restored. What is found becomes a receipt,
what is gone is planned again. Call every function that changes something inside a transaction. Once an adoption has
begun, nothing else may be sent from this ledger until it is finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spectron_migrate.database.interface import Database
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.messages import DELETED
from spectron_migrate.ledger.overtaken import mark_if_late, skip_if_overtaken
from spectron_migrate.ledger.read.adoption import BY, BY_KEY, NO_KEY, SoughtFact, memory_of
from spectron_migrate.ledger.read.adoption_steps import BACKUP, BEGUN, DONE, KIND
from spectron_migrate.ledger.sending import drop_requests, plan_again
from spectron_migrate.records import Infer, Memory, canonical_json, digest


@dataclass(frozen=True, slots=True)
class FoundTurn:
    """A turn, or only a passage, that becomes the receipt of a fact."""

    fact: SoughtFact
    session: int
    turn_id: str | None
    seq: int | None
    chunk_id: str | None
    late: bool = False
    """Whether it is out of order in its session. Then it counts as sent without extraction."""


def begin(ledger: Ledger, *, now: str) -> None:
    """Record that an adoption begins.

    Facts that an earlier one could not decide are planned again, or skipped if overtaken.
    """
    _step(ledger.db, {"phase": BEGUN}, now)
    held = ledger.db.execute("SELECT id FROM fact WHERE state = 'undecidable' AND was_sent = 0").fetchall()
    for row in held:
        plan_again(ledger, row["id"])
        skip_if_overtaken(ledger, row["id"])


def note_backup(db: Database, now: str) -> None:
    """Record that the ledger is a backup, so that later writes must be adopted before anything is sent."""
    _step(db, {"phase": BACKUP}, now, who="state copy --backup")


def finish(ledger: Ledger, *, until: str, now: str) -> None:
    """Record that every fact was looked for.

    Facts that are planned later are also looked for if their text is older than `until`.
    """
    newest = ledger.db.execute("SELECT coalesce(max(id), 0) FROM fact").fetchone()[0]
    _step(ledger.db, {"phase": DONE, "newest_fact": newest, "until": until}, now)


def _step(db: Database, detail: dict[str, object], now: str, *, who: str = "replay --adopt") -> None:
    db.execute(
        "INSERT INTO step(kind, subject, detail, who, at) VALUES (?, '', ?, ?, ?)",
        (KIND, canonical_json(detail), who, now),
    )


def adopted_session(
    ledger: Ledger, selector: int, run: str | None, infer: Infer, server_id: str | None, now: str
) -> int:
    """A closed session for receipts that were found; `server_id` is None if the server names none, or lists none."""
    same_run, values = ("run IS NULL", ()) if run is None else ("run = ?", (run,))
    if server_id is not None:
        known = ledger.db.execute("SELECT id FROM session WHERE server_id = ?", (server_id,)).fetchone()
    else:
        known = ledger.db.execute(
            f"SELECT id FROM session WHERE server_id IS NULL AND state = 'closed' AND selector = ? AND infer = ?"
            f" AND {same_run}",
            (selector, infer, *values),
        ).fetchone()
    if known is not None:
        return int(known["id"])
    part = ledger.db.execute(
        f"SELECT coalesce(max(part) + 1, 0) FROM session WHERE selector = ? AND infer = ? AND {same_run}",
        (selector, infer, *values),
    ).fetchone()[0]
    row = ledger.db.execute(
        "INSERT INTO session(selector, run, infer, part, state, server_id, created_at)"
        " VALUES (?, ?, ?, ?, 'closed', ?, ?) RETURNING id",
        (selector, run, infer, part, server_id, now),
    ).fetchone()
    return int(row["id"])


def adopt(ledger: Ledger, found: FoundTurn, *, by: str = BY) -> None:
    """Record the turn that was found as the receipt of the fact. What was extracted from it stays unknown."""
    fact, db = found.fact, ledger.db
    infer = "none" if found.late else fact.infer
    state, reason = ("written", None) if infer == "none" else ("stored_not_extracted", "extraction unknown")
    drop_requests(ledger, [fact.id])
    release_spare(ledger, found.session, found.turn_id)
    db.execute(
        "UPDATE fact SET state = ?, reason = ?, infer = ?, late = CASE WHEN ? = 1 THEN 1 ELSE late END, batch = NULL,"
        " was_sent = 1, session = ?, position = ("
        "  SELECT coalesce(max(position) + 1, 0) FROM fact AS other WHERE other.session = ?) WHERE id = ?",
        (state, reason, infer, found.late, found.session, found.session, fact.id),
    )
    db.execute(
        "INSERT INTO receipt(fact, session, turn_id, seq, chunk_id, decided_by) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT(fact) DO UPDATE SET session = excluded.session, turn_id = excluded.turn_id,"
        " seq = excluded.seq, chunk_id = excluded.chunk_id, decided_by = excluded.decided_by, altered = 0",
        (fact.id, found.session, found.turn_id, found.seq, found.chunk_id, by),
    )


def mark_out_of_order(ledger: Ledger, session: int) -> None:
    """Mark adopted facts as sent without extraction if their turn follows that of a newer fact in the session."""
    rows = ledger.db.execute(
        "SELECT fact.id, order_key, decided_by FROM fact JOIN receipt ON receipt.fact = fact.id"
        " WHERE fact.session = ? AND infer = 'full' AND seq IS NOT NULL ORDER BY seq",
        (session,),
    ).fetchall()
    high = ""
    for row in rows:
        if row["order_key"] < high and row["decided_by"] in (BY, BY_KEY):
            ledger.db.execute(
                "UPDATE fact SET infer = 'none', late = 1, state = 'written', reason = NULL WHERE id = ?", (row["id"],)
            )
        high = max(high, row["order_key"])


def release_spare(ledger: Ledger, session: int, turn_id: str | None) -> None:
    """Stop keeping a turn as the text of a deleted memory, or as a copy: it now belongs to a fact, or is gone."""
    ledger.db.execute("DELETE FROM residue WHERE session = ? AND turn_id = ?", (session, turn_id))
    held = ledger.db.execute(
        "DELETE FROM receipt WHERE session = ? AND turn_id = ? AND fact IN (SELECT id FROM fact WHERE key = ?)"
        " RETURNING fact",
        (session, turn_id, NO_KEY),
    ).fetchone()
    if held is not None:
        ledger.db.execute(
            "UPDATE fact SET state = 'skipped', reason = ?, session = NULL, position = NULL WHERE id = ?",
            (DELETED, held["fact"]),
        )


def exchange_keys(ledger: Ledger, fact: int, holder: int) -> None:
    """Plan a fact whose key the server knows again, under the key of an adopted fact with the same text.

    The turn of the known key is one of the turns with this text, and nothing shows which. So it counts as that of the
    adopted fact (the holder), which gets the known key. No fact exchanges keys with the holder again.
    """
    plan_again(ledger, fact)
    rows = ledger.db.execute("SELECT id, key FROM fact WHERE id IN (?, ?)", (fact, holder)).fetchall()
    keys = {row["id"]: row["key"] for row in rows}
    ledger.db.executemany("UPDATE fact SET key = ? WHERE id = ?", [(keys[holder], fact), (keys[fact], holder)])
    ledger.db.execute("UPDATE receipt SET decided_by = ? WHERE fact = ?", (BY_KEY, holder))
    mark_if_late(ledger, fact)
    skip_if_overtaken(ledger, fact)


def plan_gone(ledger: Ledger, facts: Sequence[int]) -> None:
    """Plan facts again whose turns are gone from the server, under new keys. Overtaken ones are skipped.

    The server may still hold the old keys, and would then repeat its answer instead of writing.
    """
    for fact in facts:
        for table in ("receipt", "extracted", "residue"):
            ledger.db.execute(f"DELETE FROM {table} WHERE fact = ?", (fact,))
        plan_again(ledger, fact)
        key = ledger.db.execute("SELECT key FROM fact WHERE id = ?", (fact,)).fetchone()["key"]
        ledger.db.execute(
            "UPDATE fact SET key = ?, infer = CASE WHEN late = 1 THEN 'full' ELSE infer END, late = 0 WHERE id = ?",
            (digest(key, "gone"), fact),
        )
        skip_if_overtaken(ledger, fact)


def plan_rest_of_batch(ledger: Ledger, batch_of: int) -> None:
    """Plan the undecided facts of a batch again, because one of its facts was found in another session."""
    rows = ledger.db.execute(
        "SELECT id FROM fact WHERE state = 'intended' AND batch = (SELECT batch FROM fact WHERE id = ?) AND id != ?",
        (batch_of, batch_of),
    ).fetchall()
    for row in rows:
        plan_again(ledger, row["id"])


def close(ledger: Ledger, session: int) -> None:
    """Stop writing to a session that holds turns of another ledger."""
    ledger.db.execute("UPDATE session SET state = 'closed' WHERE id = ? AND state = 'open'", (session,))


def keep_deleted(
    ledger: Ledger,
    turn: FoundTurn,
    *,
    text: str,
    now: str,
) -> None:
    """Keep a turn whose text no memory has any more as that of a deleted memory: hidden, and not foreign.

    `turn.fact`: a fact of the same scope, whose memory has the same owners. Nobody knows which memory it was.
    """
    db, like = ledger.db, memory_of(ledger, turn.fact.mem0_id)
    mem0_id = f"turn:{turn.turn_id}"
    if db.execute("SELECT 1 FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchone() is not None:
        return
    scan = db.execute("SELECT scan FROM memory WHERE mem0_id = ?", (like.id,)).fetchone()["scan"]
    memory = Memory(mem0_id, text, like.user_id, like.agent_id, like.run_id, like.app_id, state="deleted")
    record = canonical_json(memory.to_json())
    db.execute(
        "INSERT INTO memory(mem0_id, record, digest, scan, newest_version, mem0_state, tombstoned_at, tombstoned_by)"
        " VALUES (?, ?, ?, ?, 1, 'deleted', ?, ?)",
        (mem0_id, record, digest(record), scan, now, scan),
    )
    version = int(db.execute("SELECT coalesce(max(id), 0) + 1 FROM version").fetchone()[0])  # like planning does
    db.execute(
        "INSERT INTO version(id, mem0_id, number, text, digest, scan, recorded_at) VALUES (?, ?, 1, ?, ?, ?, ?)",
        (version, mem0_id, text, digest(text), scan, now),
    )
    # In a plan of its own, because the dump has no such memory.
    db.execute(
        "INSERT INTO plan(fingerprint, scan, at) SELECT ?, ?, ?"
        " WHERE NOT EXISTS (SELECT 1 FROM plan WHERE fingerprint = ?)",
        (BY, scan, now, BY),
    )
    db.execute(
        "INSERT INTO fact(id, plan, lane, order_key, selector, infer, role, key, state, late, session, position,"
        " was_sent) SELECT ?, (SELECT id FROM plan WHERE fingerprint = ?), ?, '', ?, 'none', 'user', ?, 'written', 1,"
        " ?, coalesce(max(position) + 1, 0), 1 FROM fact WHERE session = ?",
        (version, BY, turn.fact.lane, turn.fact.selector, NO_KEY, turn.session, turn.session),
    )
    db.execute(
        "INSERT INTO receipt(fact, session, turn_id, seq, chunk_id, decided_by) VALUES (?, ?, ?, ?, ?, ?)",
        (version, turn.session, turn.turn_id, turn.seq, turn.chunk_id, BY),
    )


def keep_copies(ledger: Ledger, fact: int, session: int, turn_ids: Sequence[str]) -> None:
    """Keep further turns with the text of a fact as residue."""
    ledger.db.executemany(
        "INSERT INTO residue(session, turn_id, fact) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(session, turn_id, fact) for turn_id in turn_ids],
    )


def hold(ledger: Ledger, fact: int, reason: str) -> None:
    """Mark a fact as undecidable. It holds its lane if it would be sent with extraction."""
    ledger.db.execute("UPDATE fact SET state = 'undecidable', reason = ? WHERE id = ?", (reason, fact))


def scopes_gone(ledger: Ledger, live: Iterable[str]) -> None:
    """Mark scopes that are gone from the server as not registered, so that they are registered again."""
    there = set(live)
    rows = ledger.db.execute("SELECT path FROM scope WHERE registered = 1").fetchall()
    gone = [(row["path"],) for row in rows if row["path"] not in there]
    ledger.db.executemany("UPDATE scope SET registered = 0, listed_before = 0 WHERE path = ?", gone)


def keep_scopes(ledger: Ledger, paths: Iterable[str], registered: Iterable[str]) -> None:
    """Record target scopes that exist, so that they may be written to.

    Scopes that this ledger did not make, or that hold what another ledger wrote, are never erased.
    """
    there = set(registered)
    ledger.db.executemany(
        "INSERT INTO scope(path, listed_before, registered) VALUES (?, 1, 1) ON CONFLICT(path) DO UPDATE SET"
        " registered = 1, listed_before = CASE WHEN scope.intended_at IS NULL OR EXISTS ("
        "  SELECT 1 FROM selector_path JOIN fact ON fact.selector = selector_path.selector"
        "  JOIN receipt ON receipt.fact = fact.id WHERE selector_path.path = scope.path AND decided_by IN (?, ?))"
        " THEN 1 ELSE scope.listed_before END",
        [(path, BY, BY_KEY) for path in paths if path in there],
    )
