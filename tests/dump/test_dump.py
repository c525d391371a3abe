"""A dump says what Mem0 held and how that is known; whatever crashes, it is the old one or the new one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.dump import open_any, open_dump, read_manifest
from spectron_migrate.dump.files import encoded
from spectron_migrate.dump.manifest import MEMORIES, Manifest
from spectron_migrate.dump.writer import IDENTICAL, OLDER, OTHER, DumpWriter
from spectron_migrate.errors import InputError, LedgerLocked
from spectron_migrate.records import Filters, Memory, Skipped, SourceInfo
from tests.support.dumping import SOURCE, START, memory, scan, texts

ALICE = Filters(users=frozenset({"alice"}))


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    rows = [
        memory("m1", "a\x00\x1b\u2028\n", metadata={"k": [1, {"é": None}]}, categories=("a", "b"), state="expired"),
        memory("\ud800 half", "\udfff", user=None, agent_id="\ud800", extra={"as_given": {"user_id": 4}}),
    ]

    scan(tmp_path / "dump", list(rows))

    dump = open_dump(tmp_path / "dump")
    assert rows == list(dump.memories())
    assert (2, SOURCE, True, True, False) == (dump.count, dump.source, dump.complete, dump.whole, dump.raw)
    assert "2026-01-01T00:00:00.000000Z" == dump.began


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(st.characters(), max_size=5), JSON), st.text(st.characters()))
def test_a_line_keeps_any_memory_and_is_one_line(metadata: dict[str, Any], text: str) -> None:
    line = encoded(memory("m", text, metadata=metadata).to_json())

    assert b"\n" not in line[:-1]
    assert memory("m", text, metadata=metadata) == Memory.from_json(json.loads(line))


def test_what_json_cannot_say_is_told_as_text() -> None:
    value = {"a": float("nan"), "b": datetime(2025, 1, 1, tzinfo=UTC), 3: {2, 1}, "d": b"\xff", "e": (1,)}

    told = json.loads(encoded(value))

    assert {"a": "nan", "b": "2025-01-01T00:00:00+00:00", "3": [1, 2], "d": "/w==", "e": [1]} == told


def test_files_are_private(tmp_path: Path) -> None:
    scan(tmp_path / "dump", [memory("m1"), Skipped("m2", "no text field")])

    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "dump").iterdir()}
    assert {"0o600"} == set(modes.values())
    assert {".gitignore", ".lock", "manifest.json", "memories.jsonl", "skipped.jsonl"} == set(modes)
    assert "0o700" == oct((tmp_path / "dump").stat().st_mode & 0o777)
    assert "*\n" == (tmp_path / "dump" / ".gitignore").read_text()


def test_the_manifest_counts_and_names(tmp_path: Path) -> None:
    changes = scan(
        tmp_path / "dump",
        [
            memory("m1"),
            memory("m2", agent_id="bot", run_id="r1"),
            memory("m3", user="bob"),
            Skipped("m4", "no text field"),
            Skipped("", "no id"),
            Skipped("m5", "unreadable row: UnpicklingError"),
        ],
    )

    manifest = changes.manifest
    assert {"alice": 2, "bob": 1} == manifest.users
    assert (3, 1, 1) == (manifest.memories, manifest.agents, manifest.runs)
    assert {"no id": 1, "no text field": 1, "unreadable row": 1} == manifest.skipped
    assert 3 == len(open_dump(tmp_path / "dump").skipped)
    assert manifest == Manifest.from_json(json.loads(json.dumps(manifest.to_json())))


def test_a_second_scan_tells_new_changed_and_deleted(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory(name) for name in ("same", "text", "metadata", "gone")])

    changes = scan(
        path, [memory("same"), memory("text", "likes coffee"), memory("metadata", role="user"), memory("new")], day=1
    )

    assert (1, 1, 1, 1) == (changes.new, changes.changed_text, changes.changed_otherwise, changes.deleted)
    dump = open_dump(path)
    assert {"same", "text", "metadata", "new"} == set(texts(dump))
    assert {"gone"} == set(dump.tombstones)
    assert "2026-01-02T00:00:00.000000Z" == dump.tombstones["gone"].first_missed
    assert ["gone"] == [row.id for row in dump.deleted()]


def test_a_tombstone_stands_as_it_was_set_until_the_memory_returns(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1"), memory("m2")])
    first = scan(path, [memory("m1")], day=1).manifest.tombstones
    assert first == scan(path, [memory("m1")], day=2).manifest.tombstones

    changes = scan(path, [memory("m1"), memory("m2")], day=3)

    assert ("m2",) == changes.manifest.returned
    assert {} == changes.manifest.tombstones
    assert 0 == changes.new
    assert () == scan(path, [memory("m1"), memory("m2")], day=4).manifest.returned


@pytest.mark.parametrize(
    "options",
    [{"complete": False}, {"since": "2025-06-01T00:00:00.000000Z"}, {"filters": Filters(users=frozenset({"bob"}))}],
)
def test_no_tombstone_without_a_scan_that_was_complete_for_the_owner(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1"), memory("m2")])

    changes = scan(path, [], day=1, **options)

    assert {} == changes.manifest.tombstones
    assert {"m1", "m2"} == set(texts(open_dump(path)))


def test_raw_files_never_bury_a_memory(tmp_path: Path) -> None:
    files = SourceInfo("files", "files")
    scan(tmp_path / "dump", [memory("m1"), memory("m2")], source=files)

    assert {} == scan(tmp_path / "dump", [memory("m1")], source=files, day=1).manifest.tombstones


def test_a_narrower_scan_touches_only_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("a1"), memory("a2"), memory("b1", user="bob")])

    changes = scan(path, [memory("a1", "likes coffee"), memory("b1", "other", user="bob")], day=1, filters=ALICE)

    assert {"a1": "likes coffee", "b1": "likes tea"} == texts(open_dump(path))
    assert {"a2"} == set(changes.manifest.tombstones)
    assert (1, {"users": ["alice"]}) == (changes.manifest.filtered, changes.manifest.filters)
    assert changes.manifest.whole


def test_a_memory_that_changed_owner_is_updated_by_a_scan_of_its_old_owner(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1"), memory("m2")])

    changes = scan(path, [memory("m1"), memory("m2", user="bob")], day=1, filters=ALICE)

    assert {} == changes.manifest.tombstones
    assert {"alice": 1, "bob": 1} == changes.manifest.users


def test_a_row_that_became_unreadable_is_not_taken_for_deleted(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1"), memory("m2")])

    changes = scan(path, [memory("m1"), Skipped("m2", "no text field")], day=1)

    assert {} == changes.manifest.tombstones
    assert {"m1", "m2"} == set(texts(open_dump(path)))


def test_freshness_is_never_claimed_for_rows_of_an_older_scan(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("a1"), memory("b1", user="bob")])
    narrow = scan(path, [memory("a1")], day=1, filters=ALICE).manifest
    assert ("2026-01-01T00:00:00.000000Z", "2026-01-02T00:00:00.000000Z") == (narrow.began, narrow.scan_began)

    whole = scan(path, [memory("a1"), memory("b1", user="bob")], day=2).manifest

    assert "2026-01-03T00:00:00.000000Z" == whole.began


def test_completeness_needs_every_scan_that_still_speaks(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    assert not scan(path, [memory("a1"), memory("b1", user="bob")], complete=False).manifest.complete
    assert not scan(path, [memory("a1")], day=1, filters=ALICE).manifest.complete
    assert scan(path, [memory("a1"), memory("b1", user="bob")], day=2).manifest.complete


def test_only_a_scan_of_everything_makes_it_whole(tmp_path: Path) -> None:
    assert not scan(tmp_path / "dump", [memory("a1")], filters=ALICE).manifest.whole
    assert scan(tmp_path / "dump", [memory("a1")], day=1).manifest.whole


ROW = st.builds(
    memory,
    st.sampled_from(["m1", "m2", "m3"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["alice", "bob"]),
    updated_at=st.sampled_from([None, "2025-02-01T00:00:00.000000Z", "2025-03-01T00:00:00.000000Z"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=12), st.randoms())
def test_copies_in_files_are_merged_the_same_way_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Memory], random: Any
) -> None:
    files = SourceInfo("files", "files")
    path = tmp_path_factory.mktemp("merge")
    first = scan(path / "a", list(rows), source=files)
    shuffled = list(rows)
    random.shuffle(shuffled)
    second = scan(path / "b", list(shuffled), source=files)

    kept = {row.id: row for row in open_dump(path / "a").memories()}
    assert kept == {row.id: row for row in open_dump(path / "b").memories()}
    assert first.manifest.users == second.manifest.users
    for row in rows:
        assert (row.updated_at or row.created_at or "") <= (kept[row.id].updated_at or kept[row.id].created_at or "")
    assert len(rows) == len(kept) + sum(first.manifest.skipped.values())
    assert {IDENTICAL, OLDER, OTHER} >= set(first.manifest.skipped)


def test_a_row_read_twice_from_a_store_counts_once_and_as_it_was_last(tmp_path: Path) -> None:
    changes = scan(tmp_path / "dump", [memory("m1", "before"), memory("m2"), memory("m1", "after")])

    assert {"m1": "after", "m2": "likes tea"} == texts(open_dump(tmp_path / "dump"))
    assert ({}, {"alice": 2}) == (changes.manifest.skipped, changes.manifest.users)


def test_a_second_pass_forgets_what_is_no_longer_there(tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "dump", SOURCE, START, rereads=True) as writer:
        for row in (memory("m1"), memory("m2"), Skipped("m3", "no text field"), Skipped("", "no id")):
            writer.give(row)
        assert 4 == writer.distinct()
        writer.begin_pass()
        writer.give(memory("m1", "changed"))
        assert 1 == writer.distinct()
        manifest = writer.commit(complete=True, native_count=1, ended=START).manifest

    assert {"m1": "changed"} == texts(open_dump(tmp_path / "dump"))
    assert ({}, {"alice": 1}) == (manifest.skipped, manifest.users)


def test_leaving_without_a_commit_leaves_the_old_dump(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1")])
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def interrupted() -> None:
        with DumpWriter(path, SOURCE, START + timedelta(days=1)) as writer:
            writer.give(memory("m2"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert before == {file.name: file.read_bytes() for file in path.iterdir()}


KILLED_AT = """
import os, sys
from pathlib import Path
from datetime import timedelta
from tests.support.dumping import SOURCE, START, memory
from spectron_migrate.dump.writer import DumpWriter

