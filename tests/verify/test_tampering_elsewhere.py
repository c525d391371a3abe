"""Other things that may be changed behind the back of a migration: sessions, facts, the ledger, and Mem0's side."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from spectron_migrate.records import digest
from tests.support.spectron import memory, write_raw
from tests.verify.support import change_ledger, tampering
from tests.verify.tampered import LONG, LONG_BO, STAMPS, Migrated, Tables, execute, first, second, swap, tail

pytestmark = pytest.mark.slow

ROOF = "bees on the roof, says cleo"
BEAGLE = "beagle called Biscuit, says dan"
ZOO = "tram to the zoo"


def add_turn(tables: Tables, words: str, text: str | None = None, *, user: str | None = None) -> None:
    """One more turn in the session of a turn, or in one of another user; its text, or another one."""
    values = {
        "id": "'turn_added'",
        "seq": "(SELECT max(seq) + 1 FROM turn)",
        "content": "coalesce(?1, content)",
        "session": "coalesce((SELECT id FROM sessions WHERE scopes LIKE ?3 ORDER BY turns DESC LIMIT 1), session)",
    }
    names = [row[1] for row in tables.db.execute("PRAGMA table_info(turn)")]
    chosen = ", ".join(values.get(name, name) for name in names)
    tables.db.execute(
        f"INSERT INTO turn SELECT {chosen} FROM turn WHERE id = ?2",
        (text, tables.turn(words), f"%user/{user}/%" if user else None),
    )


def append(tables: Tables, number: int, text: str) -> None:
    tables.write(number, tables.text(number) + text)


def move_session(tables: Tables, words: str, user: str) -> None:
    """The session of a turn, with all that belongs to it, in another user's scope."""
    session = tables.db.execute("SELECT session FROM turn WHERE id = ?", (tables.turn(words),)).fetchone()[0]
    to = tables.selector_of(user)
    tables.db.execute("UPDATE session SET selector = ? WHERE id = ?", (to, session))
    tables.db.execute("UPDATE item SET selector = ? WHERE session = ?", (to, session))


def said(tables: Tables, number: int, user: str, text: str, *, of_turn: bool) -> None:
    """One more passage with this text in the scope of a user: of the same turn, or of none in a session of theirs."""
    tables.copy(number, user)
    tables.db.execute("UPDATE item SET text = ? WHERE id = 'chunk_copied'", (text,))
    if not of_turn:
        session = "SELECT id FROM sessions WHERE scopes LIKE ? ORDER BY turns DESC LIMIT 1"
        tables.db.execute(
            f"UPDATE item SET turn = NULL, session = ({session}) WHERE id = 'chunk_copied'", (f"%user/{user}/%",)
        )


def open_to_all(tables: Tables, number: int) -> None:
    """One passage in the scopes of all users."""
    own = tables.db.execute("SELECT clauses FROM selector WHERE clauses LIKE '[[\"user/%' AND unscoped = 0").fetchall()
    clauses = sorted(clause for (text,) in own for clause in json.loads(text))
    made = tables.db.execute("INSERT INTO selector(clauses, unscoped) VALUES (?, 0)", (json.dumps(clauses),))
    tables.db.execute("UPDATE item SET selector = ? WHERE number = ?", (made.lastrowid, number))


def delete_session(tables: Tables, words: str) -> None:
    session = tables.db.execute("SELECT session FROM turn WHERE id = ?", (tables.turn(words),)).fetchone()[0]
    for statement in (
        "DELETE FROM turn WHERE session = ?",
        "DELETE FROM item WHERE session = ?",
        "DELETE FROM session WHERE id = ?",
    ):
        tables.db.execute(statement, (session,))


def both_texts(tables: Tables, words: str, other: str) -> None:
    append(tables, first(tables, words), ". " + tables.text(first(tables, other)))


def stray(tables: Tables, number: int, user: str, text: str) -> None:
    """A row of its own with this text in the scope of a user, of no turn and no session."""
    tables.copy(number, user)
    tables.db.execute(
        "UPDATE item SET text = ?, turn = NULL, session = NULL, labels = NULL WHERE id = 'chunk_copied'", (text,)
    )


