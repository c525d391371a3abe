"""What Spectron is unsure about after a replay: which memories, whose they are, and which texts contradict each other.

It is reported and never resolved: only the people whose memories they are can say which of two texts is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import receipts
from spectron_migrate.ledger.read.receipts import ReceiptRow
from spectron_migrate.ledger.read.scopes import selectors_covered
from spectron_migrate.mapping.labels import id_of
from spectron_migrate.records import Json
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.graph import Graph, Uncertainty
from spectron_migrate.state.uncertain import Uncertainties

TOO_OLD = "this Spectron does not list what it is unsure about (API before 0.3.0)"
_NOBODY = "(no user)"


async def read_uncertainties(api: SpectronApi, ledger: Ledger, key: str | None, *, now: str) -> Uncertainties:
    """The open uncertainties about memories of the ledger; `key` is the label that holds a memory's id.

    If the server does not answer, this is no failure of the replay: the reason is in `why`.
    """
    graph = Graph(api)
    count = unlabelled = 0
    by_user: Counter[str] = Counter()
    first: dict[str, Json] | None = None
    try:
        if not await graph.shows_labels():
            return Uncertainties(now, known=False, why=TOO_OLD)
        async for each in graph.uncertainties():
            memory = _memory_of(ledger, each.labels, key)
            if memory is None:
                unlabelled += _is_in_our_scopes(ledger, each)
                continue
            count += 1
            by_user[str(memory.owners.get("user_id") or next(iter(memory.owners.values()), _NOBODY))] += 1
            if first is None:
                first = await _described(graph, ledger, each, memory, key)
    except MigrateError as error:
        return Uncertainties(now, known=False, why=error.message)
    return Uncertainties(now, True, "", count, unlabelled, dict(by_user.most_common(100)), first)


async def _described(
    graph: Graph, ledger: Ledger, each: Uncertainty, memory: ReceiptRow, key: str | None
) -> dict[str, Json]:
    """The uncertainty, with the memory's text and the texts of memories whose value is currently valid."""
    others: dict[str, Json] = {}
    if each.entity and each.key:
        async for value in graph.attributes(entity=each.entity, key=each.key):
            other = _memory_of(ledger, value.labels or (), key)
            if value.scopes == each.scopes and (other is None or other.mem0_id != memory.mem0_id):
                name = other.mem0_id if other is not None else None
                others[value.id] = {"memory": name, "value": value.value, "text": other.text if other else None}
    return {
        "id": each.id,
        "about": each.about,
        "reason": each.reason,
        "memory": memory.mem0_id,
        "text": memory.text,
        "others": list(others.values())[:10],
    }


def _memory_of(ledger: Ledger, labels: Sequence[str], key: str | None) -> ReceiptRow | None:
    for mem0_id in id_of(labels, key) if key is not None else ():
        found = receipts.newest_receipt(ledger, mem0_id)
        if found is not None:
            return found
    return None


def _is_in_our_scopes(ledger: Ledger, each: Uncertainty) -> bool:
    return each.scopes is not None and bool(selectors_covered(ledger, each.scopes))
