"""What changed in an embedded Qdrant: all of it is found, or it is said that everything has to be read."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spectron_migrate.mem0.reader import ChangesReader
from spectron_migrate.mem0.stores.qdrant_changes import NEWEST
from spectron_migrate.mem0.stores.qdrant_folder import QdrantFolder
from spectron_migrate.records import Memory, SourceInfo
from tests.mem0.conftest import DATA
from tests.mem0.qdrant_points import key_of, point, uuid, write_store
from tests.support.changes import Texts, changed_at, texts_after

pytestmark = pytest.mark.slow
NOW = datetime(2026, 5, 4, tzinfo=UTC)
INFO = SourceInfo("oss", "qdrant:/store:mem0", "qdrant")
REPLACE = "INSERT OR REPLACE INTO points VALUES (?, ?)"


class Store:
    """An embedded Qdrant, changed by the statements of its client."""

    def __init__(self, folder: Path, count: int = 0) -> None:
        self.folder = folder
        write_store(folder, [(key_of(uuid(n)), point(uuid(n), data=f"thing {n}")) for n in range(count)])

    @property
    def file(self) -> Path:
        return self.folder / "store/collection/mem0/storage.sqlite"

    def run(self, *statements: tuple[str, *tuple[object, ...]]) -> None:
        with closing(sqlite3.connect(self.file)) as db, db:
            for statement, *values in statements:
                db.execute(statement, values)

    def put(self, number: int, text: str, protocol: int = 4) -> None:
        self.run((REPLACE, key_of(uuid(number), protocol), point(uuid(number), data=text)))

    def drop(self, number: int) -> None:
        self.run(("DELETE FROM points WHERE id = ?", key_of(uuid(number))))

    def read(self) -> tuple[Texts, ChangesReader | None]:
        with QdrantFolder(self.folder / "store", "mem0", INFO, now=NOW) as reader:
            texts = {row.id: row.memory for row in reader.rows() if isinstance(row, Memory)}
            return texts, reader.changes()


def follow(store: Store) -> tuple[Texts, ChangesReader]:
    texts, changes = store.read()
    assert changes is not None
    return texts, changes


def test_what_is_new_written_again_or_gone_is_found_and_nothing_else_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path, 300)
    _, changes = follow(store)
    assert ([], []) == (changed_at(changes, NOW).memories, changed_at(changes, NOW).gone)
    store.put(3, "changed")
    store.put(500, "new")
    store.drop(7)
    found = changed_at(changes, NOW)
    assert {uuid(3): "changed", uuid(500): "new"} == {row.id: row.memory for row in found.memories}
    assert ([uuid(7)], 300) == (found.gone, found.native_count)
    assert ([], []) == (changed_at(changes, NOW).memories, changed_at(changes, NOW).gone)


@pytest.mark.parametrize("version", ["0.1.118", "1.0.11", "2.2.1"])
def test_what_the_client_writes_into_stores_of_old_versions_gets_a_new_rowid(tmp_path: Path, version: str) -> None:
    shutil.copytree(DATA / f"{version}-qdrant/store", tmp_path / "store")
    file = tmp_path / "store/collection/mem0/storage.sqlite"
    before = _rowids(file)
    script = (
        "import sys; from qdrant_client import QdrantClient, models;"
        "c = QdrantClient(path=sys.argv[1]);"
        "p = c.scroll('mem0', limit=1000, with_payload=True, with_vectors=True)[0][0];"
        "c.upsert('mem0', [models.PointStruct(id=p.id, vector=p.vector, payload={**p.payload, 'data': 'again'})]);"
        "c.set_payload('mem0', {'more': 1}, points=[p.id]); print(p.id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "store"], capture_output=True, text=True, check=True
    )
    key = key_of(done.stdout.strip())
    now = _rowids(file)
    assert now[key] > max(before.values())
    assert before.keys() == now.keys()


def _rowids(file: Path) -> dict[str, int]:
    with closing(sqlite3.connect(file)) as db:
        return dict(db.execute("SELECT id, rowid FROM points"))


def test_rowids_that_are_given_again_hide_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, 100)
    texts, changes = follow(store)
    for number in (97, 98, 99):
        store.drop(number)
    for number in (200, 98, 201):
        store.put(number, f"again {number}")
    assert 100 == max(_rowids(store.file).values())
    found = changed_at(changes, NOW)
    assert store.read()[0] == texts_after(texts, found)


def test_more_rowids_that_are_given_again_than_are_compared_mean_reading_everything(tmp_path: Path) -> None:
    store = Store(tmp_path, 200)
    _, changes = follow(store)
    numbers = range(200 - NEWEST, 200)
    store.run(*[("DELETE FROM points WHERE id = ?", key_of(uuid(number))) for number in numbers])
    store.run(*[(REPLACE, key_of(uuid(number)), point(uuid(number), data="other")) for number in numbers])
    assert changes.changed(now=NOW) is None


def test_points_that_are_put_back_as_they_were_do_not_hide_one_that_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path, 100)
    _, changes = follow(store)
    store.drop(98)
    store.drop(99)
    store.put(98, "other")
    store.put(99, "thing 99")
    assert changes.changed(now=NOW) is None


def test_a_key_of_another_pickle_means_reading_everything(tmp_path: Path) -> None:
    store = Store(tmp_path, 5)
    _, changes = follow(store)
    store.put(3, "by another Python", protocol=5)
    assert changes.changed(now=NOW) is None


def test_a_row_that_is_no_memory_means_reading_everything(tmp_path: Path) -> None:
    store = Store(tmp_path, 5)
    _, changes = follow(store)
    store.run((REPLACE, key_of(uuid(9)), b"no pickle"))
    assert changes.changed(now=NOW) is None


def test_a_store_with_two_rows_of_a_point_or_other_ids_is_always_read_in_full(tmp_path: Path) -> None:
    store = Store(tmp_path, 5)
    store.put(3, "by another Python", protocol=5)
    assert store.read()[1] is None
    numbered = Store(tmp_path / "numbered", 2)
    numbered.run((REPLACE, key_of(17), point(17, data="an id that is a number")))
    assert numbered.read()[1] is None


def _vacuum(store: Store) -> None:
    store.drop(0)
    with closing(sqlite3.connect(store.file)) as db:
        db.execute("VACUUM")


def _write_ahead(store: Store) -> None:
    with closing(sqlite3.connect(store.file)) as db:
        db.execute("PRAGMA journal_mode = wal").fetchall()
    store.put(1, "changed in the log")


def _create_again(store: Store) -> None:
    os.link(store.file, store.folder / "kept")  # or the new file may get the inode of the old one
    shutil.rmtree(store.file.parent)
    shutil.rmtree(store.folder / "store")
    Store(store.folder, 3)


def _restore(store: Store, *, in_place: bool) -> None:
    backup = store.folder / "backup"
    shutil.copyfile(store.file, backup)
    store.put(1, "after the backup")
    store.drop(2)
    if in_place:
        store.file.write_bytes(backup.read_bytes())
    else:
        os.replace(backup, store.file)


@pytest.mark.parametrize(
    "event",
    [
        _vacuum,
        _write_ahead,
        _create_again,
        lambda store: _restore(store, in_place=False),
        lambda store: store.run(("DROP TABLE points",), ("CREATE TABLE points (id TEXT PRIMARY KEY, point BLOB)",)),
        lambda store: store.file.unlink(),
    ],
    ids=["vacuum", "wal", "created again", "restored", "table created again", "gone"],
)
def test_a_file_that_is_not_what_it_was_means_reading_everything(tmp_path: Path, event: object) -> None:
    store = Store(tmp_path, 20)
    _, changes = follow(store)
    assert callable(event)
    event(store)
    assert changes.changed(now=NOW) is None


def test_an_alias_that_is_given_to_another_collection_means_reading_everything(tmp_path: Path) -> None:
    store = Store(tmp_path, 5)
    shutil.copytree(store.file.parent, store.file.parent.with_name("other"))
    meta = tmp_path / "store/meta.json"
    meta.write_text('{"collections": {}, "aliases": {"named": "mem0"}}')
    with QdrantFolder(tmp_path / "store", "named", INFO, now=NOW) as reader:
        assert 5 == len(list(reader.rows()))
        changes = reader.changes()
    assert changes is not None
    assert [] == changed_at(changes, NOW).memories
    meta.write_text('{"collections": {}, "aliases": {"named": "other"}}')
    assert changes.changed(now=NOW) is None


def test_a_backup_that_is_copied_over_the_file_hides_nothing(tmp_path: Path) -> None:
    """The backup is older than what was followed, and more is written to it than was written to the file."""
    store = Store(tmp_path, 20)
    backup = store.file.read_bytes()
    store.put(1, "after the backup")
    store.drop(2)
    texts, changes = follow(store)
    store.file.write_bytes(backup)
    for number in range(30, 35):
        store.put(number, "after the restore")
    found = changes.changed(now=NOW)
    assert found is None or store.read()[0] == texts_after(texts, found)


def test_a_writer_that_is_killed_leaves_nothing_that_is_missed(tmp_path: Path) -> None:
    store = Store(tmp_path, 400)
    texts, changes = follow(store)
    script = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "db.execute('PRAGMA cache_size = 5'); db.execute('BEGIN');"
        "db.execute(\"UPDATE points SET point = x'00'\"); db.execute('DELETE FROM points WHERE rowid % 2');"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, store.file], check=False)
    found = changed_at(changes, NOW)
    assert texts == texts_after(texts, found)
    store.put(3, "changed")
    assert {**texts, uuid(3): "changed"} == texts_after(texts, changed_at(changes, NOW))


@pytest.mark.parametrize("seed", range(12))
def test_plays_of_an_application_are_followed_exactly(tmp_path: Path, seed: int) -> None:
    """Whatever is written, what was known with what changed is what a reading of everything sees."""
    dice = random.Random(seed)
    store = Store(tmp_path, dice.choice((0, 1, 30, 300)))
    texts, changes = follow(store)
    told = 0
    for _ in range(25):
        for _ in range(dice.choice((0, 1, 3, 40))):
            _act(store, dice)
        found = changes.changed(now=NOW)
        now, fresh = store.read()
        assert fresh is not None
        if found is None:
            texts, changes = now, fresh
            continue
        told += 1
        texts = texts_after(texts, found)
        assert now == texts
        assert len(now) == found.native_count
    assert told > 10


def _act(store: Store, dice: random.Random) -> None:
    living = list(_rowids(store.file))
    with closing(sqlite3.connect(store.file)) as db, db:
        chance = dice.random()
        if living and chance < 0.3:
            db.execute("DELETE FROM points WHERE id = ?", (dice.choice(living),))
        elif living and chance < 0.4:  # the newest, so that its number is given again
            db.execute("DELETE FROM points WHERE rowid = (SELECT max(rowid) FROM points)")
        elif chance < 0.42:
            db.commit()
            db.execute("VACUUM")
        else:
            number = dice.randrange(400)
            db.execute(REPLACE, (key_of(uuid(number)), point(uuid(number), data=f"said {dice.random()}")))
