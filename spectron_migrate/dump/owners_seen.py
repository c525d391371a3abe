"""Whether filters select anything: an id with a typing error must not look like a run that has nothing left to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from spectron_migrate.errors import InputError
from spectron_migrate.records import Filters, Memory, name_first

MOST_IDS = 1000
"""Ids of a kind that are remembered, to name some of them."""
_KINDS = {"user": "user_id", "agent": "agent_id", "run": "run_id"}


class OwnersSeen:
    """Which owners the memories have that filters were tried on, and whether the filters admit one of them."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._wanted = {
            kind: ids
            for kind, ids in (("user", filters.users), ("agent", filters.agents), ("run", filters.runs))
            if ids
        }
        self._ids: dict[str, set[str]] = {kind: set() for kind in self._wanted}
        self.selects = not filters
        """Whether a memory was admitted; without filters everything is."""

    def look(self, memories: Iterable[Memory]) -> Self:
        """Look at memories until one is admitted."""
        for memory in memories:
            if self.selects:
                break
            self.add(memory)
        return self

    def add(self, memory: Memory) -> None:
        """Look at one more memory."""
        if self.selects:
            return
        self.selects = self._filters.admits(memory)
        for kind, known in self._ids.items():
            owner = getattr(memory, _KINDS[kind])
            if owner is not None and len(known) < MOST_IDS:
                known.add(owner)

    def refusal(self, place: str) -> InputError:
        """What to say if nothing is selected; `place`: what has no such memory."""
        wanted = " and ".join(f"{kind} {_name(ids)}" for kind, ids in self._wanted.items())
        there = "; ".join(f"{kind}s: {_name(ids) or 'none'}" for kind, ids in self._ids.items())
        return InputError(f"{place} has no memory of {wanted}", hint=f"it has memories of these {there}")


def _name(ids: Iterable[str]) -> str:
    return name_first([repr(each) for each in sorted(ids)])
