"""Runs all checks, one after the other. A check that cannot be made is reported, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.doctor.check import Check, Diagnosis, failed
from spectron_migrate.doctor.database import check_database
from spectron_migrate.doctor.machine import check_machine
from spectron_migrate.doctor.mem0 import check_mem0
from spectron_migrate.doctor.memories import DumpSurvey, check_filters, check_memories, survey_dump
from spectron_migrate.doctor.spectron import check_extraction, check_spectron
from spectron_migrate.dump import open_dump
from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import status
from spectron_migrate.mapping import ScopeMapping, load_mapping
from spectron_migrate.records import counted, format_time
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.store import StateStore, store_at


async def run_doctor(
    *,
    mem0: Callable[[], Mapping[str, Any]] | None,
    mapping: Path | None,
    dump: Path,
    state: Path | StateStore,
    api: Callable[[], SpectronApi],
    now: datetime,
    reporter: Reporter,
) -> Diagnosis:
    """Check everything that a migration needs. Writes nothing anywhere.

    `mem0` returns the section of the settings that names the source, None if there is none. `mem0` and `api` may
    raise MigrateError if settings are missing, which becomes a failed check.
    """
    reporter.stage("this machine")
    store = store_at(state)
    checks = list(check_machine(store.folder, dump))
    if isinstance(store.place, PostgresLocation):
        checks += check_database(store.place)
    reporter.stage("Mem0")
    checks += _check_source(mem0, now)
    reporter.stage("mapping and dump")
    rules, check = _check_mapping(mapping)
    checks.append(check)
    survey = None
    if rules is not None:
        survey, of_dump = _check_dump(dump, rules, format_time(now))
        checks += of_dump
    reporter.stage("Spectron")
    states = _count_states(state)
    checks += await _check_service(api, survey.paths if survey else (), ours=bool(states), now=now)
    checks.append(check_extraction(states))
    return Diagnosis(tuple(checks))


def _check_source(mem0: Callable[[], Mapping[str, Any]] | None, now: datetime) -> list[Check]:
    try:
        return list(check_mem0(mem0() if mem0 is not None else None, version=_mem0_version(), now=now))
    except MigrateError as error:
        return [failed("mem0", error)]


def _check_mapping(path: Path | None) -> tuple[ScopeMapping | None, Check]:
    try:
        mapping = load_mapping(path)
    except MigrateError as error:
        return None, failed("mapping", error)
    if path is None:
        return mapping, Check("mapping", "ok", "the default: user/…[/agent/…], else agent/…, app/…, run/…")
    return mapping, Check(
        "mapping", "ok", f"{path}: {counted(len(mapping.rules), 'rule')}, no two ids can share a scope"
    )


def _check_dump(path: Path, mapping: ScopeMapping, now: str) -> tuple[DumpSurvey | None, list[Check]]:
    if not path.exists():
        finding = f"there is no dump in {path} yet, so memories and scopes are not known"
        return None, [Check("dump", "unknown", finding, "spectron-migrate export, then doctor again")]
    try:
        with open_dump(path) as dump:
            survey = survey_dump(dump, mapping, now)
            return survey, [*check_memories(survey, dump), *check_filters(survey, mapping)]
    except MigrateError as error:
        return None, [failed("dump", error)]


async def _check_service(
    api: Callable[[], SpectronApi], paths: set[str] | tuple[()], *, ours: bool, now: datetime
) -> list[Check]:
    try:
        opened = api()
    except MigrateError as error:
        return [failed("spectron", error)]
    async with opened:
        return await check_spectron(opened, paths, ours=ours, now=now)


def _count_states(state: Path | StateStore) -> dict[str, int]:
    """Number of facts in each state; empty if there is no ledger yet."""
    try:
        with Ledger.open_for_reading(state) as ledger:
            return status.count_all(ledger)
    except MigrateError:
        return {}


def _mem0_version() -> str | None:
    try:
        return version("mem0ai")
    except PackageNotFoundError:
        return None
