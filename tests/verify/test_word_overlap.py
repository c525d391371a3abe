"""What a search that only counts shared words would find, as a probability where memories share equally many."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.keywords import topics_of, words_of
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.verify.options import VerifyOptions
from spectron_migrate.verify.word_overlap import Asked, word_overlap_successes
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import HOBBIES, WordSearch, verify

BEES = [("a", "keeps bees"), ("b", "keeps geese"), ("c", "sings alto")]


def success_of(query: str, expect: set[str], k: int, memories: list[tuple[str, str]] = BEES) -> float:
    return word_overlap_successes([Asked(0, query, frozenset(expect))], memories, k)[0]


@pytest.mark.parametrize(
    ("query", "expect", "k", "success"),
    [
        ("what about bees", {"a"}, 1, 1.0),
        ("keeps", {"a"}, 1, 0.5),
        ("keeps", {"a"}, 2, 1.0),
        ("keeps geese", {"a"}, 1, 0.0),
        ("keeps geese", {"a"}, 2, 1.0),
        ("violin", {"a"}, 3, 0.0),
        ("keeps", {"a", "b"}, 1, 1.0),
        ("keeps", {"gone"}, 1, 0.0),
    ],
)
def test_a_memory_is_found_by_the_words_that_it_shares(query: str, expect: set[str], k: int, success: float) -> None:
    assert success == success_of(query, expect, k)


SOME = st.lists(st.sampled_from(["bees", "geese", "alto", "rye", "stamps"]), min_size=1, max_size=4).map(" ".join)


@pytest.mark.slow
@given(st.lists(SOME, min_size=1, max_size=6), SOME, st.integers(1, 4), st.integers(0, 9))
def test_it_is_the_mean_over_every_order_of_equal_memories(texts: list[str], query: str, k: int, target: int) -> None:
    memories = [(str(number), text) for number, text in enumerate(texts)]
    wanted = str(target % len(texts))

    def rank(one: tuple[str, str], chance: random.Random) -> tuple[int, float]:
        return -len(set(topics_of(query)) & set(words_of(one[1]))), chance.random()

    found = 0
    for seed in range(300):
        chance = random.Random(seed)
        ordered = sorted((rank(one, chance), one[0]) for one in memories)
        found += any(mem0_id == wanted and shared < 0 for (shared, _), mem0_id in ordered[:k])
    assert success_of(query, {wanted}, k, memories) == pytest.approx(found / 300, abs=0.15)


@given(st.lists(SOME, min_size=1, max_size=6), st.lists(SOME, min_size=1, max_size=4))
def test_queries_asked_together_are_measured_as_if_asked_alone(texts: list[str], queries: list[str]) -> None:
    memories = [(str(number), text) for number, text in enumerate(texts)]
    asked = [Asked(number, query, frozenset({"0"})) for number, query in enumerate(queries)]
    together = word_overlap_successes(asked, memories, 2)
    assert together == {one.number: success_of(one.query, {"0"}, 2, memories) for one in asked}


@pytest.mark.slow
def test_a_verification_says_how_hard_its_queries_were(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [memory(number, user, text) for number, text in enumerate(HOBBIES)]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    page = tmp_path / "verify.md"
    options = VerifyOptions(top_k=1, reports=(page,))
    summary = verify(spectron, tmp_path / "state", [dump], options, mem0=WordSearch(rows))
    assert 1.0 == summary.to_json()["metrics"]["word_overlap"]
    assert all("word_overlap" in answer["measures"] for answer in summary.report["answers"])
    assert "how hard: counting shared words alone finds 1.000: these queries are easy" in page.read_text()
