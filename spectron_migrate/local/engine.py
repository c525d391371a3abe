"""What every call works with: the store of one context, settings, embedder, extractor, caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from spectron_migrate.local.auth import Caller, Keyring
from spectron_migrate.local.cache import AnswerCache
from spectron_migrate.local.embedding import Embedder
from spectron_migrate.local.errors import ApiError
from spectron_migrate.local.extract import Extractor
from spectron_migrate.local.grouped_writes import GroupedWrites
from spectron_migrate.local.idempotency import Idempotency
from spectron_migrate.local.rows import Region
from spectron_migrate.local.scopes import EVERYTHING, Selector, involves, readable
from spectron_migrate.local.storage import Store
from spectron_migrate.local.times import stamp

Api = Literal["0.0.0", "0.2.1", "0.3.0"]
API_VERSIONS: tuple[Api, ...] = ("0.0.0", "0.2.1", "0.3.0")
"""Generations of the published API, oldest first."""
NEWEST: Api = API_VERSIONS[-1]


def wall_clock() -> datetime:
    """The current time; tests pass another clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of one server."""

    context: str
    api: Api = NEWEST
    extraction: bool = True
    """The Context's `llm_extraction_enabled`: without it `infer: full` answers 200 with an empty extraction."""
    max_in_flight: int = 256
    """All generations but the first answer 503 beyond it."""

    def is_at_least(self, api: Api) -> bool:
        """Whether this server's generation is that one or a later one."""
        return API_VERSIONS.index(self.api) >= API_VERSIONS.index(api)


@dataclass(frozen=True, slots=True)
class ContractReading:
    """How this server reads what the published contract leaves open. A client must work with every reading."""

    unregistered: Literal[400, 403] = 400
    """Status of a write to a scope that is not registered."""
    reregister: Literal[201, 409] = 201
    """Status of registering a scope that exists."""
    subtree_has_root: bool = True
    """Whether `org/acme/*` covers `org/acme` itself."""
    names_turn: bool = True
    """Whether answers of `/facts` have a `turnId`."""
    hits_name_turn: bool = True
    """Whether the `resource` of a passage has a `turnId` beside its `sessionId` (later generations)."""
    merges_labels: bool = True
    """Whether a fact that is stated again gets the labels of that write too (0.3.0)."""
    shared_cache: bool = False
    """Whether the response cache ignores lens and caller."""


class ReadableSelectors:
    """Which selectors a caller may read; cached, because a context has few and they never change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cached: dict[tuple[tuple[str, ...], Selector, bool], tuple[int, frozenset[int]]] = {}

    def of(self, patterns: tuple[str, ...], lens: Selector = (), *, root: bool) -> Region:
        """The selectors that the patterns may read and the lens covers; None for all of them.

        Args:
            patterns: the caller's patterns for a verb.
            lens: narrows them; empty narrows nothing.
            root: whether a subtree pattern of the lens covers its own root.
        """
        if EVERYTHING in patterns and not lens:
            return None
        selectors = self._store.selectors()
        checked, region = self._cached.pop((patterns, lens, root), (0, frozenset()))
        if checked < len(selectors):
            new = list(selectors.items())[checked:]
            region |= {
                number
                for number, selector in new
                if readable(patterns, selector) and involves(lens, selector, root=root)
            }
        self._cached[patterns, lens, root] = (len(selectors), region)  # the most recently used entry is last
        if len(self._cached) > 1000:
            del self._cached[next(iter(self._cached))]
        return region


@dataclass(slots=True)
class Engine:
    """One context and everything that its calls need."""

    settings: ServerSettings
    store: Store
    embedder: Embedder
    extractor: Extractor
    keyring: Keyring
    reading: ContractReading = ContractReading()
    clock: Callable[[], datetime] = wall_clock
    idempotency: Idempotency = field(init=False)
    regions: ReadableSelectors = field(init=False)
    commits: GroupedWrites = field(init=False)
    cache: AnswerCache = field(init=False)

    def __post_init__(self) -> None:
        self.idempotency = Idempotency(self.store)
        self.regions = ReadableSelectors(self.store)
        self.commits = GroupedWrites(self.store)
        self.cache = AnswerCache()

    def now(self) -> str:
        """The current time in the store's format."""
        return stamp(self.clock())

    def region(self, caller: Caller, lens: Selector = (), verb: str = "memory:read") -> Region:
        """The selectors on which a caller may use a verb, narrowed by a lens."""
        return self.regions.of(caller.patterns(verb), lens, root=self.reading.subtree_has_root)

    def require_registered(self, selector: Selector) -> None:
        """Raises ApiError (400, or 403 by the reading) if a node of the selector is unregistered or tombstoned."""
        for path in dict.fromkeys(path for clause in selector for path in clause):
            node = self.store.scope(path)
            if path != "/" and (node is None or node.tombstoned_at is not None):
                raise ApiError(self.reading.unregistered, f"scope {path} is not registered")
