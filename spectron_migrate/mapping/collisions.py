"""Finds out, when a mapping is loaded, whether two ids could share a scope. This does not need the data.

A path belongs to an id from the level on where the id's segment stands: that node and everything below it are the id's
own. So a mapping is refused if a path of any rule can reach such a node without containing the same id in the same way.
For example `user/{user_id}` and `user/{agent_id}`: the user `x` and the agent `x` would share `user/x`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from spectron_migrate.mapping.conditions import Boolean, Exact
from spectron_migrate.mapping.rules import (
    OWNER_FIELDS,
    CapturedSegment,
    Constant,
    FieldSegment,
    LookupSegment,
    PathTemplate,
    Rule,
    SegmentTemplate,
)
from spectron_migrate.mapping.segments import segment


def find_collisions(rules: Sequence[Rule]) -> Iterator[str]:
    """A sentence for each way in which two ids could share a scope; none for a sound mapping."""
    all_paths = [(rule, path) for rule in rules for path in rule.paths]
    for rule, path in all_paths:
        for field in OWNER_FIELDS:
            if path.contains(field) and path.depth_of(field) is None:
                yield f"{rule.label}: {path} has only a part, so it can become one scope for two different {field}"
    owned = [
        (rule, path, field, depth)
        for rule, path in all_paths
        for field in OWNER_FIELDS
        if (depth := path.depth_of(field)) is not None
    ]
    reported: set[frozenset[str]] = set()
    for (rule, path, field, depth), (other, other_path) in product(owned, all_paths):
        pair = frozenset((f"{rule.label} {path}", f"{other.label} {other_path}"))
        if pair not in reported and _can_reach(rule, path, other, other_path, depth, field):
            reported.add(pair)
            labels = rule.label if rule is other else f"{rule.label} and {other.label}"
            yield f"{labels}: {path} and {other_path} can become one scope for two different {field}"


def _can_reach(rule: Rule, path: PathTemplate, other: Rule, other_path: PathTemplate, depth: int, field: str) -> bool:
    """Whether `other_path` can reach the node that belongs to the `field` of `path` at `depth`, for another id."""
    if len(other_path.levels) < depth:
        return False
    differs = False
    for (word, part), (other_word, other_part) in zip(path.levels[:depth], other_path.levels, strict=False):
        if word != other_word or not _may_be_equal(rule, part, other, other_part):
            return False
        is_of_field = part.field == field and isinstance(part, FieldSegment | CapturedSegment)
        differs = differs or (is_of_field and part != other_part)
    return differs


def _may_be_equal(rule: Rule, part: SegmentTemplate, other: Rule, other_part: SegmentTemplate) -> bool:
    """Whether two templates could fill a level with the same segment; True if that cannot be excluded."""
    if isinstance(other_part, Constant):
        return _may_be_text(rule, part, other_part.text)
    if isinstance(part, Constant):
        return _may_be_text(other, other_part, part.text)
    return True


def _may_be_text(rule: Rule, part: SegmentTemplate, text: str) -> bool:
    """Whether a template of the rule could fill its level with this segment."""
    if isinstance(part, Constant):
        return part.text == text
    if isinstance(part, LookupSegment):
        return text in part.lookup.segments
    condition = rule.condition_on(part.field)
    if isinstance(part, CapturedSegment) or condition is None or isinstance(condition, Boolean):
        return True
    if isinstance(condition, Exact):
        return condition.number is not None or segment(condition.spec) == text
    # A constant is a legal segment, so only the same value can become it.
    return segment(text) != text or condition.matches(text)


def may_be_one_node(rule: Rule, path: PathTemplate, node: str) -> bool:
    """Whether a memory of the rule could be written to exactly this node, such as `org/acme`."""
    segments = node.split("/")
    words, texts = segments[::2], segments[1::2]
    return len(texts) == len(path.levels) and all(
        word == its_word and _may_be_text(rule, part, text)
        for (its_word, part), word, text in zip(path.levels, words, texts, strict=True)
    )
