"""Cyclic garbage is searched for less often while many rows are read, and as before afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from spectron_migrate.garbage import fewer_collections


@pytest.fixture(autouse=True)
def _thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize("given", [(700, 10, 10), (100_000, 5, 5), (0, 10, 10)])
def test_the_application_s_own_numbers_are_back_even_after_an_error(given: tuple[int, int, int]) -> None:
    gc.set_threshold(*given)

    def fail() -> None:
        with fewer_collections():
            inside.append(gc.get_threshold())
            raise KeyError

    inside: list[tuple[int, int, int]] = []
    with pytest.raises(KeyError):
        fail()

    assert [(max(50_000, given[0]) if given[0] else 0, *given[1:])] == inside
    assert given == gc.get_threshold()


def test_blocks_of_two_threads_end_in_any_order() -> None:
    before = gc.get_threshold()
    first, second = fewer_collections(), fewer_collections()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert before != gc.get_threshold()
    second.__exit__(None, None, None)

    assert before == gc.get_threshold()