def attribute(tables: Tables, words: str) -> int:
    """What was extracted from a text with these words: the number of its row."""
    found = tables.db.execute(
        "SELECT number FROM item WHERE kind = 'attribute' AND until IS NULL AND text LIKE ? ORDER BY number",
        (f"%{words}%",),
    ).fetchone()
    return int(found[0])


def stray_attribute(tables: Tables, words: str, user: str, text: str | None = None) -> None:
    """An attribute under ids of its own in the scope of a user: where a search finds it, and in the graph."""
    number = attribute(tables, words)
    known = tables.db.execute("SELECT id, text FROM item WHERE number = ?", (number,)).fetchone()
    stray(tables, number, user, text or known[1])
    names = [row[1] for row in tables.db.execute("PRAGMA table_info(attribute)")]
    values = {"id": "'chunk_copied'", "selector": "?1", "turn": "NULL", "session": "NULL", "labels": "NULL"}
    chosen = ", ".join(values.get(name, f'"{name}"') for name in names)
    tables.db.execute(
        f"INSERT INTO attribute SELECT {chosen} FROM attribute WHERE id = ?2", (tables.selector_of(user), known[0])
    )


def stray_relation(tables: Tables, user: str) -> None:
    """A relation under an id of its own in the scope of a user."""
    names = [row[1] for row in tables.db.execute("PRAGMA table_info(relation)")]
    values = {"id": "'rel_copied'", "selector": "?1", "turn": "NULL", "session": "NULL", "labels": "NULL"}
    chosen = ", ".join(values.get(name, f'"{name}"') for name in names)
    made = f"INSERT INTO relation SELECT {chosen} FROM relation WHERE valid_until IS NULL AND selector != ?1 LIMIT 1"
    assert 1 == tables.db.execute(made, (tables.selector_of(user),)).rowcount


