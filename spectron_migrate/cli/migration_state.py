"""The state of a migration as `status` and its screens read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from spectron_migrate.errors import MigrateError
from spectron_migrate.records import Json, counted

if TYPE_CHECKING:
    from spectron_migrate.cli.runner import Invocation
    from spectron_migrate.ledger import Ledger
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
class Unplanned:
    """A dump that is not planned completely: a replay had filters, or an export came after the last replay."""

    dump: Path
    memories: int
    missing: int
    """How many of its memories were never planned; 0 if the counts do not show it."""
    is_exact: bool
    """Whether it is exactly this many. It may be more, because the ledger may know memories that Mem0 no longer has."""

    def sentence(self) -> str:
        """What is not planned, in words."""
        from spectron_migrate.cli.next_line import shown_path

        dump = shown_path(self.dump)
        if not self.missing:
            return f"what changed in {dump} since it was planned last"
        at_least = "" if self.is_exact else "at least "
        return f"{at_least}{self.missing:,} of the {counted(self.memories, 'memory')} in {dump}"


@dataclass(frozen=True)
class State:
    """Everything that `status` reads."""

    where: str
    """The directory or database."""
    ledger: MigrationStatus
    half_erased: list[str]
    """Scopes whose erase was begun but not finished."""
    cutover: dict[str, Json] | None
    """None if no cutover ever began."""
    uncertain: Uncertainties | None = None
    """What Spectron was unsure about after the last replay."""
    rates: Mapping[tuple[str, int], float] = field(default_factory=dict)
    """Host and process of running replays -> memories per second."""
    unplanned: Unplanned | None = None
    """None if the whole dump is planned, or there is none."""
    has_dump: bool = True
    """Whether there is a dump that a replay could write."""


def read_state(store: StateStore, cutover: dict[str, Json] | None, *, dump: Path) -> State:
    """Read it. `dump`: that of the settings."""
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
            unplanned=find_unplanned(ledger, status.runs, dump),
            has_dump=dump.exists() or _reads_other_files(status.runs),
        )


def find_unplanned(ledger: Ledger, runs: Iterable[LastRun], dump: Path) -> Unplanned | None:
    """The part of a dump that no replay has planned, if any. None if the last of the `runs` read other files."""
    from spectron_migrate.dump.changes import read_manifest
    from spectron_migrate.ledger.read.plans import was_planned_whole
    from spectron_migrate.ledger.read.status import count_by_state

    migration = ledger.migration()
    if migration is None or _reads_other_files(runs):
        return None
    try:
        manifest = read_manifest(dump)
    except (MigrateError, OSError):  # a replay reports that itself
        return None
    if manifest is None or manifest.source.identity != migration.source:
        return None
    if was_planned_whole(ledger, manifest.digest, migration.mapping_digest):
        return None
    # A memory has one fact for each of its texts, so there are at most as many memories as facts.
    missing = max(0, manifest.memories - sum(count_by_state(ledger).values()))
    return Unplanned(dump, manifest.memories, missing, is_exact=manifest.generation <= 1)


def _reads_other_files(runs: Iterable[LastRun]) -> bool:
    """Whether the last replay was given a dump, or raw files, of its own."""
    return any(option[0] == "--dump" for run in runs for option in run.called_with)


def _rates(store: StateStore) -> dict[tuple[str, int], float]:
    """Memories per second, as the processes themselves report every few seconds."""
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
    """How much of what is to be sent is in Spectron. Skipped memories do not count."""
    return f"{100 * ledger.written // ledger.to_send} %" if ledger.to_send else "nothing to send"


def headline(state: State) -> str:
    """How many memories there are, and how many are written; of the dump, if not all of it is planned."""
    ledger = state.ledger
    known = sum(ledger.states.values())
    if state.unplanned is not None and state.unplanned.missing:
        all_ = counted(state.unplanned.memories, "memory")
        written = f", {share_written(ledger)} of these written" if ledger.to_send else ""
        return f"{known:,} of the dump's {all_} planned{written}"
    return f"{counted(known, 'memory')}{f', {share_written(ledger)} written' if ledger.to_send else ''}"


def counts_by_state(ledger: MigrationStatus, labels: Mapping[str, str] = STATES) -> dict[str, int]:
    """The counts under their labels. Stored but not extracted counts as written, too."""
    counts = {**ledger.states, "written": ledger.written}
    return {label: counts.get(name, 0) for name, label in labels.items() if name != "stored_not_extracted"}


def phase_text(cutover: Mapping[str, Json]) -> str:
    """The phase of the cutover, or that none is under way."""
    if cutover["phase"] != "mem0":
        return str(cutover["phase"])
    last = cutover["steps"][-1] if cutover["steps"] else None
    at = str(last["at"]) if last is not None and last["step"] == "abort" else ""
    return f"none{f' (aborted {at[:10]} {at[11:16]} UTC)' if at else ''}; everything is read from Mem0"
