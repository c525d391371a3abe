"""Does the newest fact stand: the chains of values that the server keeps are laid beside the times of the memories.

A receipt names the attributes that came out of a memory, and the server tells which value took whose place. So a
value that a newer memory made must never have given way to one that an older memory made. What no receipt names
says nothing here.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from spectron_migrate.errors import MigrateError
from spectron_migrate.records import Json, Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.parallel import for_each
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace

KEYS = 200
"""Keys of one entity that are looked at."""
_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class EntityValue:
    """What was known about an entity under one key for a while."""

    id: str
    key: str
    value: str
    superseded_by: str | None
    live: bool
    category: str = ""
    known_at: str = ""
    """Its `createdAt`, which is the time it was known, backdated ones included."""


@dataclass(frozen=True, slots=True)
class Supersession:
    """A memory's fact gave way to another memory's."""

    by: StoredMemory
    key: str
    old: str
    new: str

    def rightly(self, fact: StoredMemory) -> bool:
        """Whether what took its place is not older."""
        return (self.by.text_at or "") >= (fact.text_at or "")


class EntityHistories:
    """The server's chains of values, each asked for once."""

    def __init__(self, work: Workspace, api: SpectronApi) -> None:
        """Nothing is asked yet."""
        self._work = work
        self._api = api
        self._listing = asyncio.Lock()
        self.unavailable: str | None = None
        """Why the server does not tell its entities, where it does not."""
        self._chains: dict[str, asyncio.Task[list[EntityValue]]] = {}
        self._cut: set[str] = set()

    async def of(self, entity: str) -> list[EntityValue]:
        """Every value, of every key, that the entity has or had; empty for an id that is no entity's."""
        if entity not in self._chains:
            while len(self._chains) >= _REMEMBERED:
                self._chains.pop(next(iter(self._chains)))
            self._chains[entity] = asyncio.create_task(self._ask(entity))
        return await self._chains[entity]

    async def made_of(self, fact: StoredMemory) -> tuple[list[EntityValue], bool]:
        """The values of the entities that the memory names, and whether any value made of it is surely gone.

        The server lists the keys that have a current value, so one that expired without a successor is not told.
        """
        values = [value for entity in fact.ids for value in await self.of(entity)]
        told = {value.id for value in values}
        entities = {one for one in fact.ids if self._work.entity(one) is not None}
        gone = set(fact.ids) - entities - told
        return values, bool(gone and entities) and self.unavailable is None and not entities & self._cut

    async def superseding(self, fact: StoredMemory) -> Supersession | None:
        """The memory of the same scope whose fact took the place of this one's; None where all of its stand."""
        mine = set(fact.ids)
        for entity in fact.ids:
            values = {value.id: value for value in await self.of(entity)}
            for value in values.values():
                after = values.get(value.superseded_by or "")
                if value.id not in mine or after is None or after.id in mine:
                    continue
                others = [one for one in self._work.owners_of(after.id) if one.scope == fact.scope]
                if others:
                    return Supersession(min(others, key=_time), value.key, value.value, after.value)
        return None

    async def _ask(self, entity: str) -> list[EntityValue]:
        async with self._listing:
            await self._name_all()
        named = self._work.entity(entity) if self.unavailable is None else None
        if named is None:
            return []
        keys = await self._api.entity_keys(*named)
        if len(keys) > KEYS:
            self._cut.add(entity)
        values: list[EntityValue] = []
        for key in keys[:KEYS]:
            values += [_value(row, key) for row in await self._api.entity_history(*named, key)]
        return values

    async def _name_all(self) -> None:
        """Receipts name entities by id, the server's chains are asked for by type and name."""
        if self.unavailable or self._work.is_done("supersession", "entities"):
            return
        try:
            async for one in self._api.entities():
                self._work.name_entity(one.id, one.type, one.name)
        except MigrateError as error:
            await self._api.me()  # a server that is gone altogether says so here
            self.unavailable = error.message
        else:
            self._work.keep("supersession", "entities", ())


async def check_supersession(
    work: Workspace, histories: EntityHistories, *, sample: int, in_flight: int, reporter: Reporter
) -> None:
    """Look at the chains of the entities that sampled memories name."""
    reporter.stage("supersession")

    async def check(fact: StoredMemory) -> None:
        for entity in fact.ids:
            if not work.is_done("supersession", entity):
                values = await histories.of(entity)
                if histories.unavailable is None and not work.is_done(
                    "supersession", entity
                ):  # another memory that names it was quicker
                    work.keep("supersession", entity, wrong_order(values, work.owners_of))
        reporter.advance(1)

    await for_each(list(work.drawn("infer = 'full' AND ids != '[]'", sample)), check, in_flight=in_flight)


def wrong_order(values: Sequence[EntityValue], owners_of: Callable[[str], Sequence[StoredMemory]]) -> list[Finding]:
    """Values of an entity that gave way to an older memory's; the named memory is the newer one."""
    found: dict[str, Finding] = {}
    for after, older, before, newer in _pairs(values, owners_of):
        texts = {"newer": newer.text, "older": older.text, "stands": after.value, "gave_way": before.value}
        reason = f"its fact of {newer.text_at} gave way to that of memory {older.mem0_id} of {older.text_at}"
        found.setdefault(newer.mem0_id, Finding("superseded_wrongly", newer.mem0_id, reason, _where(newer), texts))
    return list(found.values())


def _pairs(
    values: Sequence[EntityValue], owners_of: Callable[[str], Sequence[StoredMemory]]
) -> Iterable[tuple[EntityValue, StoredMemory, EntityValue, StoredMemory]]:
    """What stands though it is older, and what gave way to it: by the chain's links, and by what is live."""
    by_scope: dict[tuple[int, str], dict[str, tuple[EntityValue, list[StoredMemory]]]] = defaultdict(dict)
    for value in values:
        for owner in owners_of(value.id):
            if owner.text_at is not None:
                by_scope[owner.scope, value.key].setdefault(value.id, (value, []))[1].append(owner)
    for chain in by_scope.values():
        live = [(value, owners) for value, owners in chain.values() if value.live]
        for before, newer in chain.values():
            linked = chain.get(before.superseded_by or "")
            last = max(newer, key=_time)
            if linked is not None and _time(first := min(linked[1], key=_time)) < _time(last):
                yield linked[0], first, before, last
            elif not before.live and live:
                standing, owners = max(live, key=lambda one: max(map(_time, one[1])))
                youngest = max(owners, key=_time)
                if _time(youngest) < _time(last):
                    yield standing, youngest, before, last


def _value(row: dict[str, Json], key: str) -> EntityValue:
    return EntityValue(
        str(row.get("id", "")),
        str(row.get("key") or key),
        str(row.get("value", "")),
        str(row["supersededBy"]) if row.get("supersededBy") else None,
        row.get("validUntil") is None,
        str(row.get("memoryCategory") or ""),
        str(row.get("createdAt") or ""),
    )


def _time(fact: StoredMemory) -> str:
    return fact.text_at or ""


def _where(fact: StoredMemory) -> str:
    return " or ".join(" and ".join(clause) for clause in fact.selector)
