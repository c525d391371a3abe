"""What verification is asked for and what it says: the frozen types that its parts share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spectron_migrate.records import Filters, Infer, Json, Selector

Kind = Literal[
    "missing",
    "altered",
    "doubled",
    "foreign",
    "misplaced",
    "untestable",
    "order",
    "superseded_wrongly",
    "leak",
    "suspect",
    "residue",
    "stale",
]

Layer = Literal["present", "recallable", "supersession", "isolation", "recall"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be, about one memory where that is known."""

    kind: Kind
    mem0_id: str | None
    reason: str
    """For any reader: never the text of a memory or a query."""
    where: str = ""
    """Session, scope or turn."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """What was expected and found: only for reports that may hold texts."""

    def to_json(self, *, texts: bool) -> dict[str, Json]:
        """As reports carry it; `texts` says whether they may hold texts."""
        told: dict[str, Json] = {"kind": self.kind, "id": self.mem0_id, "reason": self.reason, "where": self.where}
        if texts and self.texts:
            told["texts"] = dict(self.texts)
        return told


@dataclass(frozen=True, slots=True)
class Query:
    """One question put to both systems."""

    text: str
    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    expect: tuple[str, ...] = ()
    """Mem0 ids, any of which answers it; empty where nobody said."""
    target: str | None = None
    """The memory a made query was made of."""

    @property
    def ids(self) -> dict[str, str]:
        """The Mem0 filter."""
        named = {"user_id": self.user_id, "agent_id": self.agent_id, "run_id": self.run_id}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def owner(self) -> str:
        """Whose query it is: the unit that a resampling draws."""
        return self.user_id or self.agent_id or self.run_id or ""


@dataclass(frozen=True, slots=True)
class StoredMemory:
    """A version of a memory that Spectron confirmed, as the workspace keeps it."""

    no: int
    mem0_id: str
    version: int
    newest: bool
    text: str
    text_at: str | None
    order_key: str
    selector: Selector
    scope: int
    run: str | None
    infer: Infer
    category: str | None
    """As it was sent."""
    state: str
    session_id: str
    turn_id: str | None
    chunk_id: str | None
    ids: tuple[str, ...]
    late: bool
    echoed: bool
    tombstoned: bool
    owners: Mapping[str, str]

    @property
    def stale(self) -> bool:
        """An old text, or a memory that Mem0 no longer has: an application should not be shown it."""
        return self.tombstoned or not self.newest


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What differs from run to run. Everything that decides a verdict is in the report as well."""

    filters: Filters = field(default_factory=Filters)
    queries: tuple[Query, ...] | None = None
    """None: made from the memories."""
    sample: int = 200
    seed: int = 0
    top_k: int = 5
    margin: float = 0.02
    """How much less success@k is still as good (a share, 0 to 1)."""
    min_overlap: float | None = None
    in_flight: int = 16
    placement_sample: int | None = None
    """Memories whose placement is asked for; None: all of them."""
    pairs: int = 25
    """Pairs of scopes for the isolation test."""
    corrections: int = 200
    """Memories whose supersessions are looked at."""
    noise_queries: int = 20
    """Queries that Mem0 is asked twice, to know how much it differs from itself."""
    accepted: frozenset[str] = frozenset()
    """Refused memories, by Mem0 id, that a person lets go."""
    accept_residue: bool = False
    require_recall: bool = False
    """Whether recall that was not measured keeps the verdict from GO."""
    report_texts: bool = False
    reports: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """What the verdict depends on."""
        return {
            "users": sorted(self.filters.users),
            "sample": None if self.queries is not None else self.sample,
            "seed": self.seed,
            "top_k": self.top_k,
            "margin": self.margin,
            "min_overlap": self.min_overlap,
            "placement_sample": self.placement_sample,
            "pairs": self.pairs,
            "corrections": self.corrections,
            "accepted": sorted(self.accepted),
            "accept_residue": self.accept_residue,
            "require_recall": self.require_recall,
        }
