"""The state of a migration as `status` and its screens read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spectron_migrate.records import Json

if TYPE_CHECKING:
    from spectron_migrate.cli.runner import Invocation
    from spectron_migrate.ledger.read.status import MigrationStatus
    from spectron_migrate.ledger.runs import LastRun
    from spectron_migrate.ledger.shards import Found
    from spectron_migrate.state.store import StateStore
    from spectron_migrate.state.uncertain import Uncertainties

STATES = {
    "written": "written",
    "stored_not_extracted": "stored, not extracted",
    "planned": "remaining",
    "intended": "in doubt",
    "refused": "refused",
    "undecidable": "undecidable",
}
"""States of a fact, as the summary calls them."""


@dataclass(frozen=True)
class State:
    """All that `status` reads."""

    where: str
    """The directory or database."""
    shards: Found
    ledger: MigrationStatus
    half_erased: list[str]
    """Scopes whose erase was begun and not finished."""
    cutover: dict[str, Json] | None
    """None where no cutover was ever begun."""
    uncertain: Sequence[Uncertainties] = ()
    """What Spectron was unsure about after the last replay, of each shard."""


def has_any_ledger(store: StateStore) -> bool:
    from spectron_migrate.ledger import Ledger, shards

    return Ledger.exists(store) or bool(shards.counts_in(store))


def read_state(store: StateStore, cutover: dict[str, Json] | None) -> State:
    from spectron_migrate.ledger import Ledger, shards
    from spectron_migrate.ledger.read.erases import unfinished
    from spectron_migrate.ledger.read.status import read_status
    from spectron_migrate.state.uncertain import last_uncertainties

    found = shards.find(store)
    ledgers = [Ledger.open_for_reading(each) for each in found.folders]
    root = Ledger.open_for_reading(store) if found.sharded and Ledger.exists(store) else None
    parts = [path for path in found.folders if isinstance(path, Path)] if found.sharded else [store]
    state = State(
        str(store),
        found,
        read_status(ledgers, root),
        half_erased=[path for ledger in ledgers for path in unfinished(ledger)],
        cutover=cutover,
        uncertain=[each for one in parts if (each := last_uncertainties(one)) is not None],
    )
    for ledger in [*ledgers, *([root] if root else [])]:
        ledger.close()
    return state


def carry_last_replay(invocation: Invocation, last_runs: Iterable[LastRun]) -> None:
    """Name the dump and the pace of the last replay in the next command. `last_runs`: the last one of each ledger."""
    from spectron_migrate.cli.next_line import shown_path

    called = max((run for run in last_runs if run.called_with), key=lambda run: run.began, default=None)
    for name, value in called.called_with if called is not None else ():
        is_path = called is not None and name in ("--dump", "--mapping")
        invocation.carry(name, shown_path(Path(called.folder) / value) if called is not None and is_path else value)


def share_written(ledger: MigrationStatus) -> str:
    """How much of what is sent is in Spectron: what is skipped never will be."""
    return f"{100 * ledger.written // ledger.to_send} %" if ledger.to_send else "nothing to send"
