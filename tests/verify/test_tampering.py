"""Whatever is changed behind the back of a migration, at the server or in Mem0, the verdict is not GO."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.verify.dual_verify import VerifySummary
from tests.support.here import server_here
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import named_findings, tampering, verify

pytestmark = pytest.mark.slow

USERS = ("anna", "bo", "cleo", "dan", "eve", "finn")
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
    """Memories of six users: short ones, a long one, and one that the assistant said."""
    texts = [
        *((user, text) for user in USERS for text in SHORT),
        *((user, EDITED.replace("observatory", f"observatory of {user}")) for user in USERS),
    ]
    held = [memory(number, user, f"{text}, says {user}") for number, (user, text) in enumerate(texts)]
    held += [memory(100 + number, user, long_text(user)) for number, user in enumerate(USERS)]
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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migration that was made once; every test works on a copy."""
    folder = tmp_path_factory.mktemp("template")
    with server_here(folder / "spectron", context="tampered") as server:
        before = [
            {**row, "memory": row["memory"].replace("optician", "astronomer")} if "of anna" in row["memory"] else row
            for row in rows()
        ]
        replay(server, folder / "state", [write_raw(folder / "before.json", before)])
        now = [
            {**row, "updated_at": "2025-02-01T00:00:00+00:00"} if "of anna as an optician" in row["memory"] else row
            for row in rows()
        ]
        assert ExitCode.DONE == replay(server, folder / "state", [write_raw(folder / "all.json", now)]).exit_code
    return folder


@pytest.fixture
def migrated(template: Path, tmp_path: Path) -> Iterator[Migrated]:
    folder = tmp_path / "copy"
    shutil.copytree(template, folder)
    with server_here(folder / "spectron", context="tampered") as server:
        yield Migrated(server, folder)


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


AT_THE_SERVER: dict[str, tuple[Callable[[Tables], None], str, str]] = {
    # name -> what is changed, the finding and the memory that it names
    "the second passage of a long memory is gone": (lambda t: t.drop(second(t)), "missing", "anna-0100"),
    "the last passage of a long memory is gone": (lambda t: t.drop(tail(t)), "missing", "anna-0100"),
    "the first passage of a long memory is gone": (lambda t: t.drop(first(t)), "missing", "anna-0100"),
    "a sentence of the second passage is negated": (
        lambda t: t.replace(second(t), " liked ", " never liked "),
        "altered",
        "anna-0100",
    ),
    "a number in the last passage is another": (lambda t: t.replace(tail(t), "99", "98"), "altered", "anna-0100"),
    "the last passage ends too early": (lambda t: t.write(tail(t), t.text(tail(t))[:-60]), "missing", "anna-0100"),
    "the last passage goes on too long": (
        lambda t: t.write(tail(t), t.text(tail(t)) + " None of this is true."),
        "altered",
        "anna-0100",
    ),
    "the last passage is empty": (lambda t: t.write(tail(t), ""), "missing", "anna-0100"),
    "a letter of the last passage is of another alphabet": (
        lambda t: t.replace(tail(t), "liked", "likеd"),
        "altered",
        "anna-0100",
    ),
    "two sentences of a passage have changed places": (lambda t: swap_sentences(t, second(t)), "altered", "anna-0100"),
    "the last passage is masked": (lambda t: t.replace(tail(t), "anna", "[NAME]"), "altered", "anna-0100"),
    "the last passage was forgotten": (
        lambda t: execute("UPDATE item SET until = known_at WHERE number = ?", str(tail(t)))(t),
        "missing",
        "anna-0100",
    ),
    "the first two passages have changed places": (lambda t: swap(t, first(t), second(t)), "altered", "anna-0100"),
    "two users' second passages have changed places": (
        lambda t: swap(t, second(t), second(t, LONG_BO)),
        "altered",
        "bo-0101",
    ),
    "the last passage is another user's": (
        lambda t: execute(f"UPDATE item SET selector = {t.selector_of('bo')} WHERE number = ?", str(tail(t)))(t),
        "missing",
        "anna-0100",
    ),
    "the last passage is another user's as well": (lambda t: t.copy(tail(t), "dan"), "leak", "anna-0100"),
    "the second passage is stored twice": (lambda t: t.copy(second(t), "anna"), "doubled", "anna-0100"),
    "the first passage begins otherwise": (lambda t: t.replace(first(t), "day 0", "day 7"), "altered", "anna-0100"),
    "a short passage is negated": (
        lambda t: t.replace(first(t, STAMPS), "Collects", "No longer collects"),
        "altered",
        "cleo-0009",
    ),
    "a short passage is in capitals": (
        lambda t: t.write(first(t, STAMPS), t.text(first(t, STAMPS)).upper()),
        "altered",
        "cleo-0009",
    ),
    "a short passage holds a letter that nobody sees": (
        lambda t: t.replace(first(t, STAMPS), "stamps", "sta\u200bmps"),
        "altered",
        "cleo-0009",
    ),
    "a short passage holds another memory's text": (
        lambda t: t.write(first(t, STAMPS), t.text(first(t, "bees on the roof, says cleo"))),
        "altered",
        "cleo-0009",
    ),
    "one memory of one user is one other user's as well": (
        lambda t: t.share(first(t, STAMPS), "cleo", "finn"),
        "leak",
        "cleo-0009",
    ),
    "one memory of one user has a copy with one other user": (
        lambda t: t.copy(first(t, STAMPS), "eve"),
        "leak",
        "cleo-0009",
    ),
    "a replaced text is another user's as well": (
        lambda t: t.share(first(t, "of anna as an astronomer"), "anna", "bo"),
        "leak",
        "anna-0024",
    ),
    "an extracted fact is another user's as well": (lambda t: share_attribute(t, "dan", "eve"), "leak", "dan-0015"),
    "two turns of one session hold each other's text": (
        lambda t: swap_contents(t, STAMPS, "bees on the roof, says cleo"),
        "altered",
        "cleo-0009",
    ),
    "a turn is the assistant's": (
        execute("UPDATE turn SET role = 'assistant' WHERE content LIKE ?", f"%{STAMPS}%"),
        "altered",
        "cleo-0009",
    ),
    "a turn of the assistant is the user's": (
        execute("UPDATE turn SET role = 'user' WHERE role = ?", "assistant"),
        "altered",
        "anna-0200",
    ),
    "a turn lies in another user's session": (lambda t: move_turn(t, STAMPS, "dan"), "missing", "cleo-0009"),
    "a long turn lacks its last sentence": (
        execute("UPDATE turn SET content = substr(content, 1, length(content) - 50) WHERE content LIKE ?", f"%{LONG}%"),
        "altered",
        "anna-0100",
    ),
    "two turns of one session have changed places": (
        lambda t: swap_places(t, STAMPS, "alto in a choir, says cleo"),
        "order",
        "cleo-0009",
    ),
    "all turns of one user are gone": (
        execute("DELETE FROM turn WHERE session IN (SELECT id FROM sessions WHERE scopes LIKE ?)", "%user/eve/%"),
        "missing",
        "eve-0016",
    ),
    "all passages of one user are gone, and the turns are there": (
        lambda t: execute(f"DELETE FROM item WHERE selector = {t.selector_of('eve')}")(t),
        "misplaced",
        "eve-0016",
    ),
}


