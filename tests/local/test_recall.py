"""Queries: lenses, modes, duplicates, labels, the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectron_migrate.local.engine import ContractReading
from tests.local.support import Spectron, spectron

ALICE, BOB = "org/acme/user/alice", "org/acme/user/bob"


@pytest.fixture
def two(local: Spectron) -> Spectron:
    """Two users of one organisation, each with a memory."""
    local.register(ALICE, BOB)
    local.remember("Alice plays the violin", ALICE, infer="none")
    local.remember("Bob plays the trumpet", BOB, infer="none")
    local.remember("Everybody plays on Fridays", "org/acme", infer="none")
    return local


@pytest.mark.parametrize(
    ("lens", "expected"),
    [
        ([], {"Alice", "Bob", "Everybody"}),
        ([[ALICE]], {"Alice"}),
        ([[ALICE], [BOB]], {"Alice", "Bob"}),
        ([[ALICE, BOB]], set()),
        ([["org/acme"]], {"Everybody"}),
        ([["org/acme/*"]], {"Alice", "Bob", "Everybody"}),
        ([["org/acme/user/*"]], {"Alice", "Bob"}),
        ([["/*"]], {"Alice", "Bob", "Everybody"}),
        ([["org/other/*"]], set()),
    ],
)
@pytest.mark.parametrize("mode", ["hybrid", "vector", "bm25"])
def test_a_lens_narrows_the_hits_and_is_never_an_error(
    two: Spectron, lens: list[list[str]], expected: set[str], mode: str
) -> None:
    assert expected == {text.split()[0] for text in two.passages("who plays what", lens=lens, mode=mode)}


@pytest.mark.every_generation
def test_a_row_with_several_clauses_is_found_through_each(local: Spectron) -> None:
    local.register("team/a", "team/b")
    local.ok("POST", "/facts", {"text": "shared plan", "scopes": [["team/a"], ["team/b"]]})
    local.ok("POST", "/facts", {"text": "joint plan", "scopes": [["team/a", "team/b"]]})

    assert {"shared plan", "joint plan"} == set(local.passages("plan", lens=[["team/a"]]))
    assert {"shared plan", "joint plan"} == set(local.passages("plan", lens=[["team/a", "team/b"]]))


def test_a_reading_excludes_the_root_of_a_subtree() -> None:
    with spectron(reading=ContractReading(subtree_has_root=False)) as local:
        local.register(ALICE)
        local.remember("one", "org/acme", infer="none")
        local.remember("two", ALICE, infer="none")

        assert ["two"] == local.passages("one two", lens=[["org/acme/*"]])


def test_k_is_at_most_50(two: Spectron) -> None:
    assert 400 == two.call("POST", "/query", {"query": "x", "k": 51}).status
    assert [] == two.recall("plays", k=0)
    assert 1 == len(two.recall("plays", k=1))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": " "},
        {"query": "x", "mode": "magic"},
        {"query": "x", "include": ["everything"]},
        {"query": "x", "k": "ten"},
        {"query": "x", "asOf": "now"},
        {"query": "x", "lens": [["NOT"]]},
        {"query": "x", "scopeView": "wide"},
    ],
)
def test_an_invalid_query_is_400_and_names_the_field(local: Spectron, body: Any) -> None:
    assert 400 == local.call("POST", "/query", body).status


@pytest.mark.parametrize(
    "field", [{"atInstant": "2024-01-01T00:00:00Z"}, {"validFrom": "2024-01-01T00:00:00Z"}, {"location": {}}]
)
def test_unsupported_filters_are_refused(local: Spectron, field: Any) -> None:
    assert 400 == local.call("POST", "/query", {"query": "x", **field}).status


@pytest.mark.every_generation
def test_include_chooses_facts_or_passages(local: Spectron) -> None:
    local.remember("Lives in Berlin")

    assert {"attribute", "memory_chunk"} == {hit["source"] for hit in local.recall("Berlin")}
    assert ["user lives in: Berlin"] == [hit["text"] for hit in local.recall("Berlin", include=["facts"])]
    assert ["Lives in Berlin"] == [hit["text"] for hit in local.recall("Berlin", include=["passages"])]


@pytest.mark.every_generation
def test_near_duplicates_are_hidden_by_default_and_replace_a_removed_original(local: Spectron) -> None:
    local.register(ALICE, BOB)
    sessions = [local.ok("POST", "/sessions", {"scopes": [[ALICE]]})["id"] for _ in range(2)]
    for session, text in zip(sessions, ["Plays the violin", "plays the  violin!"], strict=True):
        local.remember(text, session_id=session, infer="none")
    local.remember("Plays the violin", BOB, infer="none")

    assert ["Plays the violin"] == local.passages("violin", lens=[[ALICE]])
    assert 2 == len(local.passages("violin", lens=[[ALICE]], includeDuplicates=True))
    assert 2 == len(local.passages("violin"))
    local.ok("DELETE", f"/sessions/{sessions[0]}")
    assert ["plays the  violin!"] == local.passages("violin", lens=[[ALICE]])


def test_texts_that_differ_in_a_word_are_no_near_duplicates(local: Spectron) -> None:
    for city in ("Berlin", "Lisbon", "Rome"):
        local.remember(f"The user told us that they live in {city} with their family", infer="none")

    assert 3 == len(local.passages("where do they live"))


def test_labels_narrow_to_passages_and_facts_that_have_all(local: Spectron) -> None:
    local.remember("Lives in Berlin", labels=["source=mem0", "run=1"])
    local.remember("Lived in Rome", labels=["source=mem0"])

    assert {"user lives in: Berlin", "Lives in Berlin"} == {
        hit["text"] for hit in local.recall("lives", labels=["source=mem0", "run=1"])
    }
    assert [] == local.recall("lives", labels=["source=other"])


def test_words_match_by_stem_and_common_words_match_nothing(local: Spectron) -> None:
    for number in range(5):
        local.remember(f"What is the plan for topic{number}", infer="none")
    local.remember("Plays violins", infer="none")

    assert "Plays violins" == local.passages("What does the user play on the violin?", mode="bm25")[0]
    assert 1 == len(local.passages("What is the violin", mode="bm25"))


@pytest.mark.parametrize(
    "query", ['"', "AND OR NOT", "text:x", "a*", "NEAR(a b)", "-x", "(", "selector : 1", "\u0000", "🙂", "%", "' OR 1"]
)
@pytest.mark.parametrize("mode", ["hybrid", "bm25", "graph"])
def test_query_text_is_never_fts_syntax(two: Spectron, query: str, mode: str) -> None:
    assert 200 == two.call("POST", "/query", {"query": query, "mode": mode, "lens": [[ALICE]]}).status


def test_graph_mode_returns_named_entities_their_facts_and_those_of_neighbours(local: Spectron) -> None:
    local.remember("Alice works at Siemens")
    local.remember("Bob lives in Rome")

    hits = local.recall("Who knows Siemens?", mode="graph")

    assert [("entity", "organisation Siemens"), ("attribute", "Alice works at: Siemens")] == [
        (hit["source"], hit["text"]) for hit in hits
    ]
    assert [] == local.recall("Who knows nobody?", mode="graph")


def test_the_answer_names_seed_entities(local: Spectron) -> None:
    local.remember("Alice works at Siemens")

    answer = local.ok("POST", "/query", {"query": "where does alice work?"})

    assert ["Alice"] == answer["seedEntities"]
    assert "direct_lookup" == answer["classificationKind"]
    assert "hybrid" == local.ok("POST", "/query", {"query": "anything else?"})["classificationKind"]


def test_an_equal_query_in_the_same_lens_is_answered_from_the_cache_until_a_write(two: Spectron) -> None:
    question = {"query": "who plays the violin?", "lens": [[ALICE]]}

    first = two.ok("POST", "/query", question)
    again = two.ok("POST", "/query", {**question, "query": "The violin: who plays?"})
    elsewhere = two.ok("POST", "/query", {**question, "lens": [[BOB]]})
    two.remember("Alice also plays the flute", ALICE, infer="none")
    after = two.ok("POST", "/query", question)

    assert ["hybrid", "cache", "hybrid", "hybrid"] == [answer["tier"] for answer in (first, again, elsewhere, after)]
    assert first["hits"] == again["hits"]
    assert ["Bob plays the trumpet"] == [hit["text"] for hit in elsewhere["hits"]]
    assert 2 == len(after["hits"])


def test_a_reading_shares_the_cache_across_lenses() -> None:
    with spectron(reading=ContractReading(shared_cache=True)) as local:
        local.register(ALICE, BOB)
        local.remember("Alice plays the violin", ALICE, infer="none")
        local.recall("who plays the violin?", lens=[[ALICE]])

        assert ["Alice plays the violin"] == [
            hit["text"] for hit in local.recall("who plays the violin?", lens=[[BOB]])
        ]


def test_context_is_the_hits_as_text_and_of_the_sessions_scope_for_a_session(two: Spectron) -> None:
    context = two.ok("POST", "/context", {"query": "violin", "lens": [[ALICE]]})["context"]
    session = two.ok("POST", "/sessions", {"scopes": [[BOB]]})["id"]

    assert "- Alice plays the violin" in context
    assert "" == two.ok("POST", "/context", {"query": "violin", "lens": [["nobody"]]})["context"]
    assert "- Bob plays the trumpet" in two.ok("POST", f"/sessions/{session}/context", {"query": "plays"})["context"]


texts = st.lists(st.text(st.sampled_from("abcd "), min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=8)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts)
def test_every_memory_is_found_by_its_own_text_before_and_after_a_restart(tmp_path: Path, texts: list[str]) -> None:
    data = tmp_path / str(len(list(tmp_path.iterdir())))

    def found(local: Spectron) -> list[list[Any]]:
        return [local.recall(text, k=50, includeDuplicates=True) for text in texts]

    with spectron(data=data) as local:
        for text in texts:
            local.remember(text, infer="none")
        before = found(local)
    with spectron(data=data) as local:
        after = found(local)

    assert before == after
    for text, hits in zip(texts, before, strict=True):
        assert text in {hit["text"] for hit in hits}