at, path = int(sys.argv[1]), Path(sys.argv[2])
step = 0
def count(event, arguments):
    global step
    if event in ("open", "os.rename", "os.remove", "os.truncate") and str(path) in str(arguments[0]):
        step += 1
        if step == at:
            os.kill(os.getpid(), 9)
sys.addaudithook(count)
with DumpWriter(path, SOURCE, START + timedelta(days=1)) as writer:
    for name in ("m1", "m3"):
        writer.give(memory(name, "new"))
    writer.keep("history.jsonl", {"memory_id": "m1"})
    writer.commit(complete=True, native_count=2, ended=START + timedelta(days=1))
print("whole")
"""


def test_killed_at_any_step_the_dump_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    seen = set()
    for at in range(1, 60):
        path = tmp_path / str(at)
        scan(path, [memory("m1", "old"), memory("m2", "old")])
        done = subprocess.run(
            [sys.executable, "-c", KILLED_AT, str(at), str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        found = texts(open_dump(path))
        assert found in ({"m1": "old", "m2": "old"}, {"m1": "new", "m3": "new"})
        seen.add(found["m1"])
        scan(path, [memory("m1", "newest")], day=2)
        assert {"m1": "newest"} == texts(open_dump(path))
        assert [] == [name for name in os.listdir(path) if name.startswith(".") and name not in (".gitignore", ".lock")]
        if done.returncode == 0:
            break
    assert {"old", "new"} == seen
    assert "whole\n" == done.stdout


FULL_AT = """
import resource, sqlite3, sys
from datetime import timedelta
from pathlib import Path
from tests.support.dumping import SOURCE, START, memory
from spectron_migrate.dump.writer import DumpWriter

