"""What changed in a table of MariaDB: all of it is found, or it is said that everything has to be read."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from spectron_migrate.mem0.open import open_oss
from spectron_migrate.mem0.reader import ChangesReader
from spectron_migrate.mem0.stores import mysql, mysql_changes
from spectron_migrate.records import Memory
from tests.mem0.qdrant_points import uuid
from tests.mem0.stores.kinds import COLLECTION, MariaDb, mariadb
from tests.support.changes import Texts, changed_at, texts_after

pytestmark = pytest.mark.slow
NOW = datetime(2026, 5, 4, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    with mariadb(tmp_path_factory.mktemp("server")) as running:
        assert isinstance(running, MariaDb)
        yield running


@pytest.fixture
def table(server: MariaDb) -> MariaDb:
    server.reset()
    return server


def put(table: MariaDb, texts: dict[str, str]) -> None:
    table.put({mem0_id: {"data": text, "user_id": "alice"} for mem0_id, text in texts.items()})


def fill(table: MariaDb, count: int) -> None:
    put(table, {uuid(number): f"thing {number}" for number in range(count)})


def read(table: MariaDb) -> tuple[Texts, ChangesReader | None]:
    with open_oss(table.config(), now=NOW) as reader:
        texts = {row.id: row.memory for row in reader.rows() if isinstance(row, Memory)}
        assert 0 == reader.missing()
        return texts, reader.changes()


def followed(table: MariaDb) -> tuple[Texts, ChangesReader]:
    texts, changes = read(table)
    assert changes is not None
    return texts, changes


def test_what_is_new_written_again_or_gone_is_found_and_little_else_is_read(table: MariaDb) -> None:
    fill(table, 2000)
    texts, changes = followed(table)
    with closing(changes):
        nothing = changed_at(changes, NOW)
        put(table, {uuid(3): "changed", uuid(5000): "new"})
        table.delete([uuid(7)])
        found = changed_at(changes, NOW)
        assert ([], [], 2000) == (nothing.memories, nothing.gone, nothing.native_count)
        assert ([uuid(7)], 2000) == (found.gone, found.native_count)
        assert texts_after(texts, found) == read(table)[0]
        assert 3 * 100 > len(found.memories)
        assert [] == changed_at(changes, NOW).memories


@pytest.mark.parametrize("other", ["Note 5", "é\n", "0", "x" * 250])
def test_ids_that_are_no_uuids_are_followed_as_well(table: MariaDb, other: str) -> None:
    fill(table, 5)
    put(table, {other: "of another kind"})
    texts, changes = followed(table)
    with closing(changes):
        table.delete([other, uuid(2)])
        found = changed_at(changes, NOW)
        assert {other, uuid(2)} == set(found.gone)
        put(table, {other: "again"})
        found_again = changed_at(changes, NOW)
    assert texts_after(texts_after(texts, found), found_again) == read(table)[0]


def test_an_id_of_another_kind_that_comes_later_is_followed(table: MariaDb) -> None:
    fill(table, 200)
    texts, changes = followed(table)
    with closing(changes):
        put(table, {"a name": "of another kind"})
        texts = texts_after(texts, changed_at(changes, NOW))
        table.delete(["a name", uuid(7)])
        assert texts_after(texts, changed_at(changes, NOW)) == read(table)[0]


def test_what_is_written_while_all_is_read_is_found_by_the_next_round(table: MariaDb) -> None:
    fill(table, 2500)
    with open_oss(table.config(), now=NOW) as reader:
        rows = reader.rows()
        texts = {}
        for number, row in enumerate(rows):
            assert isinstance(row, Memory)
            texts[row.id] = row.memory
            if number == 1200:
                put(table, {uuid(3): "behind the reading", uuid(2400): "before it", uuid(2600): "new"})
                table.delete([uuid(9), uuid(2300)])
        changes = reader.changes()
    assert changes is not None
    with closing(changes):
        assert texts_after(texts, changed_at(changes, NOW)) == read(table)[0]


def test_a_server_whose_transactions_take_no_snapshot_by_default_is_followed_as_well(table: MariaDb) -> None:
    fill(table, 2500)
    table._do("SET GLOBAL TRANSACTION ISOLATION LEVEL READ COMMITTED")
    try:
        with open_oss(table.config(), now=NOW) as reader:
            texts = {}
            for number, row in enumerate(reader.rows()):
                assert isinstance(row, Memory)
                texts[row.id] = row.memory
                if number == 1200:
                    put(table, {uuid(3): "behind the reading"})
            changes = reader.changes()
        assert changes is not None
        with closing(changes):
            assert texts_after(texts, changed_at(changes, NOW)) == read(table)[0]
    finally:
        table._do("SET GLOBAL TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def test_two_rows_that_exchange_their_payloads_are_found(table: MariaDb) -> None:
    fill(table, 50)
    texts, changes = followed(table)
    with closing(changes):
        put(table, {uuid(3): "thing 4", uuid(4): "thing 3"})
        assert texts_after(texts, changed_at(changes, NOW)) == read(table)[0]


@pytest.mark.parametrize("seed", range(4))
def test_plays_of_applications_whose_transactions_overlap_are_followed_exactly(table: MariaDb, seed: int) -> None:
    dice = random.Random(seed)
    fill(table, dice.choice([0, 30, 300]))
    texts, changes = followed(table)
    applications = [table.connect() for _ in range(3)]
    owners: dict[int, Any] = {}
    with closing(changes):
        for _ in range(25):
            for _ in range(dice.randrange(8)):
                act(dice, applications, owners)
            texts = texts_after(texts, changed_at(changes, NOW))
            assert read(table)[0] == texts
    for each in applications:
        each.close()


def act(dice: random.Random, applications: list[Any], owners: dict[int, Any]) -> None:
    """A statement of one of the applications, on a row that no other one has locked; or the end of its transaction."""
    db = dice.choice(applications)
    if dice.random() < 0.3:
        db.commit() if dice.random() < 0.7 else db.rollback()
        for number in [number for number, owner in owners.items() if owner is db]:
            del owners[number]
        return
    number = dice.randrange(40)
    if owners.setdefault(number, db) is not db:
        return
    with db.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")  # locks no gap beside a row
        if dice.random() < 0.3:
            cursor.execute(f"DELETE FROM {COLLECTION} WHERE id = %s", (uuid(number),))
        else:
            payload = json.dumps({"data": f"said {dice.random()}", "user_id": "alice"})
            cursor.execute(f"REPLACE INTO {COLLECTION} VALUES (%s, '[1,2]', %s)", (uuid(number), payload))


def test_a_row_that_is_no_memory_means_reading_everything(table: MariaDb) -> None:
    fill(table, 5)
    _, changes = followed(table)
    with closing(changes):
        table.put({uuid(3): {"nothing": "of Mem0's"}})
        assert changes.changed(now=NOW) is None


def test_a_lost_connection_means_reading_everything(table: MariaDb) -> None:
    fill(table, 5)
    _, changes = followed(table)
    with closing(changes):
        for number, user, *_ in table._do("SHOW PROCESSLIST"):
            if user == "reader":
                table._do(f"KILL {number}")
        assert changes.changed(now=NOW) is None


def test_too_much_that_changed_means_reading_everything(table: MariaDb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mysql_changes, "MOST_CHANGED", 10)
    fill(table, 20)
    _, changes = followed(table)
    with closing(changes):
        put(table, {uuid(number): "changed" for number in range(20)})
        assert changes.changed(now=NOW) is None


@pytest.mark.parametrize("sums", ["SELECT 0, 5, NULL, NULL", "SELECT 0, 4, 1, 1", "SELECT no_such_function(1)"])
def test_a_server_that_computes_no_digests_is_read_whole(
    table: MariaDb, monkeypatch: pytest.MonkeyPatch, sums: str
) -> None:
    monkeypatch.setattr(mysql, "sums", lambda name, spans: sums)
    fill(table, 5)
    texts, changes = read(table)
    assert (5, None) == (len(texts), changes)
