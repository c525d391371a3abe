"""Large files of a dump are hashed once, and again as soon as they were touched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from spectron_migrate.dump import checksums, open_dump
from spectron_migrate.dump.manifest import MEMORIES
from spectron_migrate.errors import InputError
from tests.support.dumping import memory, scan


@pytest.fixture(autouse=True)
def small_files_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "KEEP_FROM", 1)
    monkeypatch.setattr(checksums, "_SETTLED_NS", 0)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    scan(tmp_path / "dump", [memory("m1", "tea")])
    return tmp_path / "dump"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read for their checksum."""
    seen: list[str] = []
    read = checksums.Checksums._hash

    def spy(self: checksums.Checksums, file: object, stamp: tuple[int, ...]) -> str:
        seen.append(str(getattr(file, "name", "")))
        return read(self, file, stamp)  # type: ignore[arg-type]

    monkeypatch.setattr(checksums.Checksums, "_hash", spy)
    return seen


def open_as_another_process(dump: Path) -> None:
    checksums._known.clear()
    open_dump(dump).close()


def test_an_untouched_file_is_hashed_once(dump: Path, hashed: list[str]) -> None:
    open_as_another_process(dump)
    open_as_another_process(dump)

    assert [str(dump / MEMORIES)] == hashed


def test_a_change_of_the_same_size_is_noticed_whatever_its_time(dump: Path) -> None:
    open_as_another_process(dump)
    file = dump / MEMORIES
    before = file.stat()
    file.write_bytes(file.read_bytes().replace(b"tea", b"rum"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(InputError, match="was altered"):
        open_as_another_process(dump)


def test_a_copy_is_hashed_again(dump: Path, tmp_path: Path, hashed: list[str]) -> None:
    open_as_another_process(dump)

    shutil.copytree(dump, tmp_path / "copy")
    open_as_another_process(tmp_path / "copy")

    assert [str(dump / MEMORIES), str(tmp_path / "copy" / MEMORIES)] == hashed


def test_a_file_that_was_just_written_is_not_trusted(
    dump: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "_SETTLED_NS", 10**12)

    open_as_another_process(dump)
    open_as_another_process(dump)

    assert 2 == len(hashed)


@pytest.mark.parametrize("kept", [b"", b"{", b"7", b'[["x"]]', b"[[]]"])
def test_a_damaged_note_is_ignored(dump: Path, kept: bytes, hashed: list[str]) -> None:
    (dump / checksums.NAME).write_bytes(kept)

    open_as_another_process(dump)

    assert [str(dump / MEMORIES)] == hashed
