"""What must be true before the first byte is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spectron_migrate.errors import KeyRefused, NotLegal, WrongLedger
from spectron_migrate.ledger import Ledger, sending, views
from spectron_migrate.spectron.api import Me, SpectronApi, UnknownSession

NAMED = 10
"""How many of many a message names."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What the server says of itself before anything is written to it."""

    me: Me
    same_principal: bool


async def check(ledger: Ledger, api: SpectronApi, *, plan: int, into_existing: bool, now: str) -> Ground:
    """The right server, a key that may do it, and scopes that are ours.

    Raises KeyRefused, NotLegal for scopes that others made, WrongLedger for a server that is not the one
    this ledger wrote to. Listings are kept in the ledger before the first scope is registered.
    """
    me = await api.me()
    await _same_server(ledger, api)
    paths = views.target_paths(ledger, plan)
    _granted(me, paths)
    await _own_scopes(ledger, api, paths, into_existing=into_existing, now=now)
    migration = ledger.migration()
    assert migration is not None  # noqa: S101 - claimed before planning
    same = migration.principal in (None, me.principal)
    with ledger.transaction() as db:
        db.execute("UPDATE migration SET endpoint = ?", (api.endpoint,))
        if same or not views.in_doubt(ledger):
            db.execute("UPDATE migration SET principal = ?", (me.principal,))
    return Ground(me, same)


async def _same_server(ledger: Ledger, api: SpectronApi) -> None:
    """A server where our confirmed turns are not listed is another one: going on would write everything twice."""
    known = views.session_with_receipts(ledger)
    if known is None:
        return
    server_id, claimed = known
    try:
        listed = {turn.id for turn in await api.turns(server_id)}
    except UnknownSession:
        listed = set()
    if claimed <= listed:
        return
    raise WrongLedger(
        f"Spectron at {api.endpoint}, context {api.context}, does not have what the ledger {ledger.path} wrote:"
        f" {len(claimed - listed)} of {len(claimed)} turns of session {server_id} are not listed",
        hint="is the endpoint right? a fresh server needs a --state directory of its own",
    )


def _granted(me: Me, paths: Sequence[str]) -> None:
    for verb in ("memory:read", "memory:write"):
        lacking = [path for path in paths if not me.may(verb, path)]
        if lacking:
            raise KeyRefused(
                f"the key of {me.principal} lacks {verb} for {len(lacking)} scopes: {_named(lacking)}",
                hint="reading is needed too: without it nothing that is in doubt can be decided",
            )


async def _own_scopes(ledger: Ledger, api: SpectronApi, paths: Sequence[str], *, into_existing: bool, now: str) -> None:
    migration = ledger.migration()
    if migration is not None and migration.scopes_listed_at is None:
        listed = [node.path for node in await api.scopes()]
        with ledger.transaction():
            sending.keep_scope_listing(ledger, listed, now)
    foreign = views.foreign_paths(ledger, paths)
    if foreign and not into_existing:
        raise NotLegal(
            f"{len(foreign)} scopes were there before this migration began: {_named(foreign)}",
            hint="a lost ledger would write everything twice; --into-existing insists that they are to be shared",
        )


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more
