"""The numbers that are exported, read from the state directory. What cannot be read is left out."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from spectron_migrate import __version__
from spectron_migrate.cutover.evidence import gather
from spectron_migrate.cutover.gates import evaluate_gates
from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read.status import count_by_state, count_in_doubt, count_late, count_pending
from spectron_migrate.records import parse_time
from spectron_migrate.settings import Settings
from spectron_migrate.state.following import is_followed
from spectron_migrate.state.journal import read_journal, routing_of
from spectron_migrate.state.late_writes import last_late_writes
from spectron_migrate.state.processes import ProcessesStatus, read_processes
from spectron_migrate.state.routing import Phase, Routing, read_routing
from spectron_migrate.state.store import StateStore

NOT_ASKED = frozenset({"key"})
"""Gates that need Spectron, which an export of metrics does not ask."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """All that is exported, as of one moment, except for the requests of this process."""

    states: Mapping[str, int] = field(default_factory=dict)
    """Facts by state."""
    late: int = 0
    pending: int = 0
    in_doubt: int = 0
    migration: str = ""
    context: str = ""
    version: str = __version__
    phase: Phase = "mem0"
    percent: float = 0.0
    is_followed: bool = False
    lag_s: float | None = None
    """Age of what Spectron is caught up with; None if it never was."""
    behind: float | None = None
    """Users whose changes are not all in Spectron; infinite: everybody. None if no cutover is under way."""
    gates: Mapping[str, str] = field(default_factory=dict)
    """Outcome of each gate, while a cutover is under way."""
    processes: ProcessesStatus = field(default_factory=ProcessesStatus)
    late_writes: int | None = None
    """Memories that the last reading of Mem0 after `complete` found newer there."""


def read_numbers(settings: Settings, store: Path | StateStore, mapping: str, *, now: datetime | None = None) -> Numbers:
    """Read them; `mapping`: digest of the mapping, for the gates."""
    now = now or datetime.now(UTC)
    numbers = _of_ledger(store)
    try:
        state = read_journal(store).state
        routing = _routing(store) or routing_of(state)
    except MigrateError:
        return numbers
    late_writes = last_late_writes(store) if state.phase == "complete" else None
    return replace(
        numbers,
        migration=numbers.migration or state.migration,
        phase=state.phase,
        percent=state.percent,
        is_followed=is_followed(store),
        lag_s=_lag_s(routing, now) if state.is_under_way else None,
        behind=_behind(routing, now) if state.is_under_way else None,
        gates=_gates(settings, store, mapping, now) if state.is_under_way else {},
        processes=read_processes(store, now=now),
        late_writes=late_writes.count if late_writes is not None else None,
    )


def _of_ledger(store: Path | StateStore) -> Numbers:
    try:
        with Ledger.open_for_reading(store) as ledger:
            row = ledger.migration()
            return Numbers(
                states=count_by_state(ledger),
                late=count_late(ledger),
                pending=count_pending(ledger),
                in_doubt=count_in_doubt(ledger),
                migration=row.id if row is not None else "",
                context=row.context if row is not None else "",
            )
    except (MigrateError, OSError, sqlite3.Error):
        return Numbers()


def _routing(store: Path | StateStore) -> Routing | None:
    try:
        return read_routing(store)
    except ValueError:
        return None


def _lag_s(routing: Routing, now: datetime) -> float | None:
    try:
        return max(0.0, (now - parse_time(routing.as_of)).total_seconds()) if routing.as_of else None
    except ValueError:
        return None


def _behind(routing: Routing, now: datetime) -> float:
    is_fresh = routing.fresh_until is None or now.timestamp() <= routing.fresh_until
    return float(len(routing.behind)) if routing.behind is not None and is_fresh else float("inf")


def _gates(settings: Settings, store: Path | StateStore, mapping: str, now: datetime) -> dict[str, str]:
    cutover = settings.cutover
    try:
        evidence = asyncio.run(
            gather(
                store,
                settings.dump,
                api=None,
                mapping=mapping,
                max_lag_s=cutover.max_lag_s,
                max_age_s=cutover.max_age_s,
                soak_s=cutover.soak_s,
                now=now,
            )
        )
    except (MigrateError, OSError, sqlite3.Error):
        return {}
    return {gate.name: gate.outcome for gate in evaluate_gates(evidence) if gate.name not in NOT_ASKED}
