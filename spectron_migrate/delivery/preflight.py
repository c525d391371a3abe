"""What must be true before the first byte is written."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from spectron_migrate.errors import KeyRefused, NotLegal, WrongLedger
from spectron_migrate.ledger import Ledger, sessions
from spectron_migrate.ledger.read import plans, receipts
from spectron_migrate.records import counted
from spectron_migrate.spectron.api import Me, SpectronApi, UnknownSession

NAMED = 10
"""How many of many a message names."""


class FirstListing(Protocol):
    """Gives the scopes that were there before this migration registered any."""

    def __call__(self, api: SpectronApi, *, now: str) -> Awaitable[Sequence[str]]: ...


async def check(
    ledger: Ledger,
    api: SpectronApi,
    *,
    plan: int,
    into_existing: bool,
    now: str,
    first_listing: FirstListing | None = None,
) -> Me:
    """The right server, a key that may do it, and scopes that are ours.

    `first_listing` gives the scopes that were there before any shard began; without shards they are listed here.

    Raises KeyRefused, NotLegal for scopes that others made, WrongLedger for a server that is not the one
    this ledger wrote to. Listings are kept in the ledger before the first scope is registered.
    """
    me = await api.me()
    await _same_server(ledger, api)
    paths = plans.target_paths(ledger, plan)
    _granted(me, paths)
    await _own_scopes(ledger, api, paths, into_existing=into_existing, now=now, listing=first_listing or _listed)
    with ledger.transaction():
        ledger.keep_server(api.endpoint, me.principal)
    return me


async def _same_server(ledger: Ledger, api: SpectronApi) -> None:
    """A server where our confirmed turns are not listed is another one: going on would write everything twice."""
    known = receipts.session_to_show(ledger)
    if known is None:
        return
    server_id, claimed = known
    try:
        lacking = claimed - {turn.id for turn in await api.turns(server_id)}
        said = f"{len(lacking):,} of {counted(len(claimed), 'turn')} of session {server_id} not listed"
    except UnknownSession as error:
        lacking, said = {server_id}, error.message
    if not lacking:
        return
    raise WrongLedger(
        f"Spectron at {api.endpoint}, context {api.context}, does not have what the ledger {ledger.path} wrote: {said}",
        hint="is the endpoint right? a fresh server needs a --state directory of its own",
    )


def _granted(me: Me, paths: Sequence[str]) -> None:
    for verb in ("memory:read", "memory:write"):
        lacking = [path for path in paths if not me.may(verb, path)]
        if lacking:
            raise KeyRefused(
                f"the key of {me.principal} lacks {verb} for {counted(len(lacking), 'scope')}: {_named(lacking)}",
                hint="reading is needed too: without it nothing that is in doubt can be decided",
            )


async def _listed(api: SpectronApi, *, now: str) -> list[str]:
    return [node.path for node in await api.scopes()]


async def _own_scopes(
    ledger: Ledger, api: SpectronApi, paths: Sequence[str], *, into_existing: bool, now: str, listing: FirstListing
) -> None:
    migration = ledger.migration()
    if migration is not None and migration.scopes_listed_at is None:
        listed = await listing(api, now=now)
        with ledger.transaction():
            sessions.keep_scope_listing(ledger, listed, now)
    foreign = plans.foreign_paths(ledger, paths)
    if foreign and not into_existing:
        raise NotLegal(
            f"{counted(len(foreign), 'scope was', 'scopes were')} there before this migration began: {_named(foreign)}",
            hint="a lost ledger would write everything twice; --into-existing insists that they are to be shared",
        )


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more
