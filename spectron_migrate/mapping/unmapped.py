"""Memories that no rule maps, by the rule that fails and by owner, because that is what a new rule needs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from spectron_migrate.mapping.scope_mapping import Unmapped
from spectron_migrate.records import Memory, counted

GROUPS = 10
"""The most groups that are named."""
OWNERS = 3
"""The most owners that are named in a group."""
MOST_OWNERS = 10_000
"""The most owners that are counted separately."""


@dataclass
class UnmappedMemories:
    """Counts them while a dump is read."""

    count: int = 0
    _groups: dict[str, Counter[str]] = field(default_factory=dict)
    """Why -> owner -> memories."""

    def add(self, memory: Memory, unmapped: Unmapped) -> None:
        """Count one memory."""
        self.count += 1
        owners = self._groups.setdefault(unmapped.why, Counter())
        owner = _owner(memory)
        owners[owner if owner in owners or len(owners) < MOST_OWNERS else "others"] += 1

    def groups(self) -> list[str]:
        """A sentence for each rule that fails, the largest group first, such as
        `no rule takes it: 12 memories, of agent helper (10), run r7 (2)`.
        """
        by_size = sorted(self._groups.items(), key=lambda group: -group[1].total())
        sentences = [
            f"{why}: {counted(owners.total(), 'memory')}, of {_names(owners)}" for why, owners in by_size[:GROUPS]
        ]
        if len(by_size) > GROUPS:
            sentences.append(f"and {len(by_size) - GROUPS} more reasons")
        return sentences


def _names(owners: Counter[str]) -> str:
    named = [f"{owner} ({count:,})" for owner, count in owners.most_common(OWNERS)]
    more = len(owners) - OWNERS
    return ", ".join(named) + (f" and {more:,} more" if more > 0 else "")


def _owner(memory: Memory) -> str:
    """The owners of a memory; its run only if there is no other."""
    ids = {name.removesuffix("_id"): value for name, value in memory.entity_ids.items()}
    if len(ids) > 1:
        ids.pop("run", None)
    return " and ".join(f"{name} {value}" for name, value in ids.items()) or "nobody"
