"""Finds a `mapping.yaml` in a usual place that is not the one in force."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from spectron_migrate.errors import InputError
from spectron_migrate.mapping.load import load_mapping
from spectron_migrate.mapping.scope_mapping import ScopeMapping

FILE = "mapping.yaml"


def describe_unused(folders: Iterable[Path], in_force: ScopeMapping, used: Path | None) -> list[str]:
    """A sentence for each such file in these folders; `used`: the file in force, None for the built-in rules."""
    described = []
    for path in dict.fromkeys((folder / FILE).resolve() for folder in folders):
        try:
            differs = path.is_file() and load_mapping(path).digest != in_force.digest
        except InputError:
            differs = True
        if differs:
            described.append(f"{path} is not in force; in force: {used or 'the built-in rules'}")
    return described
