"""Directories for their owner alone."""

from __future__ import annotations

from pathlib import Path

from spectron_migrate.files.atomic import naming


def make_private_directory(folder: Path) -> None:
    """Make a directory that only its owner may enter and that git ignores; an existing one stays as it is.

    Raises OSError, which names the path, also if a file or a dangling link has this name.
    """
    if folder.is_dir():
        return
    folder.mkdir(mode=0o700, parents=True)
    with naming(folder):
        (folder / ".gitignore").write_text("*\n")
