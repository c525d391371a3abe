"""Folding files of changes into the dump: the memories stay as they are, at whatever moment it ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.dump import changes as changes_module
from spectron_migrate.dump import changes_writer, open_dump, read_manifest
from spectron_migrate.dump.changes_writer import ChangesWriter
from spectron_migrate.errors import InputError
from spectron_migrate.records import Json, Memory, Skipped
from tests.support.dumping import begin_changes, lay, memory, scan, texts

pytestmark = pytest.mark.slow


@contextmanager
def bounds(files: int, size: int = 1 << 30) -> Iterator[None]:
    """How many files of changes there may be, and how many bytes in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes_writer, "MOST_FILES", files)
        patch.setattr(changes_writer, "MOST_BYTES", size)
        yield


def changes_of(path: Path) -> list[str]:
    return sorted(file.name for file in path.glob("changes-*"))


def test_changes_are_folded_when_there_are_as_many_files_as_may_be(tmp_path: Path) -> None:
    with bounds(2):
        changes = begin_changes(tmp_path, [memory("a"), memory("b"), memory("c")])
        lay(changes, 1, memory("b", "likes rum", user="bob"), gone=("a",))
        lay(changes, 2, memory("d"))
        assert ["changes-000002.jsonl", "changes-000003.jsonl"] == changes_of(tmp_path)
        lay(changes, 3, memory("c", "likes gin"))
    assert ["changes-000005.jsonl"] == changes_of(tmp_path)
    base = changes_module.read_base_manifest(tmp_path)
    assert base is not None
    assert (3, {"alice": 2, "bob": 1}) == (base.memories, base.users)
    with open_dump(tmp_path) as dump:
        assert {"b": "likes rum", "c": "likes gin", "d": "likes tea"} == texts(dump)
        assert ["a"] == [row["id"] for _, row in dump.raw_lines("deleted.jsonl")]
        assert {"a"} == dump.tombstones.keys()


def test_changes_are_folded_when_they_would_be_too_large(tmp_path: Path) -> None:
    with bounds(100, 2_000):
        changes = begin_changes(tmp_path, [memory("a")])
        for day in range(1, 9):
            lay(changes, day, memory(f"m{day}", "likes tea " * 50))
            assert 2 >= len(changes_of(tmp_path))
    with open_dump(tmp_path) as dump:
        assert 9 == dump.count == len(texts(dump))


def test_one_round_that_is_too_large_is_a_file_all_the_same(tmp_path: Path) -> None:
    with bounds(100, 1_000):
        changes = begin_changes(tmp_path, [memory("a")])
        lay(changes, 1, memory("b", "likes tea " * 500))
    assert ["changes-000002.jsonl"] == changes_of(tmp_path)


def test_a_round_that_finds_nothing_folds_nothing(tmp_path: Path) -> None:
    with bounds(1):
        changes = begin_changes(tmp_path, [memory("a")])
        lay(changes, 1, memory("b"))
        lay(changes, 2, memory("b"))
    assert ["changes-000002.jsonl"] == changes_of(tmp_path)


def test_the_dump_descends_from_all_before(tmp_path: Path) -> None:
    with bounds(2):
        changes = begin_changes(tmp_path, [memory("a")])
        before = [changes.manifest]
        for day in range(1, 8):
            lay(changes, day, memory("a", f"likes {day}"))
            before.append(changes.manifest)
    found = read_manifest(tmp_path)
    assert found is not None
    assert (found.generation, found.generation - 1) == (11, len(found.ancestors)), "three folds"
    assert {each.digest for each in before[:-1]} < set(found.ancestors)
    numbers = [each.generation for each in before]
    assert sorted(set(numbers)) == numbers


def test_a_whole_reading_after_a_fold_compares_with_it(tmp_path: Path) -> None:
    with bounds(1):
        changes = begin_changes(tmp_path, [memory("a"), memory("b")])
        lay(changes, 1, memory("a", "likes rum"), gone=("b",))
        lay(changes, 2, memory("c"))
        update = scan(tmp_path, [memory("a", "likes rum"), memory("c"), memory("b")], day=3)
        assert (0, 0, 0) == (update.new, update.changed_text, update.deleted)
        assert ("b",) == update.manifest.returned
        assert lay(changes, 4, memory("d")) is None, "the dump is another one now"


def test_a_reader_that_has_the_dump_open_goes_on(tmp_path: Path) -> None:
    with bounds(1):
        changes = begin_changes(tmp_path, [memory("a"), memory("b")])
        lay(changes, 1, memory("a", "likes rum"), gone=("b",))
        with open_dump(tmp_path) as dump:
            lines = dump.memories()
            lay(changes, 2, memory("c"))
            lay(changes, 3, memory("d"))
            assert {"a": "likes rum"} == {row.id: row.memory for row in lines} == texts(dump)
            assert ["b"] == [row["id"] for _, row in dump.raw_lines("deleted.jsonl")]


