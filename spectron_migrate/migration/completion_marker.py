"""How a state learns that the cutover of its migration is complete: from the marker that `cutover complete` left.

A new state, or one restored from a backup of an earlier phase, does not know that the cutover is complete, and
applications that use it would write to Mem0 alone. So every command that asks Spectron on behalf of such a state looks
for the marker first, and records the completion in the state's journal. See docs/protocol.md, A ledger that is lost,
restored or copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from spectron_migrate.delivery.marker import BEHIND_HINT, RunMarker, marker_of_completion
from spectron_migrate.errors import WrongLedger
from spectron_migrate.ledger import Ledger, markers
from spectron_migrate.ledger.cutover_note import note_cutover, refuse_lost_journal
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.scopes import listed_paths
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.journal import read_journal, record_step, whoami
from spectron_migrate.state.store import StateStore


@dataclass(frozen=True, slots=True)
class MarkedMigration:
    """A migration and its name in markers."""

    id: str
    name: str

    @classmethod
    def of_ledger(cls, ledger: Ledger) -> MarkedMigration | None:
        """The migration of a ledger; None before the first plan."""
        migration = ledger.migration()
        return None if migration is None else cls(migration.id, markers.marked_migration(ledger))

    @classmethod
    def of_state(cls, store: StateStore) -> MarkedMigration | None:
        """The migration of the state's ledger, else of its journal; None if neither names one."""
        if Ledger.exists(store):
            with Ledger.open_for_reading(store) as ledger:
                if (found := cls.of_ledger(ledger)) is not None:
                    return found
        migration = read_journal(store).state.migration
        return cls(migration, migration) if migration else None


async def learn_completion(
    store: StateStore,
    migration: MarkedMigration,
    api: SpectronApi,
    mapping: ScopeMapping,
    *,
    now: str,
    reporter: Reporter,
) -> str | None:
    """If Spectron has the marker and the journal does not know of it, record it there; returns the marker's scope.

    Raises Unreachable and KeyRefused, ScopeRefused for a key that may not list scopes.
    """
    if read_journal(store).state.phase == "complete":
        return None
    listed = [node.path for node in await api.scopes()]
    return _record_completion(store, migration, mapping, listed, now=now, reporter=reporter)


async def scopes_to_look_in(store: StateStore, api: SpectronApi, marker: RunMarker) -> list[str] | None:
    """The scopes in which a replay looks for the marker, once in each process; None if it need not look.

    Raises Unreachable and KeyRefused.
    """
    if marker.looked_for_completion or read_journal(store).state.phase == "complete":
        return None
    return await listed_paths(api)


def learn_in_replay(
    store: StateStore,
    ledger: Ledger,
    mapping: ScopeMapping,
    marker: RunMarker,
    listed: list[str] | None,
    *,
    adopts: bool,
    now: str,
    reporter: Reporter,
) -> None:
    """Like `learn_completion`, from a listing of scopes; then the ledger notes what the journal says.

    Raises WrongLedger if the state learned of a completion here, because then another ledger has written; an adoption
    goes on. Raises NotLegal if the ledger notes a completion that neither the journal nor Spectron shows.
    """
    migration = MarkedMigration.of_ledger(ledger)
    if migration is None:
        return
    found = None
    if listed is not None:
        found = _record_completion(store, migration, mapping, listed, now=now, reporter=reporter)
        marker.looked_for_completion = True
    cutover = read_journal(store).state
    refuse_lost_journal(ledger, ever_began=cutover.ever_began, after="complete")
    if cutover.ever_began:
        note_cutover(ledger, "complete" if cutover.phase == "complete" else "began", now)
    if found is not None and not adopts:
        raise WrongLedger(
            f"the cutover was completed with another ledger than the one at {ledger.path}: nothing was sent",
            hint=BEHIND_HINT,
        )


async def mark_completion(
    store: StateStore, api: SpectronApi, mapping: ScopeMapping, marker: RunMarker, *, reporter: Reporter
) -> None:
    """Leave the marker of a complete cutover below every prefix that lacks it. Raises Unreachable and KeyRefused."""
    migration = MarkedMigration.of_state(store)
    if migration is None:
        return
    for why in await marker.leave_completion(api, mapping, migration.name):
        reporter.warn(
            f"{why}: without this marker a new state, or one restored from an older backup, does not learn that the"
            " cutover is complete"
        )


def _record_completion(
    store: StateStore,
    migration: MarkedMigration,
    mapping: ScopeMapping,
    listed: list[str],
    *,
    now: str,
    reporter: Reporter,
) -> str | None:
    """Write the completion into the journal if its marker is listed; returns that."""
    state = read_journal(store).state
    found = marker_of_completion(mapping, migration.name, listed)
    if found is None or state.phase == "complete":
        return None
    complete = Step("complete", now, whoami(), f"Spectron has {found}", migration=migration.id)
    record_step(store, complete, decided_in=state)
    reporter.warn(
        f"the cutover of this migration is complete: Spectron has {found}, which {store.place} did not know. It is now"
        " recorded there, and applications that use this state write to Spectron"
    )
    return found
