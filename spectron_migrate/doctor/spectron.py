"""Spectron: does it answer, does the key fit, may it do what a replay needs, and is its clock ours."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

from spectron_migrate.doctor.check import Check, failed, some
from spectron_migrate.errors import ExitCode, KeyRefused, MigrateError
from spectron_migrate.records import counted, parse_time
from spectron_migrate.spectron.api import ScopeNode, SpectronApi
from spectron_migrate.spectron.grants import Me

SKEW_S = 60.0
NEEDED = ("memory:read", "memory:write", "scope:create")
NOT_EXTRACTED = 0.5
"""From this share of memories on of which no fact was made, extraction is probably off."""


async def check_spectron(api: SpectronApi, paths: Collection[str], *, ours: bool, now: datetime) -> list[Check]:
    """Ask who the key is and what is there. `paths`: scopes to be written to; `ours`: there is a ledger about them."""
    where = f"{api.endpoint}, context {api.context}"
    try:
        await api.health()
        me = await api.me()
    except KeyRefused as error:
        hint = "check the key, and the context's id (not its name): an unknown context is answered like a wrong key"
        return [Check("spectron", "fail", error.message, hint, error.exit_code)]
    except MigrateError as error:
        return [failed("spectron", error)]
    found = [Check("spectron", "ok", f"{where} answers; the key is {me.principal or 'nobody it names'}")]
    found += _clock(me, now)
    found += grants(me, paths)
    try:
        found += scopes(await api.scopes(), paths, ours=ours)
    except MigrateError as error:
        found.append(failed("scopes", error))
    return found


def grants(me: Me, paths: Collection[str]) -> Iterator[Check]:
    """What the key may do where it is needed (pure)."""
    if not paths:
        anywhere = [verb for verb in NEEDED if not me.grants.get(verb)]
        if anywhere:
            yield Check("grants", "fail", f"the key has {' and '.join(anywhere)} nowhere", _GRANT, ExitCode.KEY)
        else:
            yield Check("grants", "unknown", "which scopes are written to is not known before an export", "export")
        return
    lacking = {verb: sorted(me.ungranted(verb, paths)) for verb in NEEDED}
    for verb, where in lacking.items():
        if where:
            said = f"the key lacks {verb} for {len(where)} of {counted(len(paths), 'scope')}: {some(where)}"
            yield Check("grants", "fail", said, _GRANT, ExitCode.KEY)
    if not any(lacking.values()):
        yield Check("grants", "ok", f"the key may read, write and create {counted(len(paths), 'scope')}")


_GRANT = "grant it there, or above with `/*`; reading is needed too, or nothing that is in doubt can be decided"


def scopes(listed: Collection[ScopeNode], paths: Collection[str], *, ours: bool) -> Iterator[Check]:
    """What is at those scopes already (pure)."""
    dead = sorted({node.path for node in listed if node.tombstoned} & set(paths))
    if dead:
        said = f"{counted(len(dead), 'scope was', 'scopes were')} deleted in Spectron: {some(dead)}"
        yield Check("scopes", "fail", said, "map these memories to other scopes", ExitCode.NOT_LEGAL)
    there = sorted({node.path for node in listed} & set(paths))
    if there and not ours:
        said = f"{counted(len(there), 'scope is', 'scopes are')} there already, and in no ledger of ours: {some(there)}"
        hint = "name the ledger with --state if it is lost; replay --into-existing insists, and may write twice"
        yield Check("scopes", "fail", said, hint, ExitCode.NOT_LEGAL)
    elif not dead:
        yield Check("scopes", "ok", f"{len(listed)} are registered, none in the way")


def extraction(states: dict[str, int]) -> Check:
    """Whether facts are made of what was written, by the ledger so far (pure)."""
    bare, made = states.get("stored_not_extracted", 0), states.get("written", 0)
    if not bare + made:
        said = "whether extraction is on in the context is not known before something is written"
        return Check("extraction", "unknown", said, "doctor --probe tries it, and erases it again")
    if bare / (bare + made) >= NOT_EXTRACTED:
        said = f"of {bare} of {bare + made} memories no fact was made"
        return Check("extraction", "warn", said, "llm_extraction_enabled is off by default in a context: switch it on")
    return Check("extraction", "ok", f"facts were made of {made} of {bare + made} memories")


def _clock(me: Me, now: datetime) -> Iterator[Check]:
    if me.server_now is None:
        yield Check("clock", "unknown", "the server does not say what time it is")
        return
    apart = (parse_time(me.server_now) - now).total_seconds()
    if abs(apart) > SKEW_S:
        said = f"this machine's clock is {abs(apart):.0f} s {'behind' if apart > 0 else 'ahead of'} the server's"
        yield Check("clock", "warn", said, "set it: what changed since an export is told by time")
    else:
        yield Check("clock", "ok", "this machine's clock is the server's")
