"""Remembers which configuration of Mem0 a dump was exported with, so that a verification can ask the same Mem0."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from spectron_migrate.files.atomic import read_json, write_json

FILE = "exported-with.json"
STANDARD_INPUT, DEFAULT = "-", "default"
"""Words that stand for a configuration, as `--mem0-config` takes them."""


def remember_config(dump: Path, config: str | None) -> None:
    """Note the configuration beside the dump: an absolute path, or `default`. None and standard input leave no note."""
    note = dump / FILE
    if config is None or config == STANDARD_INPUT:
        note.unlink(missing_ok=True)
        return
    write_json(note, {"mem0_config": config if config == DEFAULT else str(Path(config).absolute())})


def remembered_config(dumps: Iterable[Path]) -> str | None:
    """The configuration with which the first of the dumps that has a note was exported; None if none has one."""
    for dump in dumps:
        note = read_json(dump / FILE)
        if note is not None and isinstance(note.get("mem0_config"), str):
            return str(note["mem0_config"])
    return None
