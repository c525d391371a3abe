"""After `complete`: checks that the memories are where this process's mapping looks for them.

A mapping that was edited since the replay could write a user's memories to another scope, and search where none are. So
its digest is compared with the ledger's. If they differ, the whole ledger is read once, to find the filters that would
miss a memory. All other filters are served, because lookup tables may grow. Without a ledger the routing says which
rules were in force. Memories that adapters of this host have added since are compared as well, whatever the digests
say.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

from spectron_migrate.adapter.added_memories import AddedMemories
from spectron_migrate.adapter.catalogue import Catalogue, NoCatalogue
from spectron_migrate.adapter.mem0_calls import ENTITIES
from spectron_migrate.errors import InputError, MigrateError
from spectron_migrate.mapping import NotServable, ScopeMapping, covers
from spectron_migrate.records import Memory, Placement, Selector, selector_of
from spectron_migrate.state.routing import Routing

LOOK_EVERY_S = 1.0
"""How often the digests are compared."""
ADDED_EVERY_S = 30.0
"""How often one filter is compared with the memories added since `complete`."""
MOST = 50_000
"""How many filters and places are remembered."""

_log = logging.getLogger("spectron_migrate.adapter")

Filter = frozenset[tuple[str, str]]
"""Ids that a search may filter by. A run is left out if there are other ids, because it does not change the lens."""


class OtherMapping(InputError):
    """These memories were written with another mapping, and this one does not look where they are."""


class MappingCheck:
    """One per adapter; safe to use from several threads."""

    def __init__(
        self,
        mapping: ScopeMapping,
        catalogue: Catalogue,
        added: AddedMemories,
        routing: Callable[[], Routing],
        *,
        clock: Callable[[], float],
    ) -> None:
        """Reads nothing yet. `clock`: monotonic seconds."""
        self._mapping = mapping
        self._digest = mapping.digest
        self._catalogue = catalogue
        self._added = added
        self._routing = routing
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._compared: str | None = None
        """The ledger's mapping digest when the ledger was read."""
        self._missed: frozenset[Filter] = frozenset()
        """Filters that miss a memory under this mapping."""
        self._other_rules = False
        """No ledger can be read, and the routing shows that other rules are in force."""
        self._warned = False
        self._good: dict[Filter, float] = {}
        """When a filter was last compared with the memories added since."""

    def refuse(self, ids: Mapping[str, str], *, writes: bool) -> None:
        """Raise OtherMapping if a search by these ids would miss a memory, or a write would go to another scope.

        If the mapping is not the one in force, the first call reads the whole ledger.
        """
        if self._clock() - self._looked_at >= LOOK_EVERY_S:
            with self._lock:
                if self._clock() - self._looked_at >= LOOK_EVERY_S:
                    self._compare()
                    self._looked_at = self._clock()
        filters = _filters_of_owner(ids) if writes else [_filter(ids)]
        if self._other_rules or any(each in self._missed or self._misses_added(each) for each in filters):
            raise OtherMapping(
                "nothing was written or searched: the mapping is not the one that these memories were written with,"
                " and looks for them elsewhere",
                hint="give the application the mapping.yaml and the lookup tables that replay used; tables may grow",
            )

    def forget_after_fork(self) -> None:
        """In a child process: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def _compare(self) -> None:
        try:
            in_force = self._catalogue.migration().mapping_digest
            self._other_rules = False
            if in_force == self._digest:
                self._missed = frozenset()
            elif in_force != self._compared:
                self._missed = self._find_missed()
            self._compared = in_force
        except NoCatalogue:
            if self._compared is None:
                self._compare_with_routing()

    def _compare_with_routing(self) -> None:
        routing = self._routing()
        self._other_rules = routing.rules_digest not in ("", self._mapping.rules_digest)
        if not self._other_rules and routing.mapping_digest not in ("", self._digest) and not self._warned:
            self._warned = True
            _log.warning(
                "lookup tables of the mapping are not those that the memories were written with; without the ledger"
                " nobody can say whether they only grew"
            )

    def _find_missed(self) -> frozenset[Filter]:
        _log.warning("the mapping is not the one that the memories were written with: looking for those it misses")
        missed: set[Filter] = set()
        seen: set[tuple[Filter, str]] = set()
        for record, selector in self._catalogue.places():
            row = json.loads(record)
            ids = {name: str(row[name]) for name in ENTITIES if row.get(name) is not None}
            if (key := (frozenset(ids.items()), selector)) in seen:
                continue
            found = self._filters_that_miss(ids, selector_of(selector))
            if found is not None:
                missed |= found
                seen = seen if len(seen) < MOST else set()
                seen.add(key)
            elif not self._writes_to(Memory.from_json(row), selector_of(selector)):
                missed |= set(_filters_of(ids))
        _log.warning("the mapping misses memories of %d filters", len(missed))
        return frozenset(missed)

    def _filters_that_miss(self, ids: Mapping[str, str], selector: Selector) -> set[Filter] | None:
        """Filters that match a memory with these ids but do not look where it is; None if none of them has a lens."""
        looks = {each: self._looks_there(each, selector) for each in _filters_of(ids)}
        if all(each is None for each in looks.values()):
            return None
        return {each for each, there in looks.items() if there is False}

    def _looks_there(self, each: Filter, selector: Selector) -> bool | None:
        try:
            return covers(self._mapping.lens(**dict(each)).selector, selector)
        except NotServable:
            return None

    def _writes_to(self, memory: Memory, selector: Selector) -> bool:
        placed = self._mapping.map_memory(memory)
        return isinstance(placed, Placement) and placed.selector == selector

    def _misses_added(self, each: Filter) -> bool:
        if not each or self._clock() - self._good.get(each, float("-inf")) < ADDED_EVERY_S:
            return False
        try:
            selectors = self._added.selectors_of(dict(each))
        except (OSError, sqlite3.Error, MigrateError) as error:
            # The ledger was compared anyway, and an unreadable file must not prevent writes to Spectron.
            _log.warning("memories added since the cutover cannot be compared with the mapping: %s", error)
            selectors = []
        if any(self._looks_there(each, selector) is False for selector in selectors):
            return True
        if len(self._good) >= MOST:
            self._good = {}
        self._good[each] = self._clock()
        return False


def _filter(ids: Mapping[str, str]) -> Filter:
    named = {name: value for name, value in ids.items() if name != "run_id"}
    return frozenset((named or ids).items())


def _filters_of(ids: Mapping[str, str]) -> Iterator[Filter]:
    """Every filter that matches a memory of these ids."""
    named = [(name, value) for name, value in ids.items() if name != "run_id"]
    for count in range(1, len(named) + 1):
        yield from map(frozenset, combinations(named, count))
    if "run_id" in ids:
        yield frozenset({("run_id", ids["run_id"])})


def _filters_of_owner(ids: Mapping[str, str]) -> list[Filter]:
    """Of these, the filters that name the owner: the user if there is one, else the agent, the run or the app."""
    owner = next(((name, ids[name]) for name in ENTITIES if name in ids), None)
    return [each for each in _filters_of(ids) if owner in each]
