"""Checks before the first byte is written: the right server, a sufficient key, and scopes of our own."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from spectron_migrate.errors import NotLegal, WrongLedger
from spectron_migrate.ledger import Ledger, sessions
from spectron_migrate.ledger.read import adoption, plans, receipts
from spectron_migrate.records import counted, name_first
from spectron_migrate.spectron.api import SpectronApi, UnknownSession
from spectron_migrate.spectron.grants import Me, require_grant

SESSIONS_ASKED = 5
"""Sessions that may have ended before the server counts as another one."""


class ScopeListing(Protocol):
    """Lists the scopes that existed before this migration registered any."""

    def __call__(self, api: SpectronApi, *, now: str) -> Awaitable[Sequence[str]]: ...


async def check_server(
    ledger: Ledger,
    api: SpectronApi,
    *,
    plan: int,
    into_existing: bool,
    now: str,
    first_listing: ScopeListing | None = None,
) -> Me:
    """Check that the plan may be written to this server with this key; returns whose key it is.

    `first_listing`: the scopes that existed before any shard began; None lists them now. They are kept in the ledger
    before the first scope is registered. Raises KeyRefused, NotLegal for scopes that others made, WrongLedger for
    another server than the one this ledger wrote to.
    """
    _refuse_half_adopted(ledger)
    me = await api.me()
    await _check_same_server(ledger, api)
    paths = plans.target_paths(ledger, plan)
    for verb in ("memory:read", "memory:write"):
        require_grant(me, verb, paths, hint="a replay also reads: without it nothing in doubt can be decided")
    await _keep_first_listing(ledger, api, first_listing or _list_scopes, now=now)
    if not into_existing:
        _refuse_foreign_scopes(ledger, paths)
    with ledger.transaction():
        ledger.keep_server(api.endpoint, me.principal)
    return me


def _refuse_half_adopted(ledger: Ledger) -> None:
    """Until everything was looked for, what is planned may be on the server already."""
    if adoption.is_unfinished(ledger):
        raise WrongLedger(
            f"an adoption of the ledger at {ledger.path} was begun and not finished: what it has not looked for yet may"
            " be on the server",
            hint="run spectron-migrate replay --adopt again",
        )


async def _check_same_server(ledger: Ledger, api: SpectronApi) -> None:
    """A server that does not list our confirmed turns is another one: continuing would write everything twice.

    One session that it no longer knows may have ended; then another one must show its turns.
    """
    found = ""
    for server_id, claimed in receipts.sessions_to_show(ledger, SESSIONS_ASKED):
        try:
            listed = await api.turns(server_id, shows=lambda turns, claimed=claimed: claimed <= {t.id for t in turns})  # type: ignore[misc]
        except UnknownSession as error:
            found = found or error.message
            continue
        lacking = claimed - {turn.id for turn in listed}
        if not lacking:
            return
        found = f"{len(lacking):,} of {counted(len(claimed), 'turn')} of session {server_id} not listed"
        break
    if not found:
        return
    raise WrongLedger(
        f"Spectron at {api.endpoint}, context {api.context}, does not have what the ledger at {ledger.path} wrote:"
        f" {found}",
        hint="is the endpoint right? a fresh server needs a --state directory of its own; if this one was restored from"
        " a backup: spectron-migrate replay --adopt",
    )


async def _list_scopes(api: SpectronApi, *, now: str) -> list[str]:
    return [node.path for node in await api.scopes()]


async def _keep_first_listing(ledger: Ledger, api: SpectronApi, listing: ScopeListing, *, now: str) -> None:
    """Keep the scopes that existed before this migration registered any; only the first run lists them."""
    migration = ledger.migration()
    if migration is not None and migration.scopes_listed_at is None:
        listed = await listing(api, now=now)
        with ledger.transaction():
            sessions.keep_scope_listing(ledger, listed, now)


def _refuse_foreign_scopes(ledger: Ledger, paths: Sequence[str]) -> None:
    """Raises NotLegal where others made a scope that the plan writes to."""
    foreign = plans.foreign_paths(ledger, paths)
    if foreign:
        raise NotLegal(
            f"{counted(len(foreign), 'scope')} existed before this migration began: {name_first(foreign)}",
            hint="--into-existing writes to them all the same, and perhaps twice; if the ledger was lost, take over"
            " what is there: spectron-migrate replay --adopt",
        )
