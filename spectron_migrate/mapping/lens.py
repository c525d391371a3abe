"""Reading: the lens for a Mem0 filter, from the same rules that decide where memories are written.

The law: a lens covers every memory that the filter would match in Mem0, or the filter is refused as not
servable; and, nodes that a rule shares on purpose aside, it covers no memory of another user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from spectron_migrate.errors import InputError
from spectron_migrate.mapping.rules import LookedUp, Path, Plain, Rule
from spectron_migrate.mapping.unique import may_be_one_node
from spectron_migrate.mapping.when import Condition, Exact, Present
from spectron_migrate.records import Clause, Selector

ENTITIES = ("user_id", "agent_id", "app_id", "run_id")
"""What a Mem0 filter can name, the one that owns the memory first."""


class NotServable(InputError):
    """A filter that the mapping cannot answer without showing too much or too little."""

    kind = "not_servable"


@dataclass(frozen=True, slots=True)
class Lens:
    """What to ask Spectron for, in place of a Mem0 filter."""

    selector: Selector
    """Clauses of nodes and `/*` subtrees; never empty, because an empty lens reads everything."""
    shared: tuple[str, ...]
    """Nodes in it that hold memories of several users on purpose."""
    run_filter: str | None
    """Keep only the hits of this Mem0 run: a run is a session, not a scope."""

    @property
    def own(self) -> Selector:
        """The clauses that are about this filter alone."""
        return tuple(clause for clause in self.selector if not set(clause) <= set(self.shared))


def covers(lens: Selector, target: Selector) -> bool:
    """Whether a reader with this lens sees a memory written with the selector `target`.

    A memory is seen if it involves every pattern of some clause of the lens; it involves a pattern if any
    path of any of its clauses matches, so `all_of` and `any_of` targets are alike here (who may read is
    the grants' matter, which always applies on top). `a/b` matches that node; `a/b/*` what lies below it,
    and not the node itself, which is unpublished and therefore never relied on; `/*` and `*` match
    everything. An empty target is unscoped and in no clause. An empty lens covers nothing here: on the wire
    it would be the whole region, which is why none is ever sent.
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
    found = _Reading(ids)
    for at, rule in enumerate(rules):
        if _may_take(rule, ids) and not any(_takes_first(early, rule, ids) for early in rules[:at]):
            found.add(rule)
    if not found.nodes and not found.clauses:
        raise NotServable(f"no rule places a memory of {_words(ids)}", hint="the lens would be empty")
    found.refuse_leaks(rules)
    return Lens(found.selector(), found.shared(), run)


def _may_take(rule: Rule, ids: Mapping[str, str]) -> bool:
    return all(asked.matches(ids[field]) for field, asked in rule.when if field in ids)


def _takes_first(early: Rule, rule: Rule, ids: Mapping[str, str]) -> bool:
    """Whether every memory of the filter that `rule` would take is taken by the rule before it."""
    if early.state != rule.state:
        return False
    return all(
        asked.matches(ids[field]) if field in ids else _implied(asked, rule.asks(field)) for field, asked in early.when
    )


def _implied(asked: Condition, known: Condition | None) -> bool:
    if known is None:
        return False
    if isinstance(asked, Present) or asked == known:
        return True
    return isinstance(known, Exact) and known.number is None and asked.matches(known.spec)


class _Reading:
    """Gathers, rule by rule, what a lens has to cover."""

    def __init__(self, ids: Mapping[str, str]) -> None:
        self.ids = ids
        self.owner = next(iter(ids))
        self.nodes: dict[str, bool] = {}
        """Node -> whether everything below it belongs to the filter too."""
        self.clauses: dict[Clause, Rule] = {}
        """What is shared on purpose, read exactly."""

    def add(self, rule: Rule) -> None:
        """Cover what `rule` writes for the filter, or refuse the filter."""
        if rule.skip is not None:
            return
        known = {**rule.fixed, **self.ids}
        if self.owner != "user_id" and any(path.names("user_id") for path in rule.paths):
            raise self.refusal(rule, "puts such memories under a user", "give a user_id too")
        owned = [path for path in rule.paths if path.depth_of(self.owner) is not None]
        if any(part.field in known and part.fill(known[part.field]) is None for part in _looked_up(rule)):
            return  # The table has no row, so the rule can place no such memory.
        for path in owned:
            if self.take_node(path, known):
                return
        if owned:
            raise self.refusal(rule, f"puts them under fields that it does not say: {owned[0]}")
        for clause in rule.clauses:
            if all(_is_constant(path, rule, known) for path in clause):
                self.clauses.setdefault(_fill(clause, known), rule)
                return
        raise self.refusal(rule, f"shares them under fields that it does not say: {rule.paths[0]}")

    def take_node(self, path: Path, known: Mapping[str, str]) -> bool:
        """Read the path as deep as the filter says; False where it does not even say whose it is."""
        levels = path.fill(known)
        depths = {field: path.depth_of(field) for field in self.ids}
        owner_depth = depths[self.owner] or 0
        if len(levels) < owner_depth:
            return False
        within = [depth for depth in depths.values() if depth is not None and depth <= len(levels)]
        if len(within) == len(self.ids):
            self.nodes["/".join(levels[: max(within)])] = True
        else:
            # Below a node that says less than the filter lie memories of others: only if it must be.
            node = "/".join(levels)
            self.nodes[node] = self.nodes.get(node, False) or len(levels) < len(path.levels)
        return True

    def refuse_leaks(self, rules: Iterable[Rule]) -> None:
        """A node shared by one rule must not open what another writes for readers of several nodes at once."""
        for rule, (shared, sharer) in product(rules, self.clauses.items()):
            for clause in rule.clauses:
                if len(clause) > 1 and self.opens(shared, rule) and not self.reads_all(clause):
                    text = f"shares {shared[0]}, which {rule.label} writes only beside {clause[0]}"
                    raise self.refusal(sharer, text, "share a node of its own")

    def opens(self, shared: Clause, rule: Rule) -> bool:
        """Whether a memory of the rule could involve every node of a shared clause."""
        return all(any(may_be_one_node(rule, path, node) for path in rule.paths) for node in shared)

    def reads_all(self, clause: tuple[Path, ...]) -> bool:
        """Whether a clause is constant and shared as a whole."""
        if not all(isinstance(part, Plain) for path in clause for _, part in path.levels):
            return False
        nodes = {str(path) for path in clause}
        return any(nodes <= set(shared) for shared in self.clauses)

    def selector(self) -> Selector:
        """The fewest clauses: what lies in a subtree that is read anyway is left out."""
        roots = [node for node, below in self.nodes.items() if below]
        kept = [node for node in self.nodes if not any(node.startswith(f"{root}/") for root in roots)]
        own: list[Clause] = []
        for node in kept:
            own.append((node,))
            if self.nodes[node]:
                own.append((f"{node}/*",))
        return tuple(own) + tuple(clause for clause in self.clauses if not covers(tuple(own), (clause,)))

    def shared(self) -> tuple[str, ...]:
        """The nodes of the shared clauses that are really in the lens."""
        used = set(self.selector())
        return tuple(dict.fromkeys(node for clause in self.clauses if clause in used for node in clause))

    def refusal(self, rule: Rule, why: str, hint: str = "give the memories' own id in its scope") -> NotServable:
        """The error that names the filter, the rule and the way out."""
        return NotServable(
            f"a filter by {_words(self.ids)} cannot be served: {rule.label} {why}",
            hint=f"change that rule, or {hint}",
        )


def _looked_up(rule: Rule) -> list[LookedUp]:
    return [part for path in rule.paths for _, part in path.levels if isinstance(part, LookedUp)]


def _is_constant(path: Path, rule: Rule, known: Mapping[str, str]) -> bool:
    """Whether the rule's author chose the node: by plain text, a fixed field or a table, not by an id."""
    return all(
        isinstance(part, Plain) or part.field in rule.fixed or (isinstance(part, LookedUp) and part.field in known)
        for _, part in path.levels
    )


def _fill(clause: tuple[Path, ...], known: Mapping[str, str]) -> Clause:
    return tuple(dict.fromkeys("/".join(path.fill(known)) for path in clause))


def _words(ids: Mapping[str, str]) -> str:
    return " and ".join(ids)
