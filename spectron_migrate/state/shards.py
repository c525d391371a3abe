"""States that an earlier version began in shards: one ledger in each of several folders. `state copy` gathers them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from spectron_migrate.errors import InputError

_FOLDER = re.compile(r"shard-([0-9]+)-of-([0-9]+)")


def find_shards(state: Path) -> list[tuple[int, int]]:
    """For each shard's ledger in a state directory: how many shards there are, and its number among them, from 0."""
    return sorted(
        (int(match[2]), int(match[1]))
        for path in state.glob("shard-*-of-*/ledger.db")
        if (match := _FOLDER.fullmatch(path.parent.name))
    )


def shard_folder(state: Path, number: int, count: int) -> Path:
    """Where the ledger of a shard is."""
    return state / f"shard-{number}-of-{count}"


def refuse_shards(state: Path) -> None:
    """Raises InputError for a state in shards, because another ledger beside theirs would write everything twice."""
    whole = state.parent if _FOLDER.fullmatch(state.name) and (state / "ledger.db").exists() else state
    found = find_shards(whole)
    if found:
        raise InputError(
            f"the migration in {whole} was begun in {found[0][0]} shards, each with a ledger of its own",
            hint="gather them into one, and continue there: spectron-migrate state copy"
            f" {shlex.join((str(whole), f'{whole}-gathered'))}",
        )
