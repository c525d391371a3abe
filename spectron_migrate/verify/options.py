"""What a verification is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spectron_migrate.records import Filters, Json


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
