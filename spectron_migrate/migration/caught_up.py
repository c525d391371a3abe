"""Which users may be read from Spectron, according to the ledger."""

from __future__ import annotations

from collections.abc import Mapping

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import cutover
from spectron_migrate.state.cutover_state import CutoverState
from spectron_migrate.state.routing import MOST_BEHIND


def owners_behind(ledger: Ledger, state: CutoverState, refused: Mapping[str, str]) -> set[str] | None:
    """The ids of all owners who must not be read from Spectron now; None if there are too many to list.

    Owners of a `refused` memory, and of one whose owners changed, stay behind until it is accepted at its gate.
    """
    short = state.not_accepted("refused", refused) + state.not_accepted("moved", cutover.moved_memories(ledger))
    return cutover.owners_behind(ledger, MOST_BEHIND, short)
