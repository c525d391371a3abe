"""Checks what must hold before a memory may be called missing: right ledger, right server, a key that may read."""

from __future__ import annotations

from spectron_migrate.dump import Dump
from spectron_migrate.dump.owners_seen import OwnersSeen
from spectron_migrate.errors import InputError, WrongLedger
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import memories, receipts
from spectron_migrate.records import Filters, selector_of
from spectron_migrate.spectron.api import MAX_K, SpectronApi, UnknownSession
from spectron_migrate.spectron.grants import require_grant
from spectron_migrate.verify.options import VerifyOptions
from spectron_migrate.verify.verdict import ACCEPTABLE


def check_options(options: VerifyOptions) -> None:
    """Raises InputError, naming every bad option."""
    problems = []
    if not 1 <= options.top_k <= MAX_K:
        problems.append(f"top_k is {options.top_k}: Spectron answers with 1 to {MAX_K} hits")
    if options.queries is None and options.sample < 1:
        problems.append(f"sample is {options.sample}: at least one query is needed")
    if options.queries is not None and not options.queries:
        problems.append("the queries are empty")
    if not 0 <= options.margin < 1:
        problems.append(f"margin is {options.margin}: it must be a share from 0 to 1, such as 0.02")
    if options.in_flight < 1:
        problems.append(f"in_flight is {options.in_flight}: it must be at least 1")
    problems += [
        f"the gate {name} cannot be accepted: only {', '.join(ACCEPTABLE)}"
        for name in sorted(options.accepted_gates - set(ACCEPTABLE))
    ]
    if problems:
        raise InputError.of_all(problems)


def check_ledger(ledger: Ledger, api: SpectronApi) -> None:
    """Raises InputError for a ledger without a migration, WrongLedger for a ledger of another context."""
    migration = ledger.migration()
    if migration is None:
        raise InputError(f"the ledger at {ledger.path} has no migration yet", hint="spectron-migrate replay")
    if migration.context != api.context:
        raise WrongLedger(
            f"the ledger at {ledger.path} belongs to context {migration.context}, not {api.context}",
            hint="is SPECTRON_CONTEXT right? each migration has its own --state directory",
        )


def check_filters(ledger: Ledger, dump: Dump | None, filters: Filters) -> None:
    """Raises InputError if nothing is known of the owners that the filters name."""
    if not filters or memories.knows_owners(ledger, filters):
        return
    if dump is None:
        raise OwnersSeen(filters).refusal(f"the ledger at {ledger.path}")
    seen = OwnersSeen(filters).look(dump.memories())
    if not seen.selects:
        raise seen.refusal(f"the dump in {dump.path}")


async def check_server(ledger: Ledger, api: SpectronApi) -> None:
    """Raises KeyRefused if the key may not read a scope, WrongLedger if the server never had our sessions."""
    me = await api.me()
    paths = {path for text in receipts.written_selectors(ledger) for path in _paths(text)}
    require_grant(
        me, "memory:read", sorted(paths), hint="verification needs memory:read on every scope that was written"
    )
    await _same_server(ledger, api)


async def _same_server(ledger: Ledger, api: SpectronApi) -> None:
    migration = ledger.migration()
    newest = receipts.newest_session(ledger)
    if migration is None or migration.endpoint in (None, api.endpoint) or newest is None:
        return
    try:
        listed = {turn.id for turn in await api.turns(newest)}
    except UnknownSession:
        listed = set()
    if not listed & receipts.claimed_turns(ledger, newest):
        raise WrongLedger(
            f"the ledger at {ledger.path} wrote to {migration.endpoint},"
            f" and {api.endpoint} has none of the turns of its newest session",
            hint="is the endpoint right?",
        )


def _paths(selector: str) -> list[str]:
    return [path for clause in selector_of(selector) for path in clause]