def test_a_reader_of_the_manifest_while_it_is_replaced_gets_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the one of before all changes, whose files are just being removed."""
    read = changes_module._read
    with bounds(1):
        changes = begin_changes(tmp_path, [memory("a")])
        lay(changes, 1, memory("a", "likes rum"))

        def after_a_fold(file: Path) -> Any:
            monkeypatch.setattr(changes_module, "_read", read)
            lay(changes, 2, memory("b"))
            return read(file)

        monkeypatch.setattr(changes_module, "_read", after_a_fold)
        found = read_manifest(tmp_path)
    assert found == changes.manifest
    assert 2 == found.memories


# --- a law


TEXTS = ("tea", "rum", "gin")
IDS = "abcdef"
STEPS = st.tuples(
    st.sampled_from(IDS), st.sampled_from(("put", "put", "touch", "retime", "drop", "skip")), st.integers(0, 2)
)
ROUNDS = st.lists(st.lists(STEPS, max_size=5), min_size=3, max_size=12)


class Mem0:
    """A store with a history, as readings of it show it."""

    def __init__(self) -> None:
        self.rows: dict[str, Memory | Skipped] = {}
        self.events: dict[tuple[str, str], tuple[str, int]] = {}
        self.number = 0

    def text_at(self, mem0_id: str, text: str) -> tuple[str, int] | None:
        return self.events.get((mem0_id, text))

    def change(self, steps: list[tuple[str, str, int]]) -> tuple[set[str], set[str]]:
        """Ids of the rows that were written or deleted, and of the memories with a new event."""
        written, retimed = set(), set()
        for mem0_id, what, choice in steps:
            self.number += 1
            row, text = self.rows.get(mem0_id), TEXTS[choice]
            if what == "put":
                self.rows[mem0_id] = memory(mem0_id, text, user=("ann", "bob", None)[choice], agent_id=text)
            elif what == "skip" and not isinstance(row, Memory):
                self.rows[mem0_id] = Skipped(mem0_id, "no text field")
            elif what == "touch" and isinstance(row, Memory):
                self.rows[mem0_id] = memory(mem0_id, row.memory, row.user_id, metadata={"n": self.number})
            elif what == "retime" and isinstance(row, Memory):
                self.events[mem0_id, row.memory] = (f"2025-02-01T00:00:00.{self.number:06}Z", self.number)
                retimed.add(mem0_id)
                continue
            elif what == "drop" and row is not None:
                del self.rows[mem0_id]
            else:
                continue
            written.add(mem0_id)
        return written, retimed


@settings(max_examples=30)
@given(ROUNDS, st.integers(1, 3), st.sampled_from((700, 5_000)))
def test_after_any_rounds_the_dump_is_that_of_whole_readings(
    rounds: list[list[tuple[str, str, int]]], files: int, size: int
) -> None:
    with tempfile.TemporaryDirectory() as name, bounds(files, size):
        mem0, folder, changes = Mem0(), Path(name), None
        try:
            for day, steps in enumerate(rounds):
                before = set(mem0.rows)
                written, retimed = mem0.change(steps)
                written &= before | mem0.rows.keys()
                twice = (each for each in IDS[:2] if isinstance(mem0.rows.get(each), Memory))
                rows = [*(memory(each, "as it was") for each in twice), *mem0.rows.values()]
                begin_changes(folder / "expected", rows, day=day, text_at=mem0.text_at).close()
                laid = _lay(changes, day, mem0, written, retimed) if changes is not None else None
                if laid is None:
                    if changes is not None:
                        changes.close()
                    changes = begin_changes(folder / "dump", rows, day=day, text_at=mem0.text_at)
                assert _content(folder / "expected") == _content(folder / "dump")
                assert changes is not None
                _look_up(changes)
                assert files >= len(changes_of(folder / "dump"))
        finally:
            if changes is not None:
                changes.close()


def _lay(changes: ChangesWriter, day: int, mem0: Mem0, written: set[str], retimed: set[str]) -> Any:
    rows = [mem0.rows.get(each) for each in sorted(written)]
    if any(isinstance(row, Skipped) for row in rows):
        return None  # a reader of changes gives up where a row is no memory
    gone = tuple(each for each in sorted(written) if each not in mem0.rows)
    memories = [row for row in rows if isinstance(row, Memory)]
    return lay(changes, day, *memories, gone=gone, retimed=tuple(retimed), text_at=mem0.text_at)


def _content(path: Path) -> dict[str, Json]:
    with open_dump(path) as dump:
        manifest = dump.manifest
        return {
            "memories": sorted(dump.encoded_lines("memories.jsonl")),
            "deleted": sorted(dump.encoded_lines("deleted.jsonl")),
            "counts": (manifest.memories, manifest.agents, manifest.runs, manifest.skipped),
            "users": manifest.users,
            "tombstones": manifest.tombstones,
            "returned": manifest.returned_at,
        }


def _look_up(changes: ChangesWriter) -> None:
    """What it knows of each memory is what the dump says."""
    with open_dump(changes._path) as dump:
        lines = {row["id"]: line for line, row in dump.raw_lines("memories.jsonl")}
    assert {each: lines.get(each) for each in IDS} == {each: changes._line(each) for each in IDS}


# --- crashes and full disks


KILLED_AT = """
import os, sys
from pathlib import Path
from spectron_migrate.dump import changes_writer, open_dump
from tests.support.dumping import begin_changes, kill_at_step, lay, memory, scan, texts

