"""Temporary files end with their process, even if it is killed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spectron_migrate.files.scratch import PREFIX, Scratch, sweep
from tests.mem0.conftest import DATA

pytestmark = pytest.mark.slow

SECRET = "Ada's diagnosis is known to nobody"
Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files, for this process and those it starts."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    return place


@pytest.fixture
def start(temporary: Path) -> Iterator[Start]:
    """Starts a program, and returns when it has printed a line and waits."""
    running: list[subprocess.Popen[bytes]] = []

    def started(program: str) -> subprocess.Popen[bytes]:
        waits = "import sys\ndef wait():\n    print('waiting', flush=True)\n    sys.stdin.read()\n"
        process = subprocess.Popen(
            [sys.executable, "-c", waits + textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        running.append(process)
        assert process.stdout is not None
        assert b"waiting\n" == process.stdout.readline()
        return process

    yield started
    for process in running:
        process.kill()
        process.communicate()


def killed(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate(timeout=30)


def raw_file(folder: Path) -> Path:
    path = folder / "all.json"
    path.write_text(json.dumps([{"id": "m1", "memory": SECRET, "user_id": "ada"}]))
    return path


def test_a_folder_is_private_and_ends_with_its_owner(temporary: Path) -> None:
    with Scratch() as folder:
        (folder / "memories").write_text(SECRET)
        assert 0o700 == folder.stat().st_mode & 0o777
        assert [folder] == list(temporary.iterdir())
    assert [] == list(temporary.iterdir())

    forgotten = Scratch()
    del forgotten
    assert [] == list(temporary.iterdir())


def test_the_folder_of_a_killed_process_is_removed_by_the_next_and_that_of_a_live_one_stays(
    temporary: Path, start: Start
) -> None:
    program = "from spectron_migrate.files.scratch import Scratch\nscratch = Scratch()\nwait()"
    dead, alive = start(program), start(program)
    assert 2 == len(list(temporary.iterdir()))

    killed(dead)
    with Scratch() as folder:
        left = set(temporary.iterdir()) - {folder}
        assert 1 == len(left)
    killed(alive)
    sweep(temporary)
    assert [] == list(temporary.iterdir())


def test_files_of_others_are_never_removed(temporary: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    (temporary / f"{PREFIX}link").symlink_to(elsewhere)
    (temporary / f"{PREFIX}file").write_text("kept")

    sweep(temporary)

    assert (elsewhere / "kept").exists()
    assert 2 == len(list(temporary.iterdir()))


def test_opened_raw_files_have_no_name_that_could_outlive_the_process(
    temporary: Path, tmp_path: Path, start: Start
) -> None:
    process = start(f"""
        from pathlib import Path
        from spectron_migrate.dump import open_any
        dump = open_any([Path({str(raw_file(tmp_path))!r})])
        assert [{SECRET!r}] == [memory.memory for memory in dump.memories()]
        wait()
        """)

    assert [] == list(temporary.iterdir())
    killed(process)
    assert [] == list(temporary.iterdir())


def test_killed_while_raw_files_are_merged_the_next_opening_leaves_nothing(
    temporary: Path, tmp_path: Path, start: Start
) -> None:
    path = raw_file(tmp_path)
    process = start(f"""
        from pathlib import Path
        from spectron_migrate.dump import open_any, writer
        writer.publish = lambda *given: wait()
        open_any([Path({str(path)!r})])
        """)
    killed(process)
    [left] = temporary.iterdir()
    assert 0o700 == left.stat().st_mode & 0o777

    assert {"rows": ["m1"], "left": []} == answer_of(f"""
        import json, os
        from pathlib import Path
        from spectron_migrate.dump import open_any
        with open_any([Path({str(path)!r})]) as dump:
            rows = [memory.id for memory in dump.memories()]
        print(json.dumps({{"rows": rows, "left": os.listdir({str(temporary)!r})}}))
        """)


def answer_of(program: str) -> object:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=True)
    return json.loads(done.stdout)


def test_histories_and_lists_of_ids_have_no_name_at_all(temporary: Path, start: Start) -> None:
    process = start(f"""
        from pathlib import Path
        from spectron_migrate.mem0.stores.history import HistoryFile
        from spectron_migrate.mem0.seen_ids import SeenIds
        history = HistoryFile(Path({str(DATA / "2.2.1-qdrant" / "history.db")!r}))
        tally = SeenIds()
        tally.add([f"id-{{number}}" for number in range(100_000)])
        assert 100_000 == tally.count()
        wait()
        """)

    assert [] == list(temporary.iterdir())
    killed(process)


@pytest.mark.parametrize("at", ["while it is copied", "while it is read"])
def test_a_copy_of_a_store_has_a_name_only_while_it_is_made(
    temporary: Path, tmp_path: Path, start: Start, at: str
) -> None:
    store = tmp_path / "store.db"
    with sqlite3.connect(store, isolation_level=None) as db:
        db.executescript("PRAGMA journal_mode = WAL; CREATE TABLE points (text)")
        db.execute("INSERT INTO points VALUES (?)", (SECRET,))
        for name in ("store.db", "store.db-wal"):  # as a killed application leaves them
            shutil.copy(tmp_path / name, tmp_path / f"left-{name}")
    db.close()
    early = "sqlite_ro.copy_file = lambda *a: (copy(*a), wait())" if at == "while it is copied" else ""
    process = start(f"""
        from pathlib import Path
        from spectron_migrate.mem0.stores import sqlite_readonly as sqlite_ro
        copy = sqlite_ro.copy_file
        {early}
        db = sqlite_ro.ReadOnlyDb(Path({str(tmp_path / "left-store.db")!r}))
        assert [({SECRET!r},)] == db.all("SELECT text FROM points")
        wait()
        """)
    killed(process)

    assert (1 if early else 0) == len(list(temporary.iterdir()))
    with Scratch():
        assert 1 == len(list(temporary.iterdir()))
    assert [] == list(temporary.iterdir())


def test_a_killed_export_leaves_nothing_outside_its_dump_and_the_next_one_tidies_there(
    temporary: Path, tmp_path: Path, start: Start
) -> None:
    dump = tmp_path / "dump"
    program = f"""
        from datetime import UTC, datetime
        from pathlib import Path
        from spectron_migrate.migration.export import run_export
        from spectron_migrate.mem0.formats.files import FilesReader
        from spectron_migrate.records import Filters
        from spectron_migrate.reporter import NullReporter
        run_export(FilesReader([Path({str(raw_file(tmp_path))!r})], now=datetime.now(UTC)), Path({str(dump)!r}),
                   filters=Filters(), since=None, keep_history=False, reporter=NullReporter(),
                   clock=lambda: datetime.now(UTC))
        """
    early = "from spectron_migrate.dump import writer\nwriter.publish = lambda *given: wait()\n"
    killed(start(early + textwrap.dedent(program)))
    assert [] == list(temporary.iterdir())
    assert 0o700 == dump.stat().st_mode & 0o777
    assert any(path.name.startswith(".memories.jsonl.") for path in dump.iterdir())

    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, env=dict(os.environ))

    assert {".gitignore", ".lock", "manifest.json", "memories.jsonl"} == {path.name for path in dump.iterdir()}