AT_THE_SERVER: dict[str, Callable[[Tables], object]] = {
    "a turn that nobody sent is in one of our sessions": lambda t: add_turn(t, STAMPS, "Hates stamps"),
    "a turn of ours is there a second time": lambda t: add_turn(t, STAMPS),
    "a turn of ours is in another user's session as well": lambda t: add_turn(t, STAMPS, user="eve"),
    "a turn has another id": execute("UPDATE turn SET id = 'turn_other' WHERE content LIKE ?", f"%{STAMPS}%"),
    "a turn is empty": execute("UPDATE turn SET content = '' WHERE content LIKE ?", f"%{ROOF}%"),
    "a turn is the system's": execute("UPDATE turn SET role = 'system' WHERE content LIKE ?", f"%{ROOF}%"),
    "a long turn is the assistant's": execute("UPDATE turn SET role = 'assistant' WHERE content LIKE ?", f"%{LONG}%"),
    "a turn has a comma less": execute(
        "UPDATE turn SET content = replace(content, ',', '') WHERE content LIKE ?", f"%{ROOF}%"
    ),
    "the last turn of a session is gone": execute("DELETE FROM turn WHERE content LIKE ?", "%of eve as an optician%"),
    "a replaced text's turn is gone": execute("DELETE FROM turn WHERE content LIKE ?", "%as an astronomer%"),
    "a session with all that is in it is gone": lambda t: delete_session(t, BEAGLE),
    "a session with all that is in it is another user's": lambda t: move_session(t, BEAGLE, "eve"),
    "a short passage was forgotten": lambda t: execute(
        "UPDATE item SET until = known_at WHERE number = ?", str(first(t, ROOF))
    )(t),
    "a short passage is gone": lambda t: t.drop(first(t, ROOF)),
    "a short passage is cut off": lambda t: t.write(first(t, ROOF), "Keeps bees on the"),
    "a short passage says more": lambda t: append(t, first(t, ROOF), ". Not any more."),
    "a short passage lacks its first word": lambda t: t.replace(first(t, ROOF), "Keeps ", ""),
    "a short passage has two words in the other order": lambda t: t.replace(first(t, ROOF), "on the", "the on"),
    "a short passage holds another memory as well": lambda t: both_texts(t, ROOF, STAMPS),
    "a short passage has a letter of another alphabet": lambda t: t.replace(first(t, ROOF), "bees", "bееs"),
    "a short passage ends with a sign that nobody sees": lambda t: append(t, first(t, ROOF), "\u2060"),
    "a short passage names another person": lambda t: t.replace(first(t, ROOF), "cleo", "dan"),
    "two users' short passages have changed places": lambda t: swap(
        t, first(t, ROOF), first(t, "bees on the roof, says dan")
    ),
    "a short passage is everybody's": lambda t: open_to_all(t, first(t, ROOF)),
    "a short passage is nobody's": lambda t: execute(
        "UPDATE item SET selector = (SELECT min(number) + 999 FROM selector) WHERE number = ?", str(first(t, ROOF))
    )(t),
    "a short passage is there twice": lambda t: t.copy(first(t, ROOF), "cleo"),
    "what the assistant said is in another user's scope": lambda t: t.copy(first(t, ZOO), "bo"),
    "a short passage is another user's as well, with a small edit": lambda t: said(
        t, first(t, ROOF), "bo", "Kept bees on the roof, says cleo", of_turn=True
    ),
    "a short passage is another user's as well, with a small edit, and in their session": lambda t: said(
        t, first(t, ROOF), "bo", "Keeps a few bees on the roof, says cleo.", of_turn=False
    ),
    "a short passage is there negated besides": lambda t: said(
        t, first(t, ROOF), "cleo", "Keeps no bees on the roof, says cleo", of_turn=True
    ),
    "a passage of a long memory is there negated besides": lambda t: said(
        t, second(t), "anna", t.text(second(t)).replace(" liked ", " never liked "), of_turn=True
    ),
    "half of a short passage is another user's as well": lambda t: stray(
        t, first(t, ROOF), "bo", "the roof, says cleo"
    ),
    "a short passage is another user's as well, in another order": lambda t: stray(
        t, first(t, ROOF), "bo", "Says cleo: on the roof keeps bees"
    ),
    "half of a passage of a long memory is another user's as well": lambda t: stray(
        t, second(t), "bo", t.text(second(t))[:400]
    ),
    "a short passage is there negated besides, of no turn": lambda t: stray(
        t, first(t, ROOF), "cleo", "Keeps no bees on the roof, says cleo"
    ),
    "a passage is there that nobody said": lambda t: stray(t, first(t, ROOF), "cleo", "Owes money to a casino"),
    "all passages of a long memory are there besides, edited and in one": lambda t: stray(
        t, first(t, LONG), "anna", " ".join(map(t.text, t.passages(LONG))).replace(" liked ", " hated ")
    ),
    "what was extracted is another user's as well, under an id of its own": lambda t: stray_attribute(
        t, "Biscuit", "eve", "dan has a beagle: Biscuit"
    ),
    "what was extracted is another user's as well where a search finds it": lambda t: stray(
        t, attribute(t, "Biscuit"), "eve", "eve pet: a beagle"
    ),
    "what was extracted is another user's as well, edited, of the same turn": lambda t: said(
        t, attribute(t, "Biscuit"), "eve", "dog: Biskit", of_turn=True
    ),
    "a fact is there that nobody said": lambda t: stray_attribute(t, "Biscuit", "dan", "dan debts: a casino"),
    "a relation is another user's as well, under an id of its own": lambda t: stray_relation(t, "eve"),
    "a turn is nobody's": execute("UPDATE turn SET role = '' WHERE content LIKE ?", f"%{ROOF}%"),
    "every turn of a session is nobody's": execute(
        "UPDATE turn SET role = '' WHERE session = (SELECT session FROM turn WHERE content LIKE ?)", f"%{ROOF}%"
    ),
    "one user's passages are another one's as well": lambda t: [
        t.share(number, "eve", "dan") for number in t.passages("bees on the roof, says eve")
    ],
    "a middle passage of a long memory is another user's as well": lambda t: t.copy(second(t, LONG_BO), "anna"),
    "a capital in the last passage of a long memory is small": lambda t: t.replace(tail(t), "On day 99", "on day 99"),
    "a figure in a long memory is of another script": lambda t: t.replace(tail(t), "99", "९९"),
    "a passage of a long memory has a sentence twice": lambda t: append(
        t, second(t), " " + t.text(second(t)).split(". ")[1] + "."
    ),
    "a passage of a long memory lacks a sentence": lambda t: t.write(
        second(t), ". ".join(t.text(second(t)).split(". ")[:3] + t.text(second(t)).split(". ")[4:])
    ),
    "all passages of a long memory but the first are gone": lambda t: [
        t.drop(number) for number in t.passages(LONG)[1:]
    ],
}