changes_writer.MOST_FILES = 2
BEFORE = {"a": "2", "c": "tea", "d": "2"}
AFTER = {"a": "2", "c": "3", "d": "2"}
for at in range(1, 200):
    path = Path(sys.argv[1]) / str(at)
    child = os.fork()
    if not child:
        changes = begin_changes(path, [memory("a", "tea"), memory("b", "tea"), memory("c", "tea")])
        lay(changes, 1, memory("a", "1"), memory("d", "1"), gone=("b",))
        lay(changes, 2, memory("a", "2"), memory("d", "2"))
        kill_at_step(path, at)
        lay(changes, 3, memory("c", "3"))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    with open_dump(path) as dump:
        found, stones = texts(dump), set(dump.tombstones)
        gone = [row["id"] for _, row in dump.raw_lines("deleted.jsonl")]
    assert found in (BEFORE, AFTER) and stones == {"b"} and gone == ["b"], (at, found, stones, gone)
    folded = (path / "memories.jsonl").read_text().count("tea") == 1
    print("folded" if folded else "base", "after" if found == AFTER else "before")
    update = scan(path, [memory(one, text) for one, text in AFTER.items()], day=4)
    with open_dump(path) as dump:
        assert (texts(dump), set(dump.tombstones)) == (AFTER, {"b"})
    assert update.changed_text == (found == BEFORE), (at, update)
    left = {name for name in os.listdir(path) if name.startswith((".", "changes-"))}
    assert left <= {".gitignore", ".lock"}, (at, left)
    if not status:
        break
"""


def test_killed_at_any_step_of_a_fold_the_dump_holds_the_same_memories(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_AT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    found = done.stdout.splitlines()
    assert ["base before", "folded before", "folded after"] == list(dict.fromkeys(found))
    assert "folded after" == found[-1]
    assert 10 < found.count("base before")
    assert 4 < found.count("folded before")


@pytest.mark.parametrize("name", ["memories.jsonl", "deleted.jsonl", "manifest.json"])
def test_a_full_disk_is_one_sentence_that_names_the_file_and_the_next_round_folds(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{handle}")).name.startswith(f".{name.removesuffix('.json')}."):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with bounds(1):
        changes = begin_changes(tmp_path, [memory("a"), memory("b")])
        lay(changes, 1, memory("a", "likes rum"), gone=("b",))
        before = read_manifest(tmp_path)
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(InputError) as raised:
            lay(changes, 2, memory("c"))
        monkeypatch.undo()
        assert f"{tmp_path / name} cannot be written: No space left on device" == raised.value.message
        assert before == read_manifest(tmp_path)
        assert [] == list(tmp_path.glob(".*.jsonl.*"))
    with bounds(1):
        assert lay(changes, 2, memory("c")) is not None
    assert ["changes-000004.jsonl"] == changes_of(tmp_path)
    with open_dump(tmp_path) as dump:
        assert {"a": "likes rum", "c": "likes tea"} == texts(dump)


def test_a_dump_that_was_altered_is_not_folded(tmp_path: Path) -> None:
    with bounds(1):
        changes = begin_changes(tmp_path, [memory("a"), memory("b")])
        lay(changes, 1, memory("a", "likes rum"))
        file = tmp_path / "memories.jsonl"
        file.write_bytes(file.read_bytes().replace(b"likes tea", b"likes gin"))
        with pytest.raises(InputError, match=r"memories\.jsonl was altered"):
            lay(changes, 2, memory("c"))
