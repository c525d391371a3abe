"""Checks that filters select anything: a misspelled id must not look like a run that has nothing left to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from spectron_migrate.errors import InputError
from spectron_migrate.records import Filters, Memory, name_first

MOST_IDS = 1000
"""How many ids of a kind are remembered, so that some can be named."""
_KINDS = {"user": "user_id", "agent": "agent_id", "run": "run_id"}


class OwnersSeen:
    """The owners of memories that filters were tried on, and whether the filters admit any of these memories."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._wanted = {
            kind: ids
            for kind, ids in (("user", filters.users), ("agent", filters.agents), ("run", filters.runs))
            if ids
        }
        self._ids: dict[str, set[str]] = {kind: set() for kind in self._wanted}
        self.selects = not filters
        """Whether any memory was admitted. Without filters, every memory is."""

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
        """The message if nothing is selected. `place`: where there is no such memory."""
        wanted = " and ".join(f"{kind} {_name(ids)}" for kind, ids in self._wanted.items())
        there = "; ".join(f"{kind}s: {_name(ids) or 'none'}" for kind, ids in self._ids.items())
        return InputError(f"{place} has no memory of {wanted}", hint=f"it has memories of these {there}")


def _name(ids: Iterable[str]) -> str:
    return name_first([repr(each) for each in sorted(ids)])