@pytest.mark.parametrize("name", AT_THE_SERVER)
def test_what_is_changed_at_the_server_is_no_go(migrated: Migrated, name: str) -> None:
    with tampering(migrated.server) as db:
        AT_THE_SERVER[name](Tables(db))
        db.execute("INSERT INTO item_text(item_text) VALUES ('rebuild')")
    summary = migrated.verify()
    assert "GO" != summary.verdict


def in_ledger(*statements: str) -> Callable[[Migrated], None]:
    def change(migrated: Migrated) -> None:
        change_ledger(migrated.state, *statements)

    return change


def in_mem0(edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Callable[[Migrated], None]:
    def change(migrated: Migrated) -> None:
        rows = json.loads(migrated.dump.read_text())["results"]
        write_raw(migrated.dump, edit(rows))

    return change


def edited(**more: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [{**row, **more} if row["id"] == "cleo-0009" else row for row in rows]


def with_texts_exchanged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    texts = {row["id"]: row["memory"] for row in rows}
    exchanged = {"cleo-0008": texts["cleo-0009"], "cleo-0009": texts["cleo-0008"]}
    return [{**row, "memory": exchanged.get(row["id"], row["memory"])} for row in rows]


_OF_CLEO = "(SELECT id FROM version WHERE mem0_id = 'cleo-0009')"
_OF_BO = "(SELECT id FROM version WHERE mem0_id = 'bo-0005')"
ELSEWHERE: dict[str, Callable[[Migrated], None]] = {
    "two receipts of one session are exchanged": in_ledger(
        "UPDATE receipt SET turn_id = 'kept' WHERE fact = (SELECT id FROM version WHERE mem0_id = 'cleo-0008')",
        f"UPDATE receipt SET turn_id = (SELECT turn_id || '' FROM receipt WHERE fact = {_OF_CLEO}) || '' WHERE fact ="
        f" {_OF_BO}",
    ),
    "a receipt names a turn that does not exist": in_ledger(
        f"UPDATE receipt SET turn_id = 'turn_none' WHERE fact = {_OF_CLEO}"
    ),
    "the ledger has another text, and its digest": in_ledger(
        f"UPDATE version SET text = 'Collects coins', digest = '{digest('Collects coins')}' WHERE mem0_id = 'cleo-0009'"
    ),
    "the ledger has another text under the digest of the right one": in_ledger(
        "UPDATE version SET text = 'Collects coins' WHERE mem0_id = 'cleo-0009'"
    ),
    "the ledger says that a memory was left out": in_ledger(
        f"UPDATE fact SET state = 'skipped', reason = 'replaced by version 2' WHERE id = {_OF_CLEO}"
    ),
    "the ledger says that a memory is not sent yet": in_ledger(
        f"UPDATE fact SET state = 'planned' WHERE id = {_OF_CLEO}"
    ),
    "the ledger says that Mem0 deleted a memory": in_ledger(
        "UPDATE memory SET tombstoned_at = '2020-01-01T00:00:00.000000Z' WHERE mem0_id = 'cleo-0009'"
    ),
    "the ledger lost a receipt": in_ledger(f"DELETE FROM receipt WHERE fact = {_OF_CLEO}"),
    "the ledger lost a memory": in_ledger(
        f"DELETE FROM receipt WHERE fact = {_OF_CLEO}",
        f"DELETE FROM fact WHERE id = {_OF_CLEO}",
        "DELETE FROM version WHERE mem0_id = 'cleo-0009'",
        "DELETE FROM memory WHERE mem0_id = 'cleo-0009'",
    ),
    "a memory is another user's in Mem0": in_mem0(edited(user_id="dan")),
    "a memory has another text in Mem0": in_mem0(edited(memory="Collects coins")),
    "a memory has one letter less in Mem0": in_mem0(edited(memory="Collects Bolivian stamps, says cle")),
    "a memory came to Mem0 after the replay": in_mem0(lambda rows: [*rows, memory(300, "cleo", "Has a canoe")]),
    "two memories have each other's texts in Mem0": in_mem0(with_texts_exchanged),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_changed_in_the_ledger_or_in_mem0_is_no_go(migrated: Migrated, name: str) -> None:
    ELSEWHERE[name](migrated)
    summary = migrated.verify()
    assert "GO" != summary.verdict
