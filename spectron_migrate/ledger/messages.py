"""Messages in place of memories (`cutover.capture: messages`): one turn holds what the application said.

A message is planned and sent as a memory is; the memories that Mem0 made of it are skipped, and name it. While any of
them is current, so is the message: a search that finds it shows those. As soon as nothing of it is on its way and it
would say what Mem0 has replaced or deleted meanwhile, or the server refuses it, its memories are written instead.
"""

from __future__ import annotations

from sqlite3 import Connection

from spectron_migrate.ledger.schema import FACTS, IS_CURRENT, SENT, UNDECIDED, FactState, marks

CARRIED = "in the turn of a message"
APART = "its memories are written instead"
DELETED = "deleted in Mem0"
LET_GO = "replaced, deleted or moved in Mem0"
_ON_ITS_WAY: tuple[FactState, ...] = ("planned", *SENT)


def records_in_turn(db: Connection, message: int) -> list[str]:
    """The records of the memories in a message that Mem0 still has, in Mem0's order."""
    rows = db.execute(
        f"SELECT record FROM {FACTS} WHERE fact.message = ? AND {IS_CURRENT} ORDER BY fact.id", (message,)
    )
    return [row["record"] for row in rows]


def fact_of_message(db: Connection, message_id: str) -> int | None:
    """The fact of a message that is, or will be, in Spectron; None for any other."""
    row = db.execute(
        f"SELECT fact.id FROM version JOIN fact ON fact.id = version.id"
        f" WHERE mem0_id = ? AND state IN ({marks(_ON_ITS_WAY)})",
        (message_id, *_ON_ITS_WAY),
    ).fetchone()
    return int(row["id"]) if row else None


def is_on_its_way(db: Connection, message: int) -> bool:
    """Whether what the message says is, or will be, in Spectron."""
    row = db.execute(f"SELECT 1 FROM fact WHERE id = ? AND state IN ({marks(_ON_ITS_WAY)})", (message, *_ON_ITS_WAY))
    return row.fetchone() is not None


def adopt(db: Connection, plan: int) -> None:
    """No dump names a message: what is not decided of any belongs to the newest plan."""
    db.execute(
        f"UPDATE fact SET plan = ? WHERE plan != ? AND state IN ({marks(UNDECIDED)}) AND id IN"
        " (SELECT version.id FROM memory JOIN version ON version.mem0_id = memory.mem0_id WHERE is_message = 1)",
        (plan, plan, *UNDECIDED),
    )


def take_planned_apart(db: Connection) -> None:
    """Plan the memories instead of messages that were planned by another mapping."""
    for message, _ in _messages(db, "planned"):
        skip(db, message, APART)


def part(db: Connection, message: int, selector: int | None, plan: int) -> None:
    """A memory of the message belongs to this selector now: a message planned for another one is taken apart."""
    elsewhere = db.execute(
        "SELECT 1 FROM fact WHERE id = ? AND state = 'planned' AND selector != ?", (message, selector or 0)
    )
    if elsewhere.fetchone() is not None:
        skip(db, message, APART, plan=plan)


def overtake(db: Connection, mem0_id: str, plan: int, at: str) -> None:
    """A memory is gone since `at`, or has another text: what said the old one is taken apart while it can be."""
    rows = db.execute(
        "SELECT DISTINCT carrier.id, carrier.state"
        f" FROM {FACTS} JOIN fact AS carrier ON carrier.id = fact.message"
        f" WHERE version.mem0_id = ? AND NOT ({IS_CURRENT})",
        (mem0_id,),
    )
    for message in rows.fetchall():
        if message["state"] == "planned":
            skip(db, message["id"], APART, plan=plan)
        elif not records_in_turn(db, message["id"]):
            db.execute(
                "UPDATE memory SET tombstoned_at = coalesce(tombstoned_at, ?) WHERE mem0_id ="
                " (SELECT mem0_id FROM version WHERE id = ?)",
                (at, message["id"]),
            )


def returned(db: Connection, message: int) -> None:
    """A memory of it is current again, and so is the message."""
    db.execute(
        "UPDATE memory SET tombstoned_at = NULL WHERE mem0_id = (SELECT mem0_id FROM version WHERE id = ?)", (message,)
    )


def is_torn(db: Connection, message: int) -> bool:
    """Whether a message says a text that Mem0 has replaced or deleted."""
    row = db.execute(f"SELECT 1 FROM {FACTS} WHERE fact.message = ? AND NOT ({IS_CURRENT}) LIMIT 1", (message,))
    return row.fetchone() is not None


def take_refused_apart(db: Connection, plan: int) -> int:
    """Plan the memories of messages that the server refused one by one; returns how many messages these were."""
    refused = _messages(db, "refused")
    for message, reason in refused:
        skip(db, message, f"refused ({reason}); {APART}", plan=plan)
    return len(refused)


def skip(db: Connection, fact: int, reason: str, *, plan: int | None = None) -> None:
    """Do not send a fact. Of a message, current memories are planned themselves, in its own plan or this one.

    A memory that has moved meanwhile is left to the next reading of Mem0, which says where it belongs.
    """
    db.execute("UPDATE fact SET state = 'skipped', reason = ? WHERE id = ?", (reason, fact))
    db.execute(
        "UPDATE fact SET state = 'planned', reason = NULL, message = NULL,"
        " plan = coalesce(?, (SELECT whole.plan FROM fact AS whole WHERE whole.id = ?)) WHERE id IN"
        f" (SELECT fact.id FROM {FACTS} WHERE fact.message = ? AND {IS_CURRENT} AND moved_from IS NULL)",
        (plan, fact, fact),
    )
    db.execute(
        "UPDATE memory SET digest = '' WHERE moved_from IS NOT NULL AND mem0_id IN"
        " (SELECT mem0_id FROM version JOIN fact ON fact.id = version.id WHERE fact.message = ?)",
        (fact,),
    )
    db.execute("UPDATE fact SET reason = ?, message = NULL WHERE message = ?", (LET_GO, fact))


def _messages(db: Connection, state: FactState) -> list[tuple[int, str | None]]:
    """All messages in this state and why, found among the messages and not among all that is planned."""
    rows = db.execute(
        "SELECT fact.id, fact.reason FROM memory JOIN version ON version.mem0_id = memory.mem0_id"
        " JOIN fact ON fact.id = version.id WHERE is_message = 1 AND +fact.state = ?",
        (state,),
    )
    return [(row["id"], row["reason"]) for row in rows.fetchall()]
