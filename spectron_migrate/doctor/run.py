"""All checks, one after the other; what one of them needs and does not get is said, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from spectron_migrate.doctor.check import Check, Diagnosis, failed
from spectron_migrate.doctor.machine import check_machine
from spectron_migrate.doctor.mem0 import check_mem0
from spectron_migrate.doctor.memories import DumpSurvey, check_filters, check_memories, look
from spectron_migrate.doctor.spectron import check_spectron, extraction
from spectron_migrate.dump import open_dump
from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger.read import status
from spectron_migrate.ledger.shards import open_all
from spectron_migrate.mapping import ScopeMapping, load_mapping
from spectron_migrate.records import Reporter, format_time
from spectron_migrate.spectron.api import SpectronApi


async def run_doctor(
    *,
    mem0: Callable[[], Mapping[str, Any]] | None,
    mapping: Path | None,
    dump: Path,
    state: Path,
    api: Callable[[], SpectronApi],
    now: datetime,
    reporter: Reporter,
) -> Diagnosis:
    """Look at everything that a migration needs; nothing is written anywhere.

    `mem0` gives a section as the readers take it; it and `api` raise what is missing of the settings.
    """
    reporter.stage("this machine")
    checks = list(check_machine(state, dump))
    reporter.stage("Mem0")
    checks += _source(mem0, now)
    reporter.stage("mapping and dump")
    rules, said = _mapping(mapping)
    checks.append(said)
    seen = None
    if rules is not None:
        seen, found = _dump(dump, rules, format_time(now))
        checks += found
    reporter.stage("Spectron")
    states = _states(state)
    checks += await _service(api, seen.paths if seen else (), ours=bool(states), now=now)
    checks.append(extraction(states))
    return Diagnosis(tuple(checks))


def _source(mem0: Callable[[], Mapping[str, Any]] | None, now: datetime) -> list[Check]:
    try:
        return list(check_mem0(mem0() if mem0 is not None else None, version=_mem0_version(), now=now))
    except MigrateError as error:
        return [failed("mem0", error)]


def _mapping(path: Path | None) -> tuple[ScopeMapping | None, Check]:
    try:
        mapping = load_mapping(path)
    except MigrateError as error:
        return None, failed("mapping", error)
    if path is None:
        return mapping, Check("mapping", "ok", "the built-in one: user/…[/agent/…], else agent/…, app/…, run/…")
    return mapping, Check("mapping", "ok", f"{path}: {len(mapping.rules)} rules, no two ids can share a scope")


def _dump(path: Path, mapping: ScopeMapping, now: str) -> tuple[DumpSurvey | None, list[Check]]:
    if not path.exists():
        said = f"there is no dump in {path} yet, so memories and scopes are not known"
        return None, [Check("dump", "unknown", said, "spectron-migrate export, then doctor again")]
    try:
        with open_dump(path) as dump:
            seen = look(dump, mapping, now)
            return seen, [*check_memories(seen, dump), *check_filters(seen, mapping)]
    except MigrateError as error:
        return None, [failed("dump", error)]


async def _service(
    api: Callable[[], SpectronApi], paths: set[str] | tuple[()], *, ours: bool, now: datetime
) -> list[Check]:
    try:
        opened = api()
    except MigrateError as error:
        return [failed("spectron", error)]
    async with opened:
        return await check_spectron(opened, paths, ours=ours, now=now)


def _states(state: Path) -> dict[str, int]:
    """Facts by state in all ledgers; empty where there is none yet."""
    counted: dict[str, int] = {}
    try:
        ledgers = open_all(state)
    except MigrateError:  # there is none yet, or a shard is missing: status and replay say so
        return counted
    for ledger in ledgers:
        with ledger:
            for name, n in status.count_all(ledger).items():
                counted[name] = counted.get(name, 0) + n
    return counted


def _mem0_version() -> str | None:
    try:
        return version("mem0ai")
    except PackageNotFoundError:
        return None
