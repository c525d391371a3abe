"""Laws of paths, patterns and selectors."""

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

pytestmark = pytest.mark.slow

paths = st.lists(st.sampled_from(["a", "b", "c1"]), max_size=4).map(lambda parts: "/".join(parts) + "/")
patterns = st.one_of(paths, paths.map(lambda path: EVERYTHING if path == "/" else path + "*"))
selectors = st.lists(st.lists(paths, min_size=1, max_size=2).map(tuple), min_size=1, max_size=2).map(tuple)


@pytest.mark.parametrize("spelling", ["org/acme", "/org/acme", "org/acme/", "/org/acme/"])
def test_slashes_at_the_ends_of_a_path_are_optional(spelling: str) -> None:
    assert "org/acme/" == canonical_path(spelling)


@pytest.mark.parametrize("text", ["", "a//b", "A", "user/al ice", "a/*", "user=x", "ü", "a/" * 33, "x" * 65, "-a"])
def test_an_invalid_path_is_refused(text: str) -> None:
    with pytest.raises(BadScope):
        canonical_path(text)


@given(patterns)
def test_a_canonical_pattern_is_already_canonical(pattern: str) -> None:
    assert pattern == canonical_pattern(pattern)


@given(patterns, patterns, paths)
def test_a_containing_pattern_covers_every_path_of_the_contained_one(wide: str, narrow: str, path: str) -> None:
    if contains(wide, narrow) and covers(narrow, path):
        assert covers(wide, path)


@given(st.lists(patterns, max_size=3), st.lists(patterns, max_size=3), paths)
def test_an_intersection_covers_exactly_what_both_cover(left: list[str], right: list[str], path: str) -> None:
    both = any(covers(one, path) for one in left) and any(covers(one, path) for one in right)

    assert both == any(covers(one, path) for one in intersection(left, right))


@given(st.lists(patterns, max_size=3), selectors)
def test_patterns_that_allow_writing_allow_reading(held: list[str], selector: tuple[tuple[str, ...], ...]) -> None:
    if within(held, selector):
        assert readable(held, selector)


@given(selectors)
def test_a_row_is_found_through_its_own_selector_and_an_empty_lens(selector: tuple[tuple[str, ...], ...]) -> None:
    assert involves(selector, selector)
    assert involves((), selector)


@given(paths)
def test_ancestors_cover_the_path_as_subtrees(path: str) -> None:
    for above in ancestors(path):
        assert covers(above + "*", path)
        assert above != path


def test_a_lens_clause_needs_all_its_patterns() -> None:
    row = (("team/a/", "clearance/x/"),)

    assert involves((("team/a/", "clearance/*"),), row)
    assert not involves((("team/a/", "team/b/"),), row)
    assert involves((("team/b/",), ("team/a/",)), row)


def test_a_bare_string_in_a_selector_is_a_clause() -> None:
    assert (("a/",), ("b/",)) == parse_selector(["a", "b"])
    assert (("a/", "b/"),) == parse_selector([["a", "b", "a/"]])
    assert () == parse_selector(None)


@pytest.mark.parametrize("value", [5, {}, [[]], [[5]], [5], [["a/*"]]])
def test_an_invalid_selector_is_refused(value: object) -> None:
    with pytest.raises(BadScope):
        parse_selector(value)
