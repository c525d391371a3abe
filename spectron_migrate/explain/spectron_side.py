"""Reads what Spectron has of one memory now: turn, passages, facts, what superseded these, and what a search finds."""

from __future__ import annotations

from spectron_migrate.errors import MigrateError
from spectron_migrate.judge import plain
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import receipts
from spectron_migrate.ledger.read.story import VersionStory
from spectron_migrate.mapping.labels import id_of
from spectron_migrate.mapping.lens import Lens
from spectron_migrate.records import Hit, Json, same_text
from spectron_migrate.spectron.api import MAX_K, SpectronApi, UnknownSession
from spectron_migrate.spectron.graph import EntityValue, Graph

MOST_ENTITIES = 20_000
"""How many entities of the context are searched for those of the memory."""
QUERY_LETTERS = 300
SHOWN = 5
SOURCE = "spectron-migrate explain"


async def read_spectron(
    api: SpectronApi, ledger: Ledger | None, mem0_id: str, version: VersionStory, key: str | None
) -> dict[str, Json]:
    """Everything about one stored version; raises MigrateError if the server does not answer."""
    text = version.text or ""
    turn = await _turn(api, version)
    recall = await api.query(
        text[:QUERY_LETTERS],
        lens=version.selector,
        k=MAX_K,
        mode="bm25",
        include=("passages",),
        include_duplicates=True,
        source=SOURCE,
    )
    passages = [hit.text for hit in recall.hits if _is_of(hit, version)]
    values, unknown = await _facts(api, mem0_id, version, key)
    own = {value.id: value for value in values if _is_fact_of(value, mem0_id, version, key)}
    by_id = {value.id: value for value in values}
    superseded = []
    for value in own.values():
        newer = by_id.get(value.superseded_by or "")
        if newer is not None and newer.id not in own:
            superseded.append(
                {"key": value.key, "old": value.value, "new": newer.value, "memory": _memory_of(newer, ledger, key)}
            )
    return {
        "turn": turn,
        "passages": passages,
        "facts": [
            {"entity": value.entity, "key": value.key, "value": value.value, "live": value.live}
            for value in own.values()
        ],
        "superseded_by": superseded,
        "unknown": unknown,
    }


async def search_spectron(
    api: SpectronApi, ledger: Ledger | None, query: str, lens: Lens, mem0_id: str
) -> dict[str, Json]:
    """What an application's search for the memory's own words finds, and at which rank the memory is."""
    recall = await api.query(query[:QUERY_LETTERS], lens=lens.selector, k=MAX_K, source=SOURCE)
    named = [_owner_of(hit, ledger) for hit in recall.hits]
    rank = named.index(mem0_id) + 1 if mem0_id in named else None
    shown = [
        {"memory": memory, "text": hit.text} for hit, memory in zip(recall.hits[:SHOWN], named[:SHOWN], strict=True)
    ]
    return {"rank": rank, "hits": shown, "error": None}


async def _turn(api: SpectronApi, version: VersionStory) -> str:
    """`as sent`, `altered`, `missing`, or `unknown` if no receipt names a turn."""
    if version.session is None or version.turn is None:
        return "unknown"
    try:
        turns = {turn.id: turn.content for turn in await api.turns(version.session)}
    except UnknownSession:
        return "missing"
    if version.turn not in turns:
        return "missing"
    carried = version.message is not None
    return "as sent" if carried or same_text(turns[version.turn], version.text or "") else "altered"


async def _facts(
    api: SpectronApi, mem0_id: str, version: VersionStory, key: str | None
) -> tuple[list[EntityValue], str]:
    """The histories of the entities that the memory names, and what could not be looked up."""
    graph, wanted, named = Graph(api), set(version.made), set()
    try:
        labelled = key is not None and await graph.shows_labels()
        seen = 0
        async for entity in graph.entities():
            seen += 1
            if entity.id in wanted:
                named.add((entity.type, entity.name))
            if seen >= MOST_ENTITIES:
                break
        values: list[EntityValue] = []
        for type_, name in sorted(named):
            history = await graph.history(type_, name)
            values += history.values
    except MigrateError as error:
        return [], error.message
    if not labelled:
        return values, "no labels: facts are traced by the receipt alone, relations are not"
    return values, ""


def _is_fact_of(value: EntityValue, mem0_id: str, version: VersionStory, key: str | None) -> bool:
    labelled = key is not None and mem0_id in id_of(value.labels or (), key)
    return value.id in version.made or labelled


def _is_of(hit: Hit, version: VersionStory) -> bool:
    if hit.turn_id is not None and version.turn is not None:
        return hit.turn_id == version.turn
    own = {version.turn, version.chunk} - {None}
    return hit.id in own or plain(hit.text) == plain(version.text or "")


def _memory_of(value: EntityValue, ledger: Ledger | None, key: str | None) -> str | None:
    named = id_of(value.labels or (), key) if key is not None else []
    return named[0] if named else _by_receipt(value.id, ledger)


def _owner_of(hit: Hit, ledger: Ledger | None) -> str | None:
    return (_by_receipt(hit.turn_id, ledger) if hit.turn_id else None) or _by_receipt(hit.id, ledger)


def _by_receipt(row: str, ledger: Ledger | None) -> str | None:
    if ledger is None:
        return None
    facts = receipts.facts_made_into(ledger, [row]).get(row, ())
    return next((found.mem0_id for found in receipts.receipts_of(ledger, facts)), None)
