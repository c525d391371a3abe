"""What a verification finds wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from spectron_migrate.records import Json

FindingKind = Literal[
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

    kind: FindingKind
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
