"""Every memory is asked for once in a lens that must not see it, and over the sample all pairs get their turn."""

from __future__ import annotations

from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.verify.isolation import ScopeReader
from spectron_migrate.verify.other_lenses import OtherReaders
from tests.support.spectron import memory, replay, write_raw
from tests.verify.rewriting_proxy import rewriting_answers
from tests.verify.support import FILLED_TEXTS, gate_named, verify

pytestmark = pytest.mark.slow

READERS = [ScopeReader(number, ((f"user/{number}",),), ((f"user/{number}",),)) for number in range(6)]


def held(scope: int) -> Any:
    return SimpleNamespace(scope=scope, selector=((f"user/{scope}",),))


def chosen(readers: list[ScopeReader], per_scope: int, *, seed: int = 0) -> list[tuple[int, int]]:
    others = OtherReaders(readers, Random(seed))
    found = [(scope, others.next_for(held(scope))) for scope in range(len(readers)) for _ in range(per_scope)]
    return [(scope, other.scope) for scope, other in found if other is not None]


def test_with_as_many_memories_as_readers_all_pairs_are_asked_about() -> None:
    assert {(left, right) for left in range(6) for right in range(6) if left != right} == set(chosen(READERS, 5))


def test_with_one_memory_a_scope_every_reader_is_asked_once() -> None:
    pairs = chosen(READERS, 1)
    assert list(range(6)) == sorted(right for _, right in pairs)
    assert pairs == chosen(READERS, 1)
    assert pairs != chosen(READERS, 1, seed=1)


def test_a_reader_who_may_see_the_memory_is_passed_over() -> None:
    everywhere = ScopeReader(6, (("org",),), (("user/*",),))
    assert 6 not in {right for _, right in chosen([*READERS, everywhere], 6)[:36]}


def test_nobody_is_asked_where_everybody_may_see_it() -> None:
    assert OtherReaders([READERS[0]], Random(0)).next_for(held(0)) is None


def test_there_is_one_question_a_memory_and_the_gate_says_so(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, f"{user}{name}", text) for name in "ab" for number, text in enumerate(FILLED_TEXTS)]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    asked: list[Any] = []

    def note(path: str, question: Any, answer: Any) -> Any:
        if path.endswith("/query"):
            asked.append(question)
        return answer

    with rewriting_answers(spectron.base_url, note) as endpoint:
        summary = verify(spectron, tmp_path / "state", [dump], endpoint=endpoint)
    assert 12 == summary.report["measured"]["isolation"]["questions"]
    assert "no leak in 12 questions, so fewer than 22 % leak (95 % confidence)" == gate_named(summary, "isolation").hint
    placement = [one for one in asked if one["mode"] == "bm25" and one["include"] == ["passages"]]
    assert 12 == len(placement)
