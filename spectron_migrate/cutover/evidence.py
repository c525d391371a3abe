"""Gathers what the gates evaluate, once, from files, the ledger and Spectron.

The gates themselves are pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from spectron_migrate.dump import Manifest, read_manifest
from spectron_migrate.errors import InputError, KeyRefused, MigrateError
from spectron_migrate.ledger import Ledger, markers
from spectron_migrate.ledger.cutover_note import CutoverNote, cutover_note
from spectron_migrate.ledger.read import cutover as ledger_reads
from spectron_migrate.ledger.read.cutover import Undecided
from spectron_migrate.migration.reconcile import Reconciled, read_last_result
from spectron_migrate.records import digest, selector_of
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state import processes
from spectron_migrate.state.cutover_state import CutoverState
from spectron_migrate.state.following import why_undrained
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.routing import read_routing
from spectron_migrate.state.store import StateStore, store_at
from spectron_migrate.verify.reports.json_file import LAST_REPORT, MOST_HEADER, read_header


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """The fields of the newest `dual-verify.json` that a cutover needs."""

    verdict: str
    migration: str
    mapping: str
    """Digest of the mapping."""
    began: str
    ended: str
    leaks: int
    scan_began: str | None
    """When the scan of Mem0 on which it is based began; None if that dump was never planned into this ledger."""
    whole: bool = True
    """False if it was limited to some users."""

    @property
    def digest(self) -> str:
        """Identifies this report in an acceptance."""
        return digest(self.migration, self.mapping, self.began, self.ended, self.verdict)[:16]


@dataclass(frozen=True, slots=True)
class LedgerEvidence:
    """What the ledger shows.

    Each dictionary maps the id of a memory to the text that its gate shows about it; an acceptance holds for exactly
    this text.
    """

    migration: str
    mapping: str
    """Digest of the mapping that the ledger was planned with."""
    left: Undecided
    refused: Mapping[str, str]
    will_not_expire: Mapping[str, str]
    moved: Mapping[str, str] = field(default_factory=dict)
    without_marker: Mapping[str, str] = field(default_factory=dict)
    """Scopes below which the key may not create a run's marker, or may not list scopes, each with Spectron's reason."""
    cutover: CutoverNote | None = None
    """What the ledger notes about a cutover."""


@dataclass(frozen=True, slots=True)
class KeyGrants:
    """Whether the API key may read and write all scopes of the migration."""

    principal: str = ""
    lacking: tuple[str, ...] = ()
    """Missing grants, such as `memory:read user/alice`."""
    problem: str | None = None
    """Why the grants could not be read."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the gates evaluate, as of one moment. They read nothing else."""

    state: CutoverState
    now: datetime
    max_lag_s: float
    max_age_s: float
    mapping: str
    """Digest of the mapping in the settings."""
    unasked: bool = False
    """Whether Spectron could not be asked if a cutover was completed with another state."""
    dump: Manifest | None = None
    ledger: LedgerEvidence | None = None
    """None before the first plan."""
    undrained: str | None = None
    """Why the outbox is not drained; None while it is, or there is none."""
    as_of: str | None = None
    """Everything that Mem0 held at this time is in Spectron, except for users who are behind."""
    reconciled: Reconciled | None = None
    report: VerificationReport | None = None
    key: KeyGrants = field(default_factory=lambda: KeyGrants(problem="not asked"))
    calls: Mapping[str, int] | None = None
    """The application's recent calls that Spectron cannot answer, by name; None if no process counts them."""
    last_reads: Mapping[str, str] = field(default_factory=dict)
    """Host -> when an application there last read through the adapter or the routing."""
    lost: Mapping[str, str] = field(default_factory=dict)
    """Processes that stopped reporting without writing that they ended, with their last heartbeats."""
    soak_s: float = 0.0
    """How long all users must have been read from Spectron before `complete`."""


async def gather(
    store: Path | StateStore,
    dump: Path,
    *,
    api: SpectronApi | None,
    unasked: bool = False,
    mapping: str,
    max_lag_s: float,
    max_age_s: float,
    soak_s: float,
    now: datetime,
) -> Evidence:
    """Gather the evidence.

    If something cannot be read, that is recorded in it, not raised; only the journal must be readable.
    """
    facts, report, selectors = None, None, []
    try:
        with Ledger.open_for_reading(store) as ledger:
            facts = _ledger_evidence(ledger)
            report = _read_report(store_at(store), ledger)
            selectors = ledger_reads.selectors_in_use(ledger)
    except InputError:
        pass  # there is no ledger yet; the gates show that
    try:
        routing = read_routing(store)
    except ValueError:
        routing = None
    state, application = read_journal(store).state, processes.read_processes(store, now=now)
    is_of_this_cutover = routing is not None and routing.fence == state.fence
    return Evidence(
        state=state,
        now=now,
        max_lag_s=max_lag_s,
        max_age_s=max_age_s,
        mapping=mapping,
        unasked=unasked,
        dump=read_manifest(dump),
        ledger=facts,
        undrained=why_undrained(store) if state.catch_up == "outbox" else None,
        as_of=routing.as_of if routing is not None and is_of_this_cutover else None,
        reconciled=read_last_result(store),
        report=report,
        key=await _read_grants(api, selectors),
        calls=application.calls if application.calls_measured else None,
        last_reads=application.last_reads,
        lost=application.lost,
        soak_s=soak_s,
    )


def _ledger_evidence(ledger: Ledger) -> LedgerEvidence | None:
    migration = ledger.migration()
    if migration is None:
        return None
    return LedgerEvidence(
        migration=migration.id,
        mapping=migration.mapping_digest,
        left=ledger_reads.count_undecided(ledger),
        refused=ledger_reads.refused_memories(ledger),
        will_not_expire=ledger_reads.will_not_expire(ledger),
        moved=ledger_reads.moved_memories(ledger),
        without_marker={each or "all": why for each, why in markers.lacking(ledger).items()},
        cutover=cutover_note(ledger),
    )


def _read_report(store: StateStore, ledger: Ledger) -> VerificationReport | None:
    """The newest report; None if there is none or it cannot be read."""
    try:
        report = read_header(store.read(LAST_REPORT, most=MOST_HEADER) or b"")
        return VerificationReport(
            verdict=str(report["verdict"]),
            migration=str(report["migration"]),
            mapping=str(report.get("mapping")),
            began=str(report["began"]),
            ended=str(report["ended"]),
            leaks=int(report["measured"]["isolation"]["leaks"]),
            scan_began=ledger_reads.scan_began(ledger, str(report["dump"])),
            whole=not report["options"]["users"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def _read_grants(api: SpectronApi | None, selectors: Sequence[str]) -> KeyGrants:
    """Compare the key's grants with all scopes of these selectors (canonical JSON)."""
    if api is None:
        return KeyGrants(problem="the settings name no Spectron")
    try:
        me = await api.me()
    except KeyRefused as error:
        return KeyGrants(problem=error.message)
    except MigrateError as error:
        return KeyGrants(problem=f"Spectron could not be asked: {error.message}")
    paths = sorted({path for text in selectors for clause in selector_of(text) for path in clause})
    lacking = [
        f"{verb} {path}" for path in paths for verb in ("memory:read", "memory:write") if me.ungranted(verb, [path])
    ]
    return KeyGrants(me.principal, tuple(lacking))
