"""The mapping as the steps, the adapter and the verification use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spectron_migrate.mapping.lens import Lens, lens_for
from spectron_migrate.mapping.rules import Rule
from spectron_migrate.records import Infer, Memory, Placement, Selector, Skipped, canonical_json, digest, is_unicode

HALF_A_LETTER = "holds half a letter (a lone surrogate), which no server takes"


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A memory for which the mapping says refuse; nothing is written while there is one."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class ScopeMapping:
    """Everything that decides what is written: pure, total, and the same for writing and reading."""

    rules: tuple[Rule, ...]
    session_by: Literal["run_id", "none"]
    session_size: int
    """At most so many memories in one Spectron session."""
    infer: Infer
    """Of rules that say nothing else."""
    write: Literal["facts", "batch"]
    unmapped: Literal["refuse", "skip"]

    @property
    def digest(self) -> str:
        """Fingerprint of everything that changes what is written, lookup tables included, comments not."""
        settings = [self.session_by, self.session_size, self.write, self.unmapped]
        return digest("mapping 1", canonical_json([settings, [rule.to_json() for rule in self.rules]]))

    def place(self, memory: Memory) -> Placement | Skipped | Unmapped:
        """Where and how one memory is written: the first rule that takes it decides. Raises nothing.

        What has no text that a server takes is skipped, wherever the rules would put it.
        """
        if not is_unicode("".join((memory.memory, *memory.entity_ids.values()))):
            return Skipped(memory.id, HALF_A_LETTER)
        placed = self._by_rules(memory)
        is_blank = isinstance(placed, Placement) and not memory.memory.strip()
        return Skipped(memory.id, "empty text") if is_blank else placed

    def _by_rules(self, memory: Memory) -> Placement | Skipped | Unmapped:
        rule = next((rule for rule in self.rules if rule.takes(memory)), None)
        if rule is None:
            if memory.state != "active":
                return Skipped(memory.id, memory.state)
            return self._unmapped(memory, "no rule takes it")
        if rule.skip is not None:
            return Skipped(memory.id, rule.skip)
        filled = rule.fill(memory)
        if isinstance(filled, str):
            return self._unmapped(memory, filled)
        return Placement(
            selector=_canonical(filled),
            lane=_lane(rule, filled),
            run=memory.run_id if self.session_by == "run_id" else None,
            infer=rule.infer,
            category=rule.category,
            labels=rule.labels,
            rule=rule.index,
        )

    def _unmapped(self, memory: Memory, why: str) -> Skipped | Unmapped:
        if self.unmapped == "skip":
            return Skipped(memory.id, f"unmapped: {why}")
        return Unmapped(memory.id, why)

    def lens(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        app_id: str | None = None,
    ) -> Lens:
        """The lens that answers a Mem0 filter.

        A user alone is read as node and subtree, and so is a user's agent; constant nodes to which a rule
        without a user can send such memories come beside, exactly. A run beside other ids leaves the lens
        as it is and is kept by `run_filter`. Raises NotServable, naming the rule to change, where the
        rules could put a matching memory somewhere that the filter does not say.
        """
        given = {"user_id": user_id, "agent_id": agent_id, "app_id": app_id, "run_id": run_id}
        return lens_for(self.rules, {field: value for field, value in given.items() if value is not None})


def _canonical(filled: Selector) -> Selector:
    """One spelling for one meaning, so that what shares a scope also shares its lane and its sessions."""
    return tuple(sorted({tuple(sorted(set(clause))) for clause in filled}))


def _lane(rule: Rule, filled: Selector) -> str:
    """Where order matters: the user's node, else the whole path, else the whole selector as text."""
    if len(rule.clauses) == 1:
        depths = [path.depth_of("user_id") for path in rule.clauses[0]]
        users = ["/".join(node.split("/")[: 2 * deep]) for deep, node in zip(depths, filled[0], strict=True) if deep]
        if users:
            return min(users)
    selector = _canonical(filled)
    alone = len(selector) == 1 and len(selector[0]) == 1
    return selector[0][0] if alone else canonical_json(selector)
