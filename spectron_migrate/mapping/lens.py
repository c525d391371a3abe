"""Reading: the lens for a Mem0 filter, made from the rules that also decide where memories are written.

The lens law (docs/protocol.md, invariant I7; tests/mapping/test_lens.py): for every memory and every filter
that matches it in Mem0, the lens covers the memory's scope, or the filter is refused as not servable. And the lens
covers no memory of another user, apart from nodes that a rule shares on purpose.

For example, the built-in rules write bob's memories with an agent to `user/bob/agent/cook` and the others to
`user/bob`. The filter `user_id=bob` matches both in Mem0, so its lens is `user/bob` and `user/bob/*`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from spectron_migrate.errors import InputError
from spectron_migrate.mapping.collisions import may_be_one_node
from spectron_migrate.mapping.conditions import Condition, Exact, Present
from spectron_migrate.mapping.rules import Constant, LookupSegment, PathTemplate, Rule
from spectron_migrate.records import Clause, Selector

ENTITIES = ("user_id", "agent_id", "app_id", "run_id")
"""The fields of a Mem0 filter; the first one that a filter names owns the memories it matches."""


class NotServable(InputError):
    """A filter for which the mapping has no lens that shows neither too much nor too little."""

    kind = "not_servable"


@dataclass(frozen=True, slots=True)
class Lens:
    """The scopes to search in Spectron in place of a Mem0 filter."""

    selector: Selector
    """Clauses of nodes and `/*` subtrees; never empty, because an empty lens reads everything."""
    shared: tuple[str, ...]
    """Nodes in it that hold memories of several users on purpose."""
    run_filter: str | None
    """Keep only the hits of this Mem0 run: a run is a session, not a scope."""

    @property
    def own(self) -> Selector:
        """The clauses that hold memories of this filter's owner alone."""
        return tuple(clause for clause in self.selector if not set(clause) <= set(self.shared))


@lru_cache(4096)
def covers(lens: Selector, target: Selector) -> bool:
    """Whether a search with this lens can show a memory that was written to the selector `target`.

    It can if any clause of the lens covers the memory, that is, if each pattern of the clause matches some path of the
    memory, in whichever clause of the target (grants limit reading further). `a/b` matches that node only; `a/b/*`
    matches the nodes below it, but not the node itself, which is unpublished and never relied on; `/*` and `*` match
    every node.

    An empty target is in no scope and covered by no lens. An empty lens covers nothing here, although a server would
    take it for everything; no empty lens is ever sent.

    >>> covers((("user/bob",), ("user/bob/*",)), (("user/bob/agent/cook",),))
    True
    """
    paths = [path.strip("/") for clause in target for path in clause]
    return any(
        bool(clause) and all(any(_matches(pattern, path) for path in paths) for pattern in clause) for clause in lens
    )


def _matches(pattern: str, path: str) -> bool:
    if pattern in ("*", "/*"):
        return True
    if pattern.endswith("/*"):
        return path.startswith(pattern.strip("/")[:-1])
    return path == pattern.strip("/")


def lens_for(rules: Sequence[Rule], given: Mapping[str, str]) -> Lens:
    """The lens for a filter by the ids in `given`; raises NotServable naming the rule to change."""
    run = given.get("run_id")
    ids = {field: given[field] for field in ENTITIES if field in given}
    if not ids:
        raise NotServable("a filter needs a user_id, agent_id, app_id or run_id")
    if len(ids) > 1:
        ids.pop("run_id", None)
    builder = _LensBuilder(ids)
    for at, rule in enumerate(rules):
        if _may_take(rule, ids) and not any(_takes_all_before(early, rule, ids) for early in rules[:at]):
            builder.add(rule)
    if not builder.nodes and not builder.clauses:
        raise NotServable(f"no rule writes a memory of {_names(ids)}", hint="the lens would be empty")
    builder.refuse_leaks(rules)
    return Lens(builder.selector(), builder.shared(), run)


def _may_take(rule: Rule, ids: Mapping[str, str]) -> bool:
    """Whether the rule can take a memory with these ids."""
    return all(condition.matches(ids[field]) for field, condition in rule.when if field in ids)


def _takes_all_before(early: Rule, rule: Rule, ids: Mapping[str, str]) -> bool:
    """Whether the earlier rule `early` takes every memory with these ids that `rule` could take."""
    if early.state != rule.state:
        return False
    return all(
        condition.matches(ids[field]) if field in ids else _is_implied(condition, rule.condition_on(field))
        for field, condition in early.when
    )


def _is_implied(condition: Condition, known: Condition | None) -> bool:
    """Whether every value that meets the condition `known` also meets `condition`."""
    if known is None:
        return False
    if isinstance(condition, Present) or condition == known:
        return True
    return isinstance(known, Exact) and known.number is None and condition.matches(known.spec)


