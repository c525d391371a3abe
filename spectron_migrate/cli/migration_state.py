"""The state of a migration as `status` and its screens read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from spectron_migrate.records import Json

if TYPE_CHECKING:
    from spectron_migrate.cli.runner import Invocation
    from spectron_migrate.ledger.read.status import MigrationStatus
    from spectron_migrate.ledger.runs import LastRun
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
    ledger: MigrationStatus
    half_erased: list[str]
    """Scopes whose erase was begun and not finished."""
    cutover: dict[str, Json] | None
    """None where no cutover was ever begun."""
    uncertain: Uncertainties | None = None
    """What Spectron was unsure about after the last replay."""
    rates: Mapping[tuple[str, int], float] = field(default_factory=dict)
    """Host and process of replays at work -> memories per second."""


def read_state(store: StateStore, cutover: dict[str, Json] | None) -> State:
    from spectron_migrate.ledger import Ledger
    from spectron_migrate.ledger.read.erases import unfinished
    from spectron_migrate.ledger.read.status import read_status
    from spectron_migrate.state.uncertain import last_uncertainties

    with Ledger.open_for_reading(store) as ledger:
        status = read_status(ledger)
        return State(
            str(store),
            status,
            half_erased=list(unfinished(ledger)),
            cutover=cutover,
            uncertain=last_uncertainties(store),
            rates=_rates(store) if status.at_work else {},
        )


def _rates(store: StateStore) -> dict[tuple[str, int], float]:
    """As the processes say themselves, every few seconds."""
    from spectron_migrate.state.running import read_running

    running = read_running(store, now=datetime.now(UTC))
    rates = {(each.host, each.pid): each.progress.get("a_second") for each in running}
    return {process: float(rate) for process, rate in rates.items() if rate is not None}


def carry_last_replay(invocation: Invocation, last_runs: Iterable[LastRun]) -> None:
    """Name the dump and the pace of the last replay in the next command. `last_runs`: those that delivered together."""
    from spectron_migrate.cli.next_line import shown_path

    called = max((run for run in last_runs if run.called_with), key=lambda run: run.began, default=None)
    for name, value in called.called_with if called is not None else ():
        is_path = called is not None and name in ("--dump", "--mapping")
        invocation.carry(name, shown_path(Path(called.folder) / value) if called is not None and is_path else value)


def share_written(ledger: MigrationStatus) -> str:
    """How much of what is sent is in Spectron: what is skipped never will be."""
    return f"{100 * ledger.written // ledger.to_send} %" if ledger.to_send else "nothing to send"
