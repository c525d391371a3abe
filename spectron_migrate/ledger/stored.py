"""What a plan has in Spectron at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spectron_migrate.ledger import views
from spectron_migrate.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Standing:
    """What a plan has in Spectron at one moment: the difference of two is what a run did."""

    stored: int
    not_extracted: int
    late: int
    by_state: Mapping[str, int]

    @property
    def waiting(self) -> int:
        """Memories that are still to be decided."""
        return self.by_state.get("planned", 0) + self.by_state.get("intended", 0)

    @classmethod
    def of(cls, ledger: Ledger, number: int) -> Standing:
        """As the ledger knows it now."""
        counts = views.count_by_state(ledger, number)
        not_extracted = counts.get("stored_not_extracted", 0)
        return cls(counts.get("written", 0) + not_extracted, not_extracted, views.count_late(ledger, number), counts)