path = Path(sys.argv[1])
for limit in (0, 50, 300, 600, 900, 2_000, 5_000, 10_000, 20_000, 40_000, 80_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with DumpWriter(path, SOURCE, START + timedelta(days=1)) as writer:
            for number in range(60):
                writer.give(memory(f"m{number}", "new " + "x" * 500))
            writer.commit(complete=True, native_count=60, ended=START + timedelta(days=1))
        print(limit, "whole")
    except (OSError, sqlite3.OperationalError) as error:
        print(limit, type(error).__name__)
    sys.stdout.flush()
    if "old" not in (path / "memories.jsonl").read_text():
        break
"""


def test_a_disk_that_is_full_at_any_point_leaves_the_old_dump_or_the_new_one(tmp_path: Path) -> None:
    """As a limit on the size of a file, which strikes in another file at each of its sizes."""
    path = tmp_path / "dump"
    scan(path, [memory("m1", "old"), memory("m2", "old")])
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    process = subprocess.Popen([sys.executable, "-c", FULL_AT, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    ends = [line.split()[1] for line in process.stdout]

    assert 0 == process.wait()
    assert "whole" == ends.pop()
    assert {"OSError", "OperationalError"} == set(ends)
    assert 60 == open_dump(path).count
    assert set(before) == {file.name for file in path.iterdir()} - {"deleted.jsonl"}


INTERRUPTED_AT = """
import os, random, signal, sys, time
from pathlib import Path
from spectron_migrate.dump import open_dump
from tests.support.dumping import memory, scan, texts

class Stop(BaseException):
    pass

def stop(number, frame):
    raise Stop

def rows(day):
    return [memory(f"m{one}", str(day)) for one in range((40, 55)[day % 2])]

path, chosen = Path(sys.argv[1]), random.Random(5)
scan(path, rows(0))
began = time.perf_counter()
scan(path, rows(1), day=1)
longest, held = 1.2 * (time.perf_counter() - began), 1
signal.signal(signal.SIGALRM, stop)
for day in range(2, 80):
    child = os.fork()
    if not child:
        if day % 10:  # how fast the machine is decides what the others come to
            signal.setitimer(signal.ITIMER_REAL, chosen.uniform(0.0001, longest))
        try:
            scan(path, rows(day), day=day)
        finally:
            os._exit(0)
    chosen.random()
    os.waitpid(child, 0)
    found = texts(open_dump(path))
    now = int(found["m0"])
    assert now in (held, day) and found == {row.id: row.memory for row in rows(now)}, (day, held, found)
    print("new" if now == day else "old")
    held = now
"""


def test_interrupted_at_any_moment_the_dump_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    """A signal's exception may come between any two instructions."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT, str(tmp_path / "dump")], capture_output=True, text=True
    )

    assert 0 == done.returncode, done.stderr
    assert 78 == len(done.stdout.split())
    assert "new" in done.stdout.split()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-10], "is cut off"),
        (lambda data: b"", "is cut off"),
        (lambda data: data.replace(b"tea", b"rum"), "was altered"),
        (lambda data: data + b"{}\n", "was altered"),
    ],
)
def test_a_dump_that_was_cut_off_or_altered_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1")])
    file = path / MEMORIES
    file.write_bytes(damage(file.read_bytes()))

    with pytest.raises(InputError) as error:
        open_dump(path)

    assert f"{file} {message}: it is not the file its manifest describes" == error.value.message
    assert error.value.hint


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is cut off or no manifest of a dump"),
        (lambda text: "[]", "is cut off or no manifest of a dump"),
        (lambda text: text.replace('"complete": false', '"complete": true'), "was altered: its digest does not fit"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "has format 9, this tool reads format 1"),
    ],
)
def test_a_manifest_that_was_cut_off_or_altered_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1")], complete=False)
    file = path / "manifest.json"
    file.write_text(damage(file.read_text()))

    with pytest.raises(InputError) as error:
        open_dump(path)

    assert f"{file} {message}" == error.value.message


