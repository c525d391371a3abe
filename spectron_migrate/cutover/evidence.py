"""What the gates judge by: gathered once, then judged by pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from spectron_migrate.dump import Manifest, read_manifest
from spectron_migrate.errors import Incomplete, InputError, KeyRefused, MigrateError
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import cutover
from spectron_migrate.ledger.read.cutover import Undecided
from spectron_migrate.migration.reconcile import Reconciled
from spectron_migrate.migration.reconcile import read_last_result as last_reconciled
from spectron_migrate.migration.rounds import open_ledgers
from spectron_migrate.records import digest, selector_of
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state import processes
from spectron_migrate.state.journal import CutoverState, read_journal
from spectron_migrate.state.routing import FILE as ROUTING_FILE
from spectron_migrate.state.routing import read_routing

REPORT = "dual-verify.json"
MOST_REPORT_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Report:
    """What a cutover needs to know of the newest dual-verify."""

    verdict: str
    migration: str
    mapping: str
    began: str
    ended: str
    leaks: int
    scan_began: str | None
    """When Mem0 was read for the dump that it judged by; None where that dump was never planned here."""
    whole: bool = True
    """Whether it is about everybody, not about some users alone."""

    @property
    def digest(self) -> str:
        """Tells one report from another, for who accepts it."""
        return digest(self.migration, self.mapping, self.began, self.ended, self.verdict)[:16]


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """What the ledgers say."""

    migration: str
    mapping: str
    left: Undecided
    refused: Mapping[str, str]
    will_not_expire: Mapping[str, str]
    moved: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Key:
    """What the key may do; `problem` where that could not be found out."""

    principal: str = ""
    lacking: tuple[str, ...] = ()
    """Grant and scope, in words."""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the gates look at, as of one moment."""

    state: CutoverState
    now: datetime
    max_lag_s: float
    max_age_s: float
    mapping: str
    """Digest of the mapping that the settings name."""
    dump: Manifest | None = None
    ledger: LedgerFacts | None = None
    missing: str | None = None
    """Why the ledgers are not whole."""
    as_of: str | None = None
    """What Mem0 held then is in Spectron, but for who is behind."""
    reconciled: Reconciled | None = None
    report: Report | None = None
    key: Key = field(default_factory=lambda: Key(problem="not asked"))
    calls: Mapping[str, int] | None = None
    """Calls of the application that Spectron cannot answer, of the last days; None where nobody counts."""


async def gather(
    folder: Path,
    dump: Path,
    *,
    api: SpectronApi | None,
    mapping: str,
    max_lag_s: float,
    max_age_s: float,
    now: datetime,
) -> Evidence:
    """Look at everything; what cannot be had is told in the evidence, not raised."""
    facts, missing, report, selectors = None, None, None, []
    try:
        with open_ledgers(folder) as ledgers:
            facts = _facts(ledgers)
            report = _report(folder / REPORT, ledgers)
            selectors = cutover.selectors_in_use(ledgers)
    except Incomplete as error:
        missing = error.message
    except InputError:
        pass  # no ledger yet: the gates say so
    try:
        routing = read_routing(folder / ROUTING_FILE)
    except ValueError:
        routing = None
    state, application = read_journal(folder).state, processes.read_processes(folder, now=now)
    current = routing is not None and routing.fence == state.fence
    return Evidence(
        state=state,
        now=now,
        max_lag_s=max_lag_s,
        max_age_s=max_age_s,
        mapping=mapping,
        dump=read_manifest(dump),
        ledger=facts,
        missing=missing,
        as_of=routing.as_of if routing is not None and current else None,
        reconciled=last_reconciled(folder),
        report=report,
        key=await _key(api, selectors),
        calls=application.calls if application.measured else None,
    )


def _facts(ledgers: Sequence[Ledger]) -> LedgerFacts | None:
    migration = ledgers[0].migration()
    if migration is None:
        return None
    return LedgerFacts(
        migration=migration.id,
        mapping=migration.mapping_digest,
        left=cutover.count_undecided(ledgers),
        refused=cutover.refused_memories(ledgers),
        will_not_expire=cutover.will_not_expire(ledgers),
        moved=cutover.moved_memories(ledgers),
    )


def _report(path: Path, ledgers: Sequence[Ledger]) -> Report | None:
    try:
        with path.open("rb") as file:
            told = json.loads(file.read(MOST_REPORT_BYTES))
        return Report(
            verdict=str(told["verdict"]),
            migration=str(told["migration"]),
            mapping=str(told.get("mapping")),
            began=str(told["began"]),
            ended=str(told["ended"]),
            leaks=int(told["measured"]["isolation"]["leaks"]),
            scan_began=cutover.scan_began(ledgers, str(told["dump"])),
            whole=not told["options"]["users"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def _key(api: SpectronApi | None, selectors: Sequence[str]) -> Key:
    if api is None:
        return Key(problem="no Spectron is set")
    try:
        me = await api.me()
    except KeyRefused as error:
        return Key(problem=error.message)
    except MigrateError as error:
        return Key(problem=f"could not be asked: {error.message}")
    paths = sorted({path for text in selectors for clause in selector_of(text) for path in clause})
    lacking = [f"{verb} {path}" for path in paths for verb in ("memory:read", "memory:write") if not me.may(verb, path)]
    return Key(me.principal, tuple(lacking))
