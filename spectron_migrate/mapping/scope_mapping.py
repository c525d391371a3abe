"""The mapping as a whole: from a memory to its scope, session and lane; from a Mem0 filter to its lens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from spectron_migrate.mapping.labels import ID
from spectron_migrate.mapping.lens import Lens, lens_for
from spectron_migrate.mapping.rules import Rule
from spectron_migrate.mapping.text_times import TextAt
from spectron_migrate.records import Infer, Memory, Placement, Selector, Skipped, canonical_json, digest, is_unicode

NOT_UNICODE = "contains a lone surrogate (half a character), which no server accepts"


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A memory that no rule can map, with `unmapped: refuse`. Nothing is written as long as there is one."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class ScopeMapping:
    """The rules of a mapping file. Pure, and defined for every memory; writing and reading use the same rules.

    Two laws, tested with generated mappings: two ids never share a scope (`find_collisions`), and a lens covers every
    memory that its filter matches and none of another user (`mapping.lens`).
    """

    rules: tuple[Rule, ...]
    session_by: Literal["run_id", "none"]
    session_size: int
    """The most memories in one Spectron session."""
    infer: Infer
    """The default for rules without `infer`."""
    write: Literal["facts", "batch"]
    unmapped: Literal["refuse", "skip"]
    text_at: TextAt = "auto"
    """Which time of a memory counts as that of its text."""

    @property
    def digest(self) -> str:
        """Fingerprint of everything that changes what is written: lookup tables included, comments not."""
        settings: list[str | int] = [self.session_by, self.session_size, self.write, self.unmapped]
        if self.text_at != "auto":
            settings.append(self.text_at)
        return digest("mapping 1", canonical_json([settings, [rule.to_json() for rule in self.rules]]))

    @property
    def rules_digest(self) -> str:
        """Like `digest`, but without the rows of lookup tables, which may grow."""
        rules = [{**rule.to_json(), "tables": []} for rule in self.rules]
        return digest("rules 1", canonical_json([self.session_by, self.write, self.unmapped, self.text_at, rules]))

    @property
    def id_label(self) -> str | None:
        """The key of the label that holds a memory's id, by which Spectron's rows are traced; None if there is none."""
        keys = [each.key for rule in self.rules for each in rule.labels if each.field == ID]
        return keys[0] if keys and self.write == "facts" else None

    @property
    def constant_prefixes(self) -> tuple[str, ...]:
        """What the paths of the rules begin with, whichever memory fills them: `user`, `agent`, …."""
        return tuple(dict.fromkeys(path.constant_prefix for rule in self.rules for path in rule.paths))

    def map_memory(self, memory: Memory) -> Placement | Skipped | Unmapped:
        """Where and how a memory is written. The first rule that takes it decides. Raises nothing.

        A memory without a text that a server accepts is skipped, whatever the rules say. With the built-in rules, a
        memory of the user `Bob` and the run `r1` gets the selector `(("user/x---42ob",),)`, that path as its lane,
        and sessions of its own for `r1`.
        """
        owners = (memory.user_id, memory.agent_id, memory.app_id, memory.run_id)
        if not is_unicode("".join((memory.memory, *filter(None, owners)))):
            return Skipped(memory.id, NOT_UNICODE)
        mapped = self._apply_rules(memory)
        is_blank = isinstance(mapped, Placement) and not memory.memory.strip()
        return Skipped(memory.id, "empty text") if is_blank else mapped

    def _apply_rules(self, memory: Memory) -> Placement | Skipped | Unmapped:
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
            lane=_lane(rule.user_depths, filled),
            run=memory.run_id if self.session_by == "run_id" else None,
            infer=rule.infer,
            category=rule.category,
            labels=rule.labels_of(memory, together=self.write == "batch").labels,
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
        """The lens for a Mem0 filter, by the lens law (`mapping.lens`).

        A filter by a user, or by a user and an agent, reads that node, everything below it, and each constant node
        (`org/acme`) to which a rule can write such memories. A run in addition to other ids does not change the lens;
        `run_filter` selects the hits. Raises NotServable, naming the rule to change, if the rules could write a
        matching memory to a scope that the filter does not determine.
        """
        given = {"user_id": user_id, "agent_id": agent_id, "app_id": app_id, "run_id": run_id}
        return lens_for(self.rules, {field: value for field, value in given.items() if value is not None})


@lru_cache(maxsize=10_000)
def _canonical(filled: Selector) -> Selector:
    """One spelling for selectors with the same meaning, so that memories of one scope share its lane and sessions."""
    return tuple(sorted({tuple(sorted(set(clause))) for clause in filled}))


@lru_cache(maxsize=10_000)
def _lane(user_depths: tuple[int, ...], filled: Selector) -> str:
    """The lane in which facts keep their order: the user's node, else the whole path, else the whole selector."""
    users = ["/".join(filled[0][at].split("/")[: 2 * deep]) for at, deep in enumerate(user_depths) if deep]
    if users:
        return min(users)
    selector = _canonical(filled)
    alone = len(selector) == 1 and len(selector[0]) == 1
    return selector[0][0] if alone else canonical_json(selector)
