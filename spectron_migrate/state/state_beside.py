"""The state in a database of an application that reads the routing from somewhere else: a file, or an address.

The routing may be old. So the journal of the state and its ledger are asked as well, in the background.
"""

from __future__ import annotations

from collections.abc import Callable

from spectron_migrate.state import journal
from spectron_migrate.state.cutover_state import CutoverState
from spectron_migrate.state.store import StateStore

LostJournal = Callable[[bool, str | None], str | None]
"""See `RoutingReader`."""


class StateBeside:
    """What the journal and the ledger of a state said when they last answered."""

    def __init__(self, store: StateStore) -> None:
        """Nothing is asked yet."""
        self._store = store
        self._stamp: object = None
        self.journal: CutoverState | None = None
        """None while it is empty."""
        self.lost: str | None = None
        """What the ledger knows of a cutover where the journal is empty."""
        self.problem: str | None = f"{store.describe(journal.FILE)}: not read yet"
        """Why there was no answer the last time."""
        self.known_until = float("-inf")
        """For how long its last answer counts."""

    def ask(self, lost_journal: LostJournal, *, knows_of_one: bool, until: float) -> None:
        """Ask over the network. `lost_journal`: see `RoutingReader`; `until`: for how long an answer counts."""
        try:
            stamp = self._store.version(journal.FILE)
            if stamp is None and not self._store.has_begun():
                raise LookupError("no migration has begun there")
            if stamp is None or stamp != self._stamp:
                state = journal.read_journal(self._store).state
                self.journal = state if state.epoch else None
            self.lost = lost_journal(knows_of_one, None) if self.journal is None else None
        except Exception as error:  # nothing that a network does may fail an application's read
            self.problem = f"{self._store.describe(journal.FILE)}: {error}"
            return
        self._stamp, self.problem, self.known_until = stamp, None, until
