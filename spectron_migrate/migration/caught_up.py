"""Which users may be read from Spectron, as far as the ledgers tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import cutover
from spectron_migrate.state.journal import CutoverState
from spectron_migrate.state.routing import MOST_BEHIND


def owners_behind(ledgers: Sequence[Ledger], state: CutoverState, refused: Mapping[str, str]) -> set[str] | None:
    """Every id of those who may not be read from Spectron now; None for too many to name.

    A `refused` memory and one that changed hands hold their owners until somebody accepts them at their gate.
    """
    short = state.not_accepted("refused", refused) + state.not_accepted("moved", cutover.moved_memories(ledgers))
    return cutover.owners_behind(ledgers, MOST_BEHIND, short)
