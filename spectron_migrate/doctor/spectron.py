"""Checks Spectron: whether it answers, what the key may do, its clock, and whether the scopes are free."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

from spectron_migrate.doctor.check import Check, failed, first_of
from spectron_migrate.errors import ExitCode, KeyRefused, MigrateError
from spectron_migrate.records import counted, parse_time
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.grants import Me
from spectron_migrate.spectron.rows import ScopeNode

MOST_SKEW_S = 60.0
NEEDED = ("memory:read", "memory:write", "scope:create")
MOST_NOT_EXTRACTED = 0.5
"""If no facts were extracted from this share of the memories, extraction is probably off."""


async def check_spectron(api: SpectronApi, paths: Collection[str], *, ours: bool, now: datetime) -> list[Check]:
    """Ask Spectron who the key is, what it may do and which scopes exist.

    `paths`: scopes that a replay writes to; `ours`: whether there is a ledger, so that existing scopes are expected.
    """
    where = f"{api.endpoint}, context {api.context}"
    try:
        await api.health()
        me = await api.me()
    except KeyRefused as error:
        hint = "check the key, and the context's id (not its name): an unknown context is answered like a wrong key"
        return [Check("spectron", "fail", error.message, hint, error.exit_code)]
    except MigrateError as error:
        return [failed("spectron", error)]
    found = [
        Check("spectron", "ok", f"{where} answers; the key belongs to {me.principal or 'a principal without a name'}")
    ]
    found += _check_clock(me, now)
    found += check_grants(me, paths)
    try:
        found += check_scopes(await api.scopes(), paths, ours=ours)
    except MigrateError as error:
        found.append(failed("scopes", error))
    return found


def check_grants(me: Me, paths: Collection[str]) -> Iterator[Check]:
    """Whether the key has the grants that a replay needs; without `paths`, whether it has them anywhere (pure)."""
    if not paths:
        anywhere = [verb for verb in NEEDED if not me.grants.get(verb)]
        if anywhere:
            yield Check("grants", "fail", f"the key has no grant for {' and '.join(anywhere)}", _GRANT, ExitCode.KEY)
        else:
            yield Check(
                "grants", "unknown", "the scopes to write to are not known before an export", "spectron-migrate export"
            )
        return
    lacking = {verb: sorted(me.ungranted(verb, paths)) for verb in NEEDED}
    for verb, where in lacking.items():
        if where:
            finding = f"the key lacks {verb} for {len(where)} of {counted(len(paths), 'scope')}: {first_of(where)}"
            yield Check("grants", "fail", finding, _GRANT, ExitCode.KEY)
    if not any(lacking.values()):
        yield Check("grants", "ok", f"the key may read, write and create {counted(len(paths), 'scope')}")


_GRANT = "grant it on these scopes, or on a parent with `/*`; without reading, writes in doubt cannot be decided"


def check_scopes(listed: Collection[ScopeNode], paths: Collection[str], *, ours: bool) -> Iterator[Check]:
    """Whether the scopes of a replay are free, or those of the ledger (pure)."""
    dead = sorted({node.path for node in listed if node.tombstoned} & set(paths))
    if dead:
        finding = f"{counted(len(dead), 'scope was', 'scopes were')} deleted in Spectron: {first_of(dead)}"
        yield Check("scopes", "fail", finding, "map these memories to other scopes", ExitCode.NOT_LEGAL)
    there = sorted({node.path for node in listed} & set(paths))
    if there and not ours:
        finding = (
            f"{counted(len(there), 'scope exists', 'scopes exist')} already, and there is no ledger: {first_of(there)}"
        )
        hint = "point --state to the ledger; replay --into-existing writes there all the same, and may write twice"
        yield Check("scopes", "fail", finding, hint, ExitCode.NOT_LEGAL)
    elif not dead:
        yield Check(
            "scopes", "ok", f"{counted(len(listed), 'scope is', 'scopes are')} registered, none of them in the way"
        )


def check_extraction(states: dict[str, int]) -> Check:
    """Whether Spectron extracts facts from what was written. `states`: facts of the ledger by state (pure)."""
    bare, made = states.get("stored_not_extracted", 0), states.get("written", 0)
    if not bare + made:
        finding = "whether the context extracts facts is not known before something is written"
        return Check("extraction", "unknown", finding, "doctor --probe tries it and erases what it wrote")
    if bare / (bare + made) >= MOST_NOT_EXTRACTED:
        finding = f"no facts were extracted from {bare:,} of {counted(bare + made, 'memory')}"
        hint = "llm_extraction_enabled is off by default in a context; an administrator of your Spectron turns it on"
        return Check("extraction", "warn", finding, hint)
    return Check("extraction", "ok", f"facts were extracted from {made:,} of {counted(bare + made, 'memory')}")


def _check_clock(me: Me, now: datetime) -> Iterator[Check]:
    if me.server_now is None:
        yield Check("clock", "unknown", "the server does not report its time")
        return
    apart = (parse_time(me.server_now) - now).total_seconds()
    if abs(apart) > MOST_SKEW_S:
        finding = f"this machine's clock is {abs(apart):.0f} s {'behind' if apart > 0 else 'ahead of'} the server's"
        yield Check("clock", "warn", finding, "set it: changes since an export are found by time")
    else:
        yield Check("clock", "ok", "this machine's clock agrees with the server's")
