"""Messages in place of memories (`cutover.capture: messages`): one turn holds what the application said.

A message is planned and sent like a memory. The memories that Mem0 made of it are skipped, and name it. While any of
them is current, so is the message: a search that finds the message shows those memories. If Mem0 replaces or deletes
one of its memories before the message is sent, or if the server refuses the message, its memories are written one by
one instead.
"""

from __future__ import annotations

from spectron_migrate.database.interface import Database
from spectron_migrate.ledger.schema import FACTS, IS_CURRENT, OF_ANY_PLAN, SENT, UNDECIDED, FactState, marks

CARRIED = "in the turn of a message"
APART = "its memories are written instead"
DELETED = "deleted in Mem0"
LET_GO = "replaced, deleted or moved in Mem0"
_ON_ITS_WAY: tuple[FactState, ...] = ("planned", *SENT)


def records_in_turn(db: Database, message: int) -> list[str]:
    """The records of those memories in a message that Mem0 still has, in Mem0's order."""
    rows = db.execute(
        f"SELECT record FROM {FACTS} WHERE fact.message = ? AND {IS_CURRENT} ORDER BY fact.id", (message,)
    )
    return [row["record"] for row in rows]


def fact_of_message(db: Database, message_id: str) -> int | None:
    """The fact of a message that is or will be in Spectron; None if there is no such message."""
    row = db.execute(
        f"SELECT fact.id FROM version JOIN fact ON fact.id = version.id"
        f" WHERE mem0_id = ? AND state IN ({marks(_ON_ITS_WAY)})",
        (message_id, *_ON_ITS_WAY),
    ).fetchone()
    return int(row["id"]) if row else None


def is_on_its_way(db: Database, message: int) -> bool:
    """Whether the message's text is or will be in Spectron."""
    row = db.execute(f"SELECT 1 FROM fact WHERE id = ? AND state IN ({marks(_ON_ITS_WAY)})", (message, *_ON_ITS_WAY))
    return row.fetchone() is not None


def adopt(db: Database, plan: int) -> None:
    """Move undecided messages into the newest plan, because dumps do not contain messages."""
    db.execute(
        f"UPDATE fact SET plan = ? WHERE {OF_ANY_PLAN} AND plan != ? AND state IN ({marks(UNDECIDED)}) AND id IN"
        " (SELECT version.id FROM memory JOIN version ON version.mem0_id = memory.mem0_id WHERE is_message = 1)",
        (plan, plan, *UNDECIDED),
    )


def take_planned_apart(db: Database) -> None:
    """Skip messages that were planned under another mapping, and plan their memories instead."""
    for message, _ in _messages(db, "planned"):
        skip(db, message, APART)


def part(db: Database, message: int, selector: int | None, plan: int) -> None:
    """Take a planned message apart if the mapping gives one of its memories another selector."""
    elsewhere = db.execute(
        "SELECT 1 FROM fact WHERE id = ? AND state = 'planned' AND selector != ?", (message, selector or 0)
    )
    if elsewhere.fetchone() is not None:
        skip(db, message, APART, plan=plan)


def overtake(db: Database, mem0_id: str, plan: int, at: str) -> None:
    """Take planned messages apart after one of their memories was deleted at `at`, or got another text.

    A sent message gets a tombstone once Mem0 has none of its memories any more.
    """
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


def returned(db: Database, message: int) -> None:
    """Remove the message's tombstone, because Mem0 has one of its memories again."""
    db.execute(
        "UPDATE memory SET tombstoned_at = NULL WHERE mem0_id = (SELECT mem0_id FROM version WHERE id = ?)", (message,)
    )


def is_torn(db: Database, message: int) -> bool:
    """Whether a message contains a text that Mem0 has replaced or deleted."""
    row = db.execute(f"SELECT 1 FROM {FACTS} WHERE fact.message = ? AND NOT ({IS_CURRENT}) LIMIT 1", (message,))
    return row.fetchone() is not None


def take_refused_apart(db: Database, plan: int) -> int:
    """Plan, one by one, the memories of messages that the server refused; returns the number of these messages."""
    refused = _messages(db, "refused")
    for message, reason in refused:
        skip(db, message, f"refused ({reason}); {APART}", plan=plan)
    return len(refused)


def skip(db: Database, fact: int, reason: str, *, plan: int | None = None) -> None:
    """Skip a fact. If it is a message, its current memories are planned one by one, in `plan` or in the message's plan.

    A memory whose owners have changed in the meantime is planned from the next scan, which names its owners.
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


def _messages(db: Database, state: FactState) -> list[tuple[int, str | None]]:
    """All messages in this state, with their reasons. The query starts from the messages, because there are few."""
    rows = db.execute(
        "SELECT fact.id, fact.reason FROM memory CROSS JOIN version CROSS JOIN fact WHERE is_message = 1"
        " AND version.mem0_id = memory.mem0_id AND fact.id = version.id AND fact.state = ?",
        (state,),
    )
    return [(row["id"], row["reason"]) for row in rows.fetchall()]
