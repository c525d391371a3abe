"""What every call works with: the store of one context, and who turns text into vectors and facts."""

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
from spectron_migrate.local.scopes import EVERYTHING, Selector, involves, readable
from spectron_migrate.local.storage import Region, Store
from spectron_migrate.local.times import stamp

Api = Literal["0.0.0", "0.2.1"]
API_VERSIONS: tuple[Api, ...] = ("0.0.0", "0.2.1")


def wall_clock() -> datetime:
    """The time, where a test gives no other."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How one server answers."""

    context: str
    api: Api = "0.0.0"
    extraction: bool = True
    """The Context's `llm_extraction_enabled`: without it `infer: full` answers 200 with an empty extraction."""
    max_in_flight: int = 256
    """The later generation answers 503 beyond it."""


@dataclass(frozen=True, slots=True)
class ContractReading:
    """What the published contract leaves open, as this server reads it. A client must live with every reading."""

    unregistered: Literal[400, 403] = 400
    """Status of a write to a scope that is not registered."""
    reregister: Literal[201, 409] = 201
    """Status of registering a scope that is there."""
    subtree_has_root: bool = True
    """Whether `org/acme/*` takes in `org/acme` itself."""
    names_turn: bool = True
    """Whether `/facts` answers with a `turnId`."""
    shared_cache: bool = False
    """Whether the response cache mixes up lenses and callers."""


class ReadableSelectors:
    """Which selectors a caller may look at, remembered: a context has few, and they never change."""

    def __init__(self, store: Store) -> None:
        """Start with nothing remembered."""
        self._store = store
        self._known: dict[tuple[tuple[str, ...], Selector, bool], tuple[int, frozenset[int]]] = {}

    def of(self, patterns: tuple[str, ...], lens: Selector = (), *, root: bool) -> Region:
        """The selectors readable under the patterns and seen through the lens; None for all of them.

        Args:
            patterns: the caller's.
            lens: what the caller wants to look through.
            root: whether a subtree in the lens takes in the node it starts from.
        """
        if EVERYTHING in patterns and not lens:
            return None
        selectors = self._store.selectors()
        seen, region = self._known.pop((patterns, lens, root), (0, frozenset()))
        if seen < len(selectors):
            fresh = list(selectors.items())[seen:]
            region |= {number for number, one in fresh if readable(patterns, one) and involves(lens, one, root=root)}
        self._known[patterns, lens, root] = (len(selectors), region)  # the latest used is last
        if len(self._known) > 1000:
            del self._known[next(iter(self._known))]
        return region


@dataclass(slots=True)
class Engine:
    """One context, ready to answer."""

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
        """Make what is derived from the store."""
        self.idempotency = Idempotency(self.store)
        self.regions = ReadableSelectors(self.store)
        self.commits = GroupedWrites(self.store)
        self.cache = AnswerCache()

    def now(self) -> str:
        """The time in the store's spelling."""
        return stamp(self.clock())

    def region(self, caller: Caller, lens: Selector = (), verb: str = "memory:read") -> Region:
        """What a caller may see of the context through a lens."""
        return self.regions.of(caller.patterns(verb), lens, root=self.reading.subtree_has_root)

    def registered(self, selector: Selector) -> None:
        """Raise ApiError 400 where a selector names a node that is not there (any more)."""
        for path in dict.fromkeys(path for clause in selector for path in clause):
            node = self.store.scope(path)
            if path != "/" and (node is None or node.tombstoned_at is not None):
                raise ApiError(self.reading.unregistered, f"scope {path} is not registered")
