"""Mem0's search on a copy made of a dump: the same answers as on the store, which is never opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError, Unreachable
from spectron_migrate.mem0.dump_search import needs_copy_of_dump, open_dump_search
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.mem0.search import Mem0Search, open_search
from spectron_migrate.mem0.wordllama_embedder import WordLlamaEmbedding
from spectron_migrate.records import Memory
from tests.mem0.conftest import NOW

pytestmark = pytest.mark.slow

UNREACHABLE = {"provider": "redis", "config": {"redis_url": "redis://127.0.0.1:1", "collection_name": "mem0"}}


@pytest.fixture(scope="module")
def config(rehearsal_store: Path) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(rehearsal_store.read_text(encoding="utf-8"))
    return whole


@pytest.fixture(scope="module")
def memories(config: dict[str, Any]) -> list[Memory]:
    with open_oss(config, now=NOW) as reader:
        return [row for row in reader.rows() if isinstance(row, Memory)]


@pytest.fixture(scope="module")
def search(
    config: dict[str, Any], memories: list[Memory], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mem0Search]:
    elsewhere = {**config, "vector_store": UNREACHABLE}
    with open_dump_search(elsewhere, memories, scratch=tmp_path_factory.mktemp("search")) as opened:
        yield opened


def of_user(memories: list[Memory]) -> dict[str, Any]:
    return next(one.entity_ids for one in memories if set(one.entity_ids) == {"user_id"})


def test_it_answers_as_mem0_does_on_the_store_itself(
    search: Mem0Search, config: dict[str, Any], rehearsal_store: Path, tmp_path: Path
) -> None:
    lines = (rehearsal_store.parent / "queries.jsonl").read_text("utf-8").splitlines()
    questions = [json.loads(line) for line in lines]
    with open_search(config, scratch=tmp_path) as on_the_store:
        differ = []
        for row in questions:
            ids = {name: row[name] for name in ("user_id", "agent_id") if row.get(name)}
            # One more than is compared: of equal scores at the end of the list either may be cut off.
            expected = on_the_store.search(row["query"], top_k=6, **ids)
            found = {hit.id for hit in search.search(row["query"], top_k=6, **ids)}
            least = expected[-1].score if len(expected) == 6 else None
            certain = [hit.id for hit in expected if least is None or (hit.score or 0.0) > least + 1e-4]
            if not found.issuperset(certain):
                differ.append(row["query"])
    assert [] == differ


def test_it_says_what_the_answers_are_of(search: Mem0Search) -> None:
    assert search.describe().endswith("on a copy made of the dump")


def test_only_who_is_asked_about_is_embedded_and_only_once(
    config: dict[str, Any], memories: list[Memory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[str] = []
    embed = WordLlamaEmbedding.embed

    def counting(self: WordLlamaEmbedding, text: str, memory_action: Any = None) -> list[float]:
        if memory_action == "add":
            embedded.append(text)
        return embed(self, text, memory_action)

    monkeypatch.setattr(WordLlamaEmbedding, "embed", counting)
    ids = of_user(memories)
    own = [one.memory for one in memories if one.user_id == ids["user_id"] and one.state == "active"]
    with open_dump_search({**config, "vector_store": UNREACHABLE}, memories, scratch=tmp_path) as opened:
        for query in ("one question", "another question"):
            opened.search(query, top_k=3, **ids)
    assert sorted(own) == sorted(embedded)


def test_ids_that_qdrant_would_refuse_come_back_as_they_are(
    config: dict[str, Any], memories: list[Memory], tmp_path: Path
) -> None:
    ids = of_user(memories)
    odd = [replace(one, id=f"row/{number}") for number, one in enumerate(memories)]
    with open_dump_search({**config, "vector_store": UNREACHABLE}, odd, scratch=tmp_path) as opened:
        hits = opened.search(odd[0].memory, top_k=3, **ids)
    assert hits
    assert {hit.id for hit in hits} <= {one.id for one in odd}


def test_what_mem0_does_not_show_is_not_found(config: dict[str, Any], memories: list[Memory], tmp_path: Path) -> None:
    ids = of_user(memories)
    hidden = [replace(one, state="expired") for one in memories]
    with open_dump_search({**config, "vector_store": UNREACHABLE}, hidden, scratch=tmp_path) as opened:
        assert [] == opened.search("anything at all", top_k=3, **ids)


def test_an_embedder_that_does_not_answer_or_lacks_its_key_is_one_sentence(
    config: dict[str, Any], memories: list[Memory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: WordLlamaEmbedding, text: str, memory_action: Any = None) -> list[float]:
        raise ConnectionError("sk-secret")

    no_key = {"vector_store": UNREACHABLE, "embedder": {"provider": "openai", "config": {}}}
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="could not be constructed") as lacking:
        open_dump_search(no_key, memories, scratch=tmp_path / "a")
    assert "key" in (lacking.value.hint or "")
    monkeypatch.setattr(WordLlamaEmbedding, "embed", fail)
    with pytest.raises(Unreachable, match="did not answer: ConnectionError"):
        open_dump_search({**config, "vector_store": UNREACHABLE}, memories, scratch=tmp_path / "b")


@pytest.mark.parametrize(
    ("store", "needed"),
    [
        ({"provider": "qdrant", "config": {"path": "/data/q"}}, False),
        ({"provider": "qdrant", "config": {"host": "localhost", "port": 6333}}, True),
        ({"provider": "pgvector", "config": {}}, True),
        ({"provider": "chroma", "config": {"path": "/data/c"}}, True),
        ({"provider": "memory", "config": {}}, False),
    ],
)
def test_only_an_embedded_qdrant_is_copied_itself(store: dict[str, Any], needed: bool) -> None:
    assert needed == needs_copy_of_dump({"vector_store": store})
