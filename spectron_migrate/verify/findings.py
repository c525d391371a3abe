"""The findings of a verification: what it found wrong."""

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
    "misplaced_fact",
    "untestable",
    "order",
    "superseded_wrongly",
    "leak",
    "suspect",
    "residue",
    "stale",
    "unaccounted",
]

Layer = Literal["present", "recallable", "traced", "supersession", "isolation", "recall", "unaccounted"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, with the memory concerned if that is known."""

    kind: FindingKind
    mem0_id: str | None
    reason: str
    """Safe to share: never contains the text of a memory or a query."""
    where: str = ""
    """Session, scope or turn, in words."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Texts by role, such as `written` and `found`; only reports that may hold texts show them."""

    def to_json(self) -> dict[str, Json]:
        """The form in the JSON report, texts included."""
        body: dict[str, Json] = {"kind": self.kind, "id": self.mem0_id, "reason": self.reason, "where": self.where}
        return body | ({"texts": dict(self.texts)} if self.texts else {})
