"""Files that appear as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.files.atomic import append_durably, read_json, replace_file, replacing, write_json


def fail_while_replacing(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"half of the new")
        raise RuntimeError


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "report"
    replace_file(path, b"old")
    with pytest.raises(RuntimeError):
        fail_while_replacing(path)
    assert b"old" == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_and_has_the_mode_that_was_asked_for(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "routing.json"
    replace_file(path, b"old")
    assert 0o600 == path.stat().st_mode & 0o777
    replace_file(path, b"new", durable=durable, mode=0o644)
    assert b"new" == path.read_bytes()
    assert 0o644 == path.stat().st_mode & 0o777


def test_an_append_replaces_everything_after_the_given_length(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    append_durably(path, b"one\n", after=0)
    path.write_bytes(b"one\ntorn line that is longer")
    append_durably(path, b"two\n", after=4)
    assert b"one\ntwo\n" == path.read_bytes()
    assert 0o600 == path.stat().st_mode & 0o777


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "follow.json"
    assert read_json(path) is None
    write_json(path, {"name": "Zoë", "count": 1})
    assert {"name": "Zoë", "count": 1} == read_json(path)
    path.write_bytes(b'{"name": ')
    assert read_json(path) is None
