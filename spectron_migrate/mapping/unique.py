"""No two ids share a scope, over a whole mapping: found when the mapping is loaded, not in the data.

A path names an id from the level on where its segment stands; that node and everything below it belong to
that id. So a mapping is refused where a path of any rule can reach such a node with the same number of
levels without naming the same id in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from spectron_migrate.mapping.rules import IDS, Captured, Direct, LookedUp, Part, Path, Plain, Rule
from spectron_migrate.mapping.segments import segment
from spectron_migrate.mapping.when import Exact, Flag


def collisions(rules: Sequence[Rule]) -> Iterator[str]:
    """Every way in which two ids could come to share a scope, as a sentence; none in a sound mapping."""
    written = [(rule, path) for rule in rules for path in rule.paths]
    for rule, path in written:
        for field in IDS:
            if path.names(field) and path.depth_of(field) is None:
                yield f"{rule.label}: {path} has only a part, so it can become one scope for two different {field}"
    told: set[frozenset[str]] = set()
    named = [
        (rule, path, field, depth)
        for rule, path in written
        for field in IDS
        if (depth := path.depth_of(field)) is not None
    ]
    for (rule, path, field, depth), (other, beside) in product(named, written):
        if _can_reach(rule, path, other, beside, depth, field):
            pair = frozenset((f"{rule.label} {path}", f"{other.label} {beside}"))
            if pair not in told:
                told.add(pair)
                both = rule.label if rule is other else f"{rule.label} and {other.label}"
                yield f"{both}: {path} and {beside} can become one scope for two different {field}"


def _can_reach(rule: Rule, path: Path, other: Rule, beside: Path, depth: int, field: str) -> bool:
    if len(beside.levels) < depth:
        return False
    named_otherwise = False
    for (word, part), (its_word, its_part) in zip(path.levels[:depth], beside.levels, strict=False):
        if word != its_word or not _may_be_equal(rule, part, other, its_part):
            return False
        named_otherwise = named_otherwise or (_names(part, field) and part != its_part)
    return named_otherwise


def _names(part: Part, field: str) -> bool:
    return part.field == field and isinstance(part, Direct | Captured)


def _may_be_equal(rule: Rule, part: Part, other: Rule, beside: Part) -> bool:
    """Whether two parts could fill a level with one segment; True where that cannot be excluded."""
    if isinstance(beside, Plain):
        return may_be_text(rule, part, beside.text)
    if isinstance(part, Plain):
        return may_be_text(other, beside, part.text)
    return True


def may_be_text(rule: Rule, part: Part, text: str) -> bool:
    """Whether a part could fill its level with this segment."""
    if isinstance(part, Plain):
        return part.text == text
    if isinstance(part, LookedUp):
        return text in part.lookup.segments
    asked = rule.asks(part.field)
    if isinstance(part, Captured) or asked is None or isinstance(asked, Flag):
        return True
    if isinstance(asked, Exact):
        return asked.number is not None or segment(asked.spec) == text
    # Plain text is a legal segment, so only the very same value can become it.
    return segment(text) != text or asked.matches(text)


def may_be_one_node(rule: Rule, path: Path, node: str) -> bool:
    """Whether a memory of the rule could be written to exactly this node."""
    segments = node.split("/")
    words, texts = segments[::2], segments[1::2]
    return len(texts) == len(path.levels) and all(
        word == its_word and may_be_text(rule, part, text)
        for (its_word, part), word, text in zip(path.levels, words, texts, strict=True)
    )
