"""Directories for their owner alone."""

from __future__ import annotations

from pathlib import Path

from spectron_migrate.files.private import make_private_directory


def test_a_new_directory_is_private_and_ignored_by_git(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    make_private_directory(folder)
    assert 0o700 == folder.stat().st_mode & 0o777
    assert "*\n" == (folder / ".gitignore").read_text()


def test_an_existing_directory_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private_directory(tmp_path)
    assert 0o755 == tmp_path.stat().st_mode & 0o777
    assert [] == list(tmp_path.iterdir())
