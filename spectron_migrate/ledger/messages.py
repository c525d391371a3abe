"""Messages in place of memories (`cutover.capture: messages`): one turn holds what the application said.

A message is planned and sent as a memory is; the memories that Mem0 made of it are skipped, and name it. While any of
them stands, the message does: who finds it is shown those that stand. As soon as nothing of it is on its way and it
would say what Mem0 has let go of meanwhile, or the server refuses it, its memories are written in its stead.
"""

from __future__ import annotations

from sqlite3 import Connection, Row

from spectron_migrate.ledger.schema import SENT, FactState, marks

CARRIED = "in the turn of a message"
APART = "its memories are written instead"
DELETED = "deleted in Mem0"
LET_GO = "replaced, deleted or moved in Mem0"

FACTS = (
    "fact AS made JOIN fact ON (fact.mem0_id = made.mem0_id AND fact.version = made.version)"
    " OR fact.mem0_id = made.message"
)
"""`made`: a text of a memory; `fact`: what was, or is to be, sent for it: itself, and the message that holds it."""

_STANDS = (
    "EXISTS (SELECT 1 FROM memory AS made WHERE made.mem0_id = fact.mem0_id AND made.tombstoned_at IS NULL)"
    " AND NOT EXISTS (SELECT 1 FROM fact AS later WHERE later.mem0_id = fact.mem0_id AND later.version > fact.version)"
)
"""Of a fact: it is the newest text of a memory that Mem0 has."""
_MOVED = "SELECT mem0_id FROM memory WHERE moved_from IS NOT NULL"


def records_in_turn(db: Connection, message: str) -> list[str]:
    """The records of the memories that a message stands for, and that Mem0 still has, in Mem0's order."""
    rows = db.execute(
        f"SELECT record FROM fact JOIN memory USING (mem0_id) WHERE fact.message = ? AND {_STANDS} ORDER BY fact.id",
        (message,),
    )
    return [row["record"] for row in rows]


def carries(db: Connection, message: str | None) -> bool:
    """Whether what the message says is, or will be, in Spectron."""
    states = ("planned", *SENT)
    row = db.execute(f"SELECT 1 FROM fact WHERE mem0_id = ? AND state IN ({marks(states)})", (message, *states))
    return row.fetchone() is not None


def adopt(db: Connection, plan: int) -> None:
    """No dump names a message: what is not decided of any belongs to the newest plan."""
    db.execute(
        "UPDATE fact SET plan = ?1 WHERE plan != ?1 AND state IN ('planned', 'intended', 'undecidable')"
        " AND mem0_id IN (SELECT mem0_id FROM memory WHERE is_message)",
        (plan,),
    )


def take_planned_apart(db: Connection) -> None:
    """They were to leave by a mapping that no longer holds."""
    for message in _messages(db, "planned"):
        skip(db, message, APART)


def part(db: Connection, message: str, selector: str, plan: int) -> None:
    """A memory of the message belongs to this selector now: if it was to leave for another, it is taken apart."""
    elsewhere = db.execute(
        "SELECT id, mem0_id FROM fact WHERE mem0_id = ? AND state = 'planned' AND selector != ?", (message, selector)
    )
    for planned in elsewhere.fetchall():
        skip(db, planned, APART, plan=plan)


def overtake(db: Connection, mem0_id: str, plan: int, at: str) -> None:
    """A memory is gone since `at`, or has another text: what said the old one is taken apart while it can be."""
    for message in _messages_left(db, mem0_id):
        if message["state"] == "planned":
            skip(db, message, APART, plan=plan)
        elif not records_in_turn(db, message["mem0_id"]):
            db.execute(
                "UPDATE memory SET tombstoned_at = coalesce(tombstoned_at, ?) WHERE mem0_id = ?",
                (at, message["mem0_id"]),
            )


def returned(db: Connection, message: str) -> None:
    """A memory of it stands again."""
    db.execute("UPDATE memory SET tombstoned_at = NULL WHERE mem0_id = ?", (message,))


def is_torn(db: Connection, mem0_id: str) -> bool:
    """Whether it is a message that says what Mem0 has let go of."""
    row = db.execute(f"SELECT 1 FROM fact WHERE message = ? AND NOT ({_STANDS}) LIMIT 1", (mem0_id,))
    return row.fetchone() is not None


def take_refused_apart(db: Connection, plan: int) -> int:
    """What the server would not have as a message it may take memory by memory; how many messages these were."""
    refused = _messages(db, "refused")
    for message in refused:
        skip(db, message, f"refused ({message['reason']}); {APART}", plan=plan)
    return len(refused)


def skip(db: Connection, fact: Row, reason: str, *, plan: int | None = None) -> None:
    """It is not sent; the memories of a message that stand are planned themselves, in its own plan or this.

    Where one belongs that moved meanwhile, the next reading of Mem0 says.
    """
    db.execute("UPDATE fact SET state = 'skipped', reason = ? WHERE id = ?", (reason, fact["id"]))
    db.execute(
        "UPDATE fact SET state = 'planned', reason = NULL, message = NULL,"
        " plan = coalesce(?, (SELECT plan FROM fact AS said WHERE said.id = ?))"
        f" WHERE message = ? AND {_STANDS} AND mem0_id NOT IN ({_MOVED})",
        (plan, fact["id"], fact["mem0_id"]),
    )
    db.execute(
        f"UPDATE memory SET digest = '' WHERE mem0_id IN ({_MOVED})"
        " AND mem0_id IN (SELECT mem0_id FROM fact WHERE message = ?)",
        (fact["mem0_id"],),
    )
    db.execute("UPDATE fact SET reason = ?, message = NULL WHERE message = ?", (LET_GO, fact["mem0_id"]))


def _messages(db: Connection, state: FactState) -> list[Row]:
    """All messages in this state, found among the messages and not among all that is planned."""
    return db.execute(
        "SELECT fact.id, fact.mem0_id, fact.reason FROM memory CROSS JOIN fact ON fact.mem0_id = memory.mem0_id"
        " WHERE is_message AND state = ?",
        (state,),
    ).fetchall()


def _messages_left(db: Connection, mem0_id: str) -> list[Row]:
    """The messages that say a text of the memory which no longer stands."""
    return db.execute(
        "SELECT DISTINCT said.id, said.mem0_id, said.state FROM fact JOIN fact AS said ON said.mem0_id = fact.message"
        f" WHERE fact.mem0_id = ? AND NOT ({_STANDS})",
        (mem0_id,),
    ).fetchall()