def test_an_untouched_migration_is_a_go(migrated: Migrated) -> None:
    summary = migrated.verify()
    assert {("stale", "anna-0024")} == named_findings(summary)
    assert "GO" == summary.verdict


@pytest.mark.parametrize("name", AT_THE_SERVER)
def test_tampering_at_the_server_is_named(migrated: Migrated, name: str) -> None:
    change, kind, mem0_id = AT_THE_SERVER[name]
    with tampering(migrated.server) as db:
        change(Tables(db))
        db.execute("INSERT INTO item_text(item_text) VALUES ('rebuild')")
    summary = migrated.verify()
    assert (kind, mem0_id) in named_findings(summary)
    assert "NO_GO" == summary.verdict


def test_a_long_memory_written_again_through_another_session_is_doubled(migrated: Migrated) -> None:
    async def write_again() -> None:
        server = migrated.server
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key) as api:
            session = await api.create_session((("user/bo",),))
            body = {"infer": "none", "session_id": session.id, "text": long_text("bo")}
            assert 200 == (await api.post_fact(json.dumps(body).encode(), key="somebody-else")).status

    asyncio.run(write_again())
    summary = migrated.verify()
    assert ("doubled", "bo-0101") in named_findings(summary)
    assert "NO_GO" == summary.verdict


@pytest.mark.parametrize("at", [None, "2020-01-01T00:00:00+00:00", "2025-01-01T09:00:00+00:00"])
def test_an_edit_in_mem0_that_replay_did_not_take_for_newer_is_pending(migrated: Migrated, at: str | None) -> None:
    edited = [
        {**row, "memory": "Collects no stamps any more", "created_at": at, "updated_at": at}
        if row["id"] == "cleo-0009"
        else row
        for row in json.loads(migrated.dump.read_text())["results"]
    ]
    write_raw(migrated.dump, edited)
    replay(migrated.server, migrated.state, [migrated.dump])
    summary = migrated.verify()
    assert ("pending", "cleo-0009") in named_findings(summary)
    assert "INCONCLUSIVE" == summary.verdict