class _LensBuilder:
    """Collects, rule by rule, the nodes that the lens for a filter has to cover."""

    def __init__(self, ids: Mapping[str, str]) -> None:
        self.ids = ids
        self.owner = next(iter(ids))
        self.nodes: dict[str, bool] = {}
        """Node -> whether everything below it belongs to the filter too."""
        self.clauses: dict[Clause, Rule] = {}
        """Clauses that are shared on purpose, and read without anything below them -> the rule that shares them."""

    def add(self, rule: Rule) -> None:
        """Cover what `rule` writes for the filter, or raise NotServable."""
        if rule.skip is not None:
            return
        known = {**rule.fixed, **self.ids}
        if self.owner != "user_id" and any(path.contains("user_id") for path in rule.paths):
            raise self.refusal(rule, "writes such memories below a user", "add a user_id to the filter")
        owned = [path for path in rule.paths if path.depth_of(self.owner) is not None]
        lookups = [part for path in rule.paths for _, part in path.levels if isinstance(part, LookupSegment)]
        if any(part.field in known and part.fill(known[part.field]) is None for part in lookups):
            return  # The table has no row for the id, so the rule can write no such memory.
        if any(self.add_node(path, known) for path in owned):
            return
        if owned:
            raise self.refusal(rule, f"writes them below fields that the filter does not name: {owned[0]}")
        for clause in rule.clauses:
            if all(_is_constant(path, rule, known) for path in clause):
                nodes = tuple(dict.fromkeys("/".join(path.fill(known)) for path in clause))
                self.clauses.setdefault(nodes, rule)
                return
        raise self.refusal(rule, f"shares them below fields that the filter does not name: {rule.paths[0]}")

    def add_node(self, path: PathTemplate, known: Mapping[str, str]) -> bool:
        """Cover the path as deep as the known fields fill it; False if that does not reach the owner's level."""
        levels = path.fill(known)
        depths = {field: path.depth_of(field) for field in self.ids}
        owner_depth = depths[self.owner] or 0
        if len(levels) < owner_depth:
            return False
        filled = [depth for depth in depths.values() if depth is not None and depth <= len(levels)]
        if len(filled) == len(self.ids):
            self.nodes["/".join(levels[: max(filled)])] = True
        else:
            # The filter names more than the node does, so memories of others can be below it. The subtree is read only
            # if the rule writes there.
            node = "/".join(levels)
            self.nodes[node] = self.nodes.get(node, False) or len(levels) < len(path.levels)
        return True

    def refuse_leaks(self, rules: Iterable[Rule]) -> None:
        """Raise NotServable if a shared node would show what another rule writes for readers of several nodes."""
        for rule, (shared, sharer) in product(rules, self.clauses.items()):
            for clause in rule.clauses:
                if len(clause) > 1 and self.shows(shared, rule) and not self.reads_all(clause):
                    why = f"shares {shared[0]}, which {rule.label} writes only together with {clause[0]}"
                    raise self.refusal(sharer, why, "share a node of its own")

    def shows(self, shared: Clause, rule: Rule) -> bool:
        """Whether a shared clause could cover a memory of the rule."""
        return all(any(may_be_one_node(rule, path, node) for path in rule.paths) for node in shared)

    def reads_all(self, clause: tuple[PathTemplate, ...]) -> bool:
        """Whether every node of a constant clause is in one shared clause."""
        if not all(isinstance(part, Constant) for path in clause for _, part in path.levels):
            return False
        nodes = {str(path) for path in clause}
        return any(nodes <= set(shared) for shared in self.clauses)

    def selector(self) -> Selector:
        """The fewest clauses: nodes inside a subtree that is read anyway are left out."""
        roots = [node for node, below in self.nodes.items() if below]
        kept = [node for node in self.nodes if not any(node.startswith(f"{root}/") for root in roots)]
        own: list[Clause] = []
        for node in kept:
            own.append((node,))
            if self.nodes[node]:
                own.append((f"{node}/*",))
        return tuple(own) + tuple(clause for clause in self.clauses if not covers(tuple(own), (clause,)))

    def shared(self) -> tuple[str, ...]:
        """The nodes of the shared clauses that are in the selector."""
        used = set(self.selector())
        return tuple(dict.fromkeys(node for clause in self.clauses if clause in used for node in clause))

    def refusal(self, rule: Rule, why: str, hint: str = "use the memories' own id in its scope") -> NotServable:
        return NotServable(
            f"a filter by {_names(self.ids)} cannot be served: {rule.label} {why}",
            hint=f"change that rule, or {hint}",
        )


def _is_constant(path: PathTemplate, rule: Rule, known: Mapping[str, str]) -> bool:
    """Whether the rule's author chose the node: by plain text, a fixed field or a table, not by an id."""
    return all(
        isinstance(part, Constant)
        or part.field in rule.fixed
        or (isinstance(part, LookupSegment) and part.field in known)
        for _, part in path.levels
    )


def _names(ids: Mapping[str, str]) -> str:
    return " and ".join(ids)
