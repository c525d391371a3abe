"""Looking at the head of a database leaves the locks of this process's connections to it alone."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from spectron_migrate.files.sqlite_heads import connect_noted, copy_file, forget_connection, read_head
from spectron_migrate.mem0.stores.sqlite_readonly import ReadOnlyDb, identity, is_wal

WRITE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=0)
db.execute("INSERT INTO row VALUES (2)")
db.commit()
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "store.sqlite"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE row (number)")
        db.execute("INSERT INTO row VALUES (1)")
    return path


def write(path: Path) -> str:
    """Another process writes at once, or says why it cannot."""
    done = subprocess.run([sys.executable, "-c", WRITE, str(path)], capture_output=True, text=True, check=False)
    return done.stderr.strip().rsplit("\n", 1)[-1]


def open_descriptors(path: Path) -> int:
    here = Path("/proc/self/fd")
    return sum(os.path.realpath(each) == str(path.resolve()) for each in here.iterdir())


@pytest.mark.parametrize("look", [identity, is_wal, lambda path: read_head(path, 100)])
def test_a_snapshot_keeps_writers_out_although_the_head_is_read_meanwhile(database: Path, look: object) -> None:
    assert callable(look)
    with ReadOnlyDb(database) as db:
        with db.snapshot():
            assert 1 == db.one("SELECT count(*) FROM row")
            look(database)
            assert "sqlite3.OperationalError: database is locked" == write(database)
        assert "" == write(database)


def test_a_second_connection_may_be_closed_meanwhile(database: Path) -> None:
    with ReadOnlyDb(database) as db, db.snapshot():
        db.one("SELECT count(*) FROM row")
        identity(database)
        with ReadOnlyDb(database) as other:
            other.one("SELECT count(*) FROM row")
            identity(database)
        assert "sqlite3.OperationalError: database is locked" == write(database)


def test_with_the_last_connection_every_descriptor_is_closed(database: Path) -> None:
    with ReadOnlyDb(database):
        identity(database)
        identity(database)
    assert 0 == open_descriptors(database)
    identity(database)
    assert 0 == open_descriptors(database)


def test_a_snapshot_keeps_writers_out_although_the_file_is_copied_meanwhile(database: Path, tmp_path: Path) -> None:
    with ReadOnlyDb(database) as db, db.snapshot():
        db.one("SELECT count(*) FROM row")
        copy_file(database, tmp_path / "copy")
        assert "sqlite3.OperationalError: database is locked" == write(database)
    assert database.read_bytes() == (tmp_path / "copy").read_bytes()
    assert 0 == open_descriptors(database)


def test_a_store_with_the_journal_of_a_crash_is_copied_without_letting_writers_into_a_snapshot(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = ReadOnlyDb._open

    def fails_in_place(self: ReadOnlyDb, path: Path, mode: str) -> sqlite3.Connection:
        if mode == "ro":
            raise sqlite3.OperationalError("unable to open database file")
        return connect(self, path, mode)

    with ReadOnlyDb(database) as db, db.snapshot():
        db.one("SELECT count(*) FROM row")
        database.with_name(database.name + "-journal").touch()
        monkeypatch.setattr(ReadOnlyDb, "_open", fails_in_place)
        with ReadOnlyDb(database) as copy:
            assert copy.is_copy
        assert "sqlite3.OperationalError: database is locked" == write(database)


def test_a_file_that_was_replaced_is_read_anew(database: Path, tmp_path: Path) -> None:
    connection, noted = connect_noted(database, lambda: sqlite3.connect(database))
    assert b"SQLite format 3\0" == read_head(database, 16)[1]
    (tmp_path / "other").write_bytes(b"another file")
    (tmp_path / "other").replace(database)
    assert b"another file" == read_head(database, 16)[1]
    connection.close()
    forget_connection(noted)
    assert 0 == open_descriptors(database)


def test_a_file_that_is_replaced_while_it_is_opened_keeps_writers_out_as_well(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one takes its name after it was looked at, and before SQLite opens it."""
    shutil.copyfile(database, tmp_path / "other")
    connect = ReadOnlyDb._open

    def replaced(self: ReadOnlyDb, path: Path, mode: str) -> sqlite3.Connection:
        if (tmp_path / "other").exists():
            (tmp_path / "other").replace(database)
        return connect(self, path, mode)

    monkeypatch.setattr(ReadOnlyDb, "_open", replaced)
    with ReadOnlyDb(database) as db, db.snapshot():
        db.one("SELECT count(*) FROM row")
        read_head(database, 100)
        assert "sqlite3.OperationalError: database is locked" == write(database)
    assert 0 == open_descriptors(database)
