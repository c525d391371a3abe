"""A migration of five users that a test may tamper with, and ways to find things in the server's tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.verify.dual_verify import VerifySummary
from tests.support.spectron import memory
from tests.verify.support import verify

USERS = ("anna", "bo", "cleo", "dan", "eve")
TALKATIVE = ("anna", "bo")
"""Those with a long memory: each of its passages is asked for with every user's lens."""
PLACES = ("harbour", "attic", "orchard", "museum", "ferry", "bakery", "lighthouse", "stadium", "chapel", "quarry")
THINGS = ("lantern", "violin", "compass", "kettle", "ladder", "saddle", "telescope", "anvil", "teapot", "globe")
SHORT = ("Keeps bees on the roof", "Collects Bolivian stamps", "Sings alto in a choir", "Has a beagle called Biscuit")
EDITED = "Works at the observatory as an optician"


def long_text(user: str) -> str:
    """Some 6,000 letters, of which no sentence is like another."""
    return " ".join(
        f"On day {number} {user} liked the {thing} at the {place} of {user}ville{number}."
        for number in range(100)
        for place, thing in [(PLACES[number % 10], THINGS[number // 10])]
    )


def rows() -> list[dict[str, Any]]:
    """Memories of five users: short ones, two long ones, and one that the assistant said."""
    texts = [
        *((user, text) for user in USERS for text in SHORT),
        *((user, EDITED.replace("observatory", f"observatory of {user}")) for user in USERS),
    ]
    held = [memory(number, user, f"{text}, says {user}") for number, (user, text) in enumerate(texts)]
    held += [memory(100 + number, user, long_text(user)) for number, user in enumerate(TALKATIVE)]
    return [*held, memory(200, "anna", "The tram to the zoo leaves at nine", role="assistant")]


@dataclass(frozen=True)
class Migrated:
    """A server, the ledger and the dump of one migration."""

    server: RunningServer
    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def dump(self) -> Path:
        return self.folder / "all.json"

    def verify(self) -> VerifySummary:
        return verify(self.server, self.state, [self.dump])


class Tables:
    """The server's tables, by what the memories are called in a test."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def passages(self, words: str) -> list[int]:
        """Numbers of the passages of the turn with these words, in the order of its text."""
        turn = self.turn(words)
        return [row[0] for row in self.db.execute("SELECT number FROM item WHERE turn = ? ORDER BY number", (turn,))]

    def turn(self, words: str) -> str:
        found = self.db.execute("SELECT id FROM turn WHERE content LIKE ?", (f"%{words}%",)).fetchall()
        assert 1 == len(found), (words, found)
        return str(found[0][0])

    def text(self, number: int) -> str:
        return str(self.db.execute("SELECT text FROM item WHERE number = ?", (number,)).fetchone()[0])

    def write(self, number: int, text: str) -> None:
        assert text != self.text(number)
        self.db.execute("UPDATE item SET text = ? WHERE number = ?", (text, number))

    def replace(self, number: int, old: str, new: str) -> None:
        self.write(number, self.text(number).replace(old, new, 1))

    def drop(self, number: int) -> None:
        self.db.execute("DELETE FROM item WHERE number = ?", (number,))

    def selector_of(self, user: str) -> int:
        query = "SELECT number FROM selector WHERE clauses LIKE ?"
        return int(self.db.execute(query, (f"%user/{user}/%",)).fetchone()[0])

    def copy(self, number: int, user: str) -> None:
        """The same passage once more, under another id, in the scope of a user."""
        names = [row[1] for row in self.db.execute("PRAGMA table_info(item)")]
        values = ", ".join(
            {"number": "NULL", "id": "'chunk_copied'", "selector": "?1"}.get(name, f'"{name}"') for name in names
        )
        self.db.execute(
            f"INSERT INTO item SELECT {values} FROM item WHERE number = ?2", (self.selector_of(user), number)
        )

    def share(self, number: int, user: str, other: str) -> None:
        """The passage, under its id, in the scopes of both users."""
        self.db.execute(
            "INSERT INTO selector(clauses, unscoped)"
            " SELECT json_array(json_extract(a.clauses, '$[0]'), json_extract(b.clauses, '$[0]')), 0"
            " FROM selector AS a, selector AS b WHERE a.number = ? AND b.number = ?",
            (self.selector_of(user), self.selector_of(other)),
        )
        self.db.execute("UPDATE item SET selector = (SELECT max(number) FROM selector) WHERE number = ?", (number,))


LONG = "day 1 anna liked"
LONG_BO = "day 1 bo liked"
STAMPS = "Bolivian stamps, says cleo"


def tail(tables: Tables, words: str = LONG) -> int:
    return tables.passages(words)[-1]


def second(tables: Tables, words: str = LONG) -> int:
    return tables.passages(words)[1]


def first(tables: Tables, words: str = LONG) -> int:
    return tables.passages(words)[0]


def swap(tables: Tables, one: int, other: int) -> None:
    texts = tables.text(one), tables.text(other)
    tables.write(one, texts[1])
    tables.write(other, texts[0])


def swap_sentences(tables: Tables, number: int) -> None:
    sentences = tables.text(number).split(". ")
    sentences[1], sentences[4] = sentences[4], sentences[1]
    tables.write(number, ". ".join(sentences))


def swap_contents(tables: Tables, one: str, other: str) -> None:
    turns = tables.turn(one), tables.turn(other)
    contents = [tables.db.execute("SELECT content FROM turn WHERE id = ?", (turn,)).fetchone()[0] for turn in turns]
    for turn, content in zip(turns, reversed(contents), strict=True):
        tables.db.execute("UPDATE turn SET content = ? WHERE id = ?", (content, turn))


def swap_places(tables: Tables, one: str, other: str) -> None:
    turns = tables.turn(one), tables.turn(other)
    numbers = [tables.db.execute("SELECT seq FROM turn WHERE id = ?", (turn,)).fetchone()[0] for turn in turns]
    tables.db.execute("UPDATE turn SET seq = 9000 WHERE id = ?", (turns[0],))
    tables.db.execute("UPDATE turn SET seq = ? WHERE id = ?", (numbers[0], turns[1]))
    tables.db.execute("UPDATE turn SET seq = ? WHERE id = ?", (numbers[1], turns[0]))


def move_turn(tables: Tables, words: str, user: str) -> None:
    tables.db.execute(
        "UPDATE turn SET seq = 9000, session ="
        " (SELECT id FROM sessions WHERE scopes LIKE ? ORDER BY turns DESC LIMIT 1) WHERE id = ?",
        (f"%user/{user}/%", tables.turn(words)),
    )


def share_attribute(tables: Tables, user: str, other: str) -> None:
    """What was extracted from a memory, for another user as well."""
    found = tables.db.execute(
        "SELECT number FROM item WHERE kind = 'attribute' AND until IS NULL AND selector = ? AND text LIKE '%Biscuit%'",
        (tables.selector_of(user),),
    ).fetchone()
    tables.share(found[0], user, other)


def execute(statement: str, *values: str) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        assert tables.db.execute(statement, values).rowcount > 0

    return change
