"""Files that several processes of a host open at the same moment, and keep open beside each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spectron_migrate.files.shared_sqlite import open_shared

ROOT = Path(__file__).parent.parent.parent


DDL = "CREATE TABLE IF NOT EXISTS told(word TEXT) STRICT;"


ROUNDS, PROCESSES = 30, 4


def process(code: str, *words: str) -> subprocess.Popen[str]:
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n{code}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "opening",
    [
        "from spectron_migrate.adapter.added_memories import AddedMemories\n"
        "open_it = lambda place: AddedMemories(place)._open(create=True)",
        "from spectron_migrate.state.outbox import Outbox\nopen_it = lambda place: Outbox(place, host='one')",
    ],
    ids=["since", "outbox"],
)
def test_processes_that_open_a_new_file_at_the_same_moment_all_can(tmp_path: Path, opening: str) -> None:
    code = f"{opening}\nprint('ready')\nfor line in sys.stdin:\n    open_it(Path(line.strip()))\n    print('open')\n"
    several = [process(code) for _ in range(PROCESSES)]
    try:
        said = {each.stdout.readline() for each in several if each.stdout is not None}
        assert {"ready\n"} == said
        for number in range(ROUNDS):
            place = tmp_path / str(number)
            place.mkdir()
            for each in several:
                assert each.stdin is not None
                each.stdin.write(f"{place}\n")
            said = {each.stdout.readline() for each in several if each.stdout is not None}
            assert {"open\n"} == said
    finally:
        for each in several:
            each.communicate()


def test_opening_a_file_once_more_lets_go_of_no_lock(tmp_path: Path) -> None:
    """Whoever closes last removes the journal: nobody may look like the last beside a process that writes."""
    path = tmp_path / "told.db"
    first = open_shared(path, DDL, busy_s=1.0)
    first.execute("INSERT INTO told VALUES ('one')")
    second = open_shared(path, DDL, busy_s=1.0)
    counts = "SELECT count(*) FROM told"
    code = f"import sqlite3\ndb = sqlite3.connect({str(path)!r})\nprint(*db.execute({counts!r}).fetchone())\ndb.close()"
    assert "1\n" == process(code).communicate()[0]
    first.execute("INSERT INTO told VALUES ('two')")
    assert "2\n" == process(code).communicate()[0]
    assert 2 == second.execute("SELECT count(*) FROM told").fetchone()[0]
    first.close()
    second.close()