def test_a_missing_file_and_a_missing_dump_are_told(tmp_path: Path) -> None:
    scan(tmp_path / "dump", [memory("m1")])
    (tmp_path / "dump" / MEMORIES).unlink()

    with pytest.raises(InputError, match="is missing from the dump"):
        open_dump(tmp_path / "dump")
    with pytest.raises(InputError, match="there is no dump in"):
        open_dump(tmp_path / "nowhere")
    assert read_manifest(tmp_path / "nowhere") is None


def test_a_reader_keeps_the_dump_that_it_opened_while_an_export_puts_another_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1")])
    dump = open_dump(path)
    scan(path, [memory("m2")], day=1)

    assert ["m1"] == [row.id for row in dump.memories()] == [row.id for row in dump.memories()]
    assert ["m2"] == [row.id for row in open_dump(path).memories()]


def test_a_dump_that_somebody_changes_under_a_reader_is_told(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1")])
    dump = open_dump(path)
    with (path / MEMORIES).open("ab") as file:
        file.write(b"{}\n")

    with pytest.raises(InputError, match="changed after it was opened"):
        list(dump.memories())


def test_opening_beside_an_export_gives_one_dump_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m0")])
    ended = threading.Event()

    def export() -> None:
        for day in range(1, 25):
            scan(path, [memory(f"m{day}")], day=day)
        ended.set()

    writing = threading.Thread(target=export)
    writing.start()
    seen = []
    while not ended.is_set():
        with open_dump(path) as dump:
            seen += [row.id for row in dump.memories()]
    writing.join()
    assert sorted(seen, key=lambda each: int(each[1:])) == seen


def test_the_digest_moves_with_every_change_and_only_then(tmp_path: Path) -> None:
    first = scan(tmp_path / "a", [memory("m1")]).manifest
    assert first.digest == scan(tmp_path / "b", [memory("m1")]).manifest.digest
    assert first.digest != scan(tmp_path / "c", [memory("m1", "rum")]).manifest.digest
    assert first.digest != scan(tmp_path / "d", [memory("m1")], complete=False).manifest.digest


def test_another_sources_dump_is_refused(tmp_path: Path) -> None:
    scan(tmp_path / "dump", [memory("m1")])

    with pytest.raises(InputError) as error:
        scan(tmp_path / "dump", [], source=SourceInfo("oss", "qdrant:/other:mem0"), day=1)

    assert "holds a dump of another source (oss:qdrant:/store:mem0)" in error.value.message
    assert {"m1": "likes tea"} == texts(open_dump(tmp_path / "dump"))


def test_a_directory_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("print()")

    with pytest.raises(InputError, match="holds other files"):
        scan(tmp_path, [memory("m1")])

    assert ["main.py"] == os.listdir(tmp_path)


def test_only_one_export_writes_a_dump_at_a_time(tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "dump", SOURCE, START), pytest.raises(LedgerLocked):
        scan(tmp_path / "dump", [memory("m1")])
    scan(tmp_path / "dump", [memory("m1")])


def test_files_of_other_steps_stay(tmp_path: Path) -> None:
    scan(tmp_path / "dump", [memory("m1")])
    (tmp_path / "dump" / "plan.json").write_text("{}")

    scan(tmp_path / "dump", [memory("m1")], day=1)

    assert "{}" == (tmp_path / "dump" / "plan.json").read_text()


def test_raw_files_and_a_directory_have_one_interface(tmp_path: Path) -> None:
    raw = tmp_path / "get_all.json"
    raw.write_text(json.dumps({"results": [{"id": "m1", "memory": "likes tea", "user_id": "alice"}, {"id": "m2"}]}))
    scan(tmp_path / "dump", [memory("m1")])

    with open_any([raw], now=START) as dump:
        assert (True, None, None, False, 1) == (dump.raw, dump.began, dump.complete, dump.whole, dump.count)
        assert {"m1": "likes tea"} == texts(dump)
        assert (Skipped("m2", "no text field"),) == dump.skipped
        assert {"alice": 1} == dump.manifest.users
    for named in (tmp_path / "dump", tmp_path / "dump" / "manifest.json"):
        with open_any([named]) as dump:
            assert (False, True, 1) == (dump.raw, dump.complete, dump.count)


def test_the_digest_of_raw_files_is_that_of_their_content(tmp_path: Path) -> None:
    def digest(*contents: str) -> str:
        paths = [tmp_path / f"{number}.json" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_text(content)
        with open_any(paths) as dump:
            return dump.digest

    one, other = '[{"id": "m1", "memory": "a"}]', '[{"id": "m2", "memory": "b"}]'
    assert digest(one, other) == digest(other, one)
    assert digest(one) != digest(other)


def test_a_directory_beside_raw_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")

    with pytest.raises(InputError, match="is a directory beside other inputs"):
        open_any([tmp_path / "a.json", tmp_path])
