"""Checks that newer facts supersede older ones: compares the server's entity histories with the times of memories.

A receipt names the attributes extracted from a memory, and the server reports which value superseded which. So a value
from a newer memory must never be superseded by a value from an older one. Values that no receipt names are ignored.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from spectron_migrate.errors import MigrateError
from spectron_migrate.parallel import for_each
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.graph import EntityValue, Graph
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.stored_memory import StoredMemory, selector_text
from spectron_migrate.verify.workspace import Workspace

_CACHED = 256
"""How many entities' histories are kept."""


@dataclass(frozen=True, slots=True)
class Supersession:
    """A value of one memory was superseded by a value of another memory (`by`)."""

    by: StoredMemory
    key: str
    old: str
    new: str

    def is_right(self, fact: StoredMemory) -> bool:
        """Whether the superseding memory is not older than `fact`, the superseded one."""
        return (self.by.text_at or "") >= (fact.text_at or "")


class EntityHistories:
    """Entity histories as the server reports them; each is read once and cached."""

    def __init__(self, work: Workspace, api: SpectronApi) -> None:
        self._work = work
        self._api = api
        self._graph = Graph(api)
        self._listing = asyncio.Lock()
        self.unavailable: str | None = None
        """Why the server did not list its entities; None if it did."""
        self._histories: dict[str, asyncio.Task[list[EntityValue]]] = {}
        self._incomplete: set[str] = set()

    async def of(self, entity: str) -> list[EntityValue]:
        """Every value that any key of the entity has or had; empty if the id is not that of an entity."""
        if entity not in self._histories:
            while len(self._histories) >= _CACHED:
                self._histories.pop(next(iter(self._histories)))
            self._histories[entity] = asyncio.create_task(self._ask(entity))
        return await self._histories[entity]

    async def values_of(self, fact: StoredMemory) -> tuple[list[EntityValue], bool]:
        """All values of the entities that the memory names, and whether a value extracted from it has disappeared.

        Before 0.3.0 the server lists only keys with a current value, so it does not report a value that expired without
        a successor.
        """
        values = [value for entity in fact.ids for value in await self.of(entity)]
        entities = {row_id for row_id in fact.ids if self._work.entity(row_id) is not None}
        unlisted = set(fact.ids) - entities - {value.id for value in values}
        is_complete = self.unavailable is None and not entities & self._incomplete
        return values, bool(unlisted and entities) and is_complete

    async def superseding(self, fact: StoredMemory) -> Supersession | None:
        """How another memory of the scope superseded a value of this memory; None if none did."""
        own = self._work.traced_rows([fact.no])[fact.no].union(fact.ids)
        for entity in fact.ids:
            values = {value.id: value for value in await self.of(entity)}
            for value in values.values():
                successor = values.get(value.superseded_by or "")
                if value.id not in own or successor is None or successor.id in own:
                    continue
                sources = [source for source in self._work.owners_of(successor.id) if source.scope == fact.scope]
                if sources:
                    return Supersession(min(sources, key=_time), value.key, value.value, successor.value)
        return None

    async def _ask(self, entity: str) -> list[EntityValue]:
        async with self._listing:
            await self._name_all()
        named = self._work.entity(entity) if self.unavailable is None else None
        if named is None:
            return []
        history = await self._graph.history(*named)
        if not history.is_complete:
            self._incomplete.add(entity)
        return list(history.values)

    async def _name_all(self) -> None:
        """Learn type and name of every entity.

        Receipts name entities by id, but histories are read by type and name.
        """
        if self.unavailable or self._work.is_done("supersession", "entities"):
            return
        try:
            async for entity in self._graph.entities():
                self._work.name_entity(entity.id, entity.type, entity.name)
        except MigrateError as error:
            await self._api.me()  # raises if the whole server is unreachable
            self.unavailable = error.message
        else:
            self._work.keep("supersession", "entities", ())


async def check_supersession(
    work: Workspace, histories: EntityHistories, *, sample: int, in_flight: int, reporter: Reporter
) -> None:
    """Check the histories of the entities that a sample of memories names."""
    reporter.stage("supersession")

    async def check(fact: StoredMemory) -> None:
        for entity in fact.ids:
            if not work.is_done("supersession", entity):
                values = await histories.of(entity)
                # Check again, because another memory that names the entity may have finished it in the meantime.
                if histories.unavailable is None and not work.is_done("supersession", entity):
                    work.keep("supersession", entity, wrong_order(values, work.owners_of))
        reporter.advance(1)

    await for_each(list(work.drawn(sample, extracted=True)), check, in_flight=in_flight)


def wrong_order(values: Sequence[EntityValue], owners_of: Callable[[str], Sequence[StoredMemory]]) -> list[Finding]:
    """Findings for values of an entity that a value of an older memory superseded. They name the newer memory."""
    found: dict[str, Finding] = {}
    for current, older, replaced, newer in _inversions(values, owners_of):
        texts = {"newer": newer.text, "older": older.text, "stands": current.value, "gave_way": replaced.value}
        reason = f"its fact of {newer.text_at} was superseded by that of memory {older.mem0_id} of {older.text_at}"
        where = selector_text(newer.selector)
        found.setdefault(newer.mem0_id, Finding("superseded_wrongly", newer.mem0_id, reason, where, texts))
    return list(found.values())


def _inversions(
    values: Sequence[EntityValue], owners_of: Callable[[str], Sequence[StoredMemory]]
) -> Iterable[tuple[EntityValue, StoredMemory, EntityValue, StoredMemory]]:
    """(current value, its older memory, replaced value, its newer memory), by `supersededBy` and by live values."""
    by_scope: dict[tuple[int, str], dict[str, tuple[EntityValue, list[StoredMemory]]]] = defaultdict(dict)
    for value in values:
        for owner in owners_of(value.id):
            if owner.text_at is not None:
                by_scope[owner.scope, value.key].setdefault(value.id, (value, []))[1].append(owner)
    for history in by_scope.values():
        live = [(value, owners) for value, owners in history.values() if value.live]
        for replaced, owners in history.values():
            newest = max(owners, key=_time)
            successor = history.get(replaced.superseded_by or "")
            if successor is not None and _time(oldest := min(successor[1], key=_time)) < _time(newest):
                yield successor[0], oldest, replaced, newest
            elif not replaced.live and live:
                current, current_owners = max(live, key=lambda entry: max(map(_time, entry[1])))
                newest_live = max(current_owners, key=_time)
                if _time(newest_live) < _time(newest):
                    yield current, newest_live, replaced, newest


def _time(fact: StoredMemory) -> str:
    return fact.text_at or ""
