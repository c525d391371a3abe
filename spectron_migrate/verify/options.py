"""The options of a verification, and the queries that it asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spectron_migrate.records import Filters, Json

SOURCE = "mem0-migration-verify"
"""Marks our queries on the server, because recall reinforces the memories that it finds."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query, sent to Mem0 and to Spectron."""

    text: str
    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    expect: tuple[str, ...] = ()
    """Mem0 ids, any of which is a correct answer; empty if none were given."""
    target: str | None = None
    """The memory that a generated query was generated from."""

    @property
    def ids(self) -> dict[str, str]:
        """The Mem0 filter of the query."""
        named = {"user_id": self.user_id, "agent_id": self.agent_id, "run_id": self.run_id}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def owner(self) -> str:
        """The user (or agent, or run) that asks: the unit over which intervals are computed."""
        return self.user_id or self.agent_id or self.run_id or ""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """Options of one run. Those that decide the verdict are in the report too (`to_json`)."""

    filters: Filters = field(default_factory=Filters)
    queries: tuple[Query, ...] | None = None
    """None: generated from the memories."""
    sample: int = 200
    seed: int = 0
    top_k: int = 5
    margin: float = 0.02
    """How much lower Spectron's success@k may be and still count as good (a share, 0 to 1)."""
    min_overlap: float | None = None
    in_flight: int = 16
    placement_sample: int | None = None
    """How many memories are searched for in their scope; None: all."""
    pairs: int = 25
    """How many pairs of scopes the isolation test tries."""
    corrections: int = 200
    """For how many memories the entity histories are checked for supersession."""
    noise_queries: int = 20
    """How many queries Mem0 is asked twice, to measure how much it differs from itself."""
    accepted: frozenset[str] = frozenset()
    """Mem0 ids of refused memories whose absence a person has accepted."""
    accepted_moved: frozenset[str] = frozenset()
    """Mem0 ids of moved memories that a person has accepted where they were sent. Mem0 has them under other ids now."""
    accepted_gates: frozenset[str] = frozenset()
    """Gates (of `verdict.ACCEPTABLE`) that a person has accepted, whatever they show now."""
    report_texts: bool = False
    reports: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """The options that the verdict depends on."""
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
            "accepted_moved": sorted(self.accepted_moved),
            "accepted_gates": sorted(self.accepted_gates),
        }
