"""Paths, patterns and selectors: the laws of the tree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.local.scopes import (
    EVERYTHING,
    BadScope,
    ancestors,
    canonical_path,
    canonical_pattern,
    contains,
    covers,
    intersection,
    involves,
    parse_selector,
    readable,
    within,
)

paths = st.lists(st.sampled_from(["a", "b", "c1"]), max_size=4).map(lambda parts: "/".join(parts) + "/")
patterns = st.one_of(paths, paths.map(lambda path: EVERYTHING if path == "/" else path + "*"))
selectors = st.lists(st.lists(paths, min_size=1, max_size=2).map(tuple), min_size=1, max_size=2).map(tuple)


@pytest.mark.parametrize("spelling", ["org/acme", "/org/acme", "org/acme/", "/org/acme/"])
def test_all_spellings_of_a_path_are_one_node(spelling: str) -> None:
    """Slashes at the ends are optional; the canonical form has one at the end."""
    assert "org/acme/" == canonical_path(spelling)


@pytest.mark.parametrize("text", ["", "a//b", "A", "user/al ice", "a/*", "user=x", "ü", "a/" * 33, "x" * 65, "-a"])
def test_what_is_no_path_is_refused(text: str) -> None:
    """Segments are lower-case letters, digits, dots, underscores and hyphens, and no more than so many."""
    with pytest.raises(BadScope):
        canonical_path(text)


@given(patterns)
def test_a_canonical_pattern_stays_as_it_is(pattern: str) -> None:
    """Canonical twice is canonical once."""
    assert pattern == canonical_pattern(pattern)


@given(patterns, patterns, paths)
def test_a_wider_pattern_covers_what_a_narrower_one_does(wide: str, narrow: str, path: str) -> None:
    """`contains` is about all paths at once."""
    if contains(wide, narrow) and covers(narrow, path):
        assert covers(wide, path)


@given(st.lists(patterns, max_size=3), st.lists(patterns, max_size=3), paths)
def test_an_intersection_covers_what_both_cover(left: list[str], right: list[str], path: str) -> None:
    """No more and no less: it decides what a delegated caller may do."""
    both = any(covers(one, path) for one in left) and any(covers(one, path) for one in right)

    assert both == any(covers(one, path) for one in intersection(left, right))


@given(st.lists(patterns, max_size=3), selectors)
def test_who_may_write_somewhere_could_read_it(held: list[str], selector: tuple[tuple[str, ...], ...]) -> None:
    """Writing needs every clause, reading one."""
    if within(held, selector):
        assert readable(held, selector)


@given(selectors)
def test_every_row_is_seen_through_its_own_selector(selector: tuple[tuple[str, ...], ...]) -> None:
    """And through an empty lens."""
    assert involves(selector, selector)
    assert involves((), selector)


@given(paths)
def test_ancestors_cover_the_path_as_subtrees(path: str) -> None:
    """Each is above it."""
    for above in ancestors(path):
        assert covers(above + "*", path)
        assert above != path


def test_a_lens_clause_needs_all_its_patterns() -> None:
    """Clauses are alternatives, patterns of a clause are not."""
    row = (("team/a/", "clearance/x/"),)

    assert involves((("team/a/", "clearance/*"),), row)
    assert not involves((("team/a/", "team/b/"),), row)
    assert involves((("team/b/",), ("team/a/",)), row)


def test_a_flat_list_is_a_list_of_alternatives() -> None:
    """As the published text says since it changed: a bare string is a clause of its own."""
    assert (("a/",), ("b/",)) == parse_selector(["a", "b"])
    assert (("a/", "b/"),) == parse_selector([["a", "b", "a/"]])
    assert () == parse_selector(None)


@pytest.mark.parametrize("value", [5, {}, [[]], [[5]], [5], [["a/*"]]])
def test_what_is_no_selector_is_refused(value: object) -> None:
    """Patterns are for lenses."""
    with pytest.raises(BadScope):
        parse_selector(value)
