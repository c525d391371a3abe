"""Mem0's own search on a copy: right answers, and the user's store does not change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError, Unreachable
from spectron_migrate.mem0.search import Mem0Search, SearchHit, mem0_home, open_search
from spectron_migrate.mem0.stores.config_spellings import OWN_KEY, python_config

pytestmark = pytest.mark.slow

HOLDS_THE_STORE = """
import sys
from qdrant_client import QdrantClient
client = QdrantClient(path=sys.argv[1])
print("held", flush=True)
sys.stdin.read()
client.close()
"""


@pytest.fixture(scope="module")
def config_path(rehearsal_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Mem0 config of a copy of the rehearsal's store, which an application may hold; no test may change it."""
    copy = tmp_path_factory.mktemp("mem0") / "store"
    shutil.copytree(rehearsal_store.parent, copy)
    config = copy / rehearsal_store.name
    config.write_text(config.read_text(encoding="utf-8").replace(str(rehearsal_store.parent), str(copy)))
    return config


@pytest.fixture
def config(config_path: Path) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
    return whole


@pytest.fixture(scope="module")
def search(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mem0Search]:
    config = json.loads(config_path.read_text(encoding="utf-8"))
    with open_search(config, scratch=tmp_path_factory.mktemp("search")) as opened:
        yield opened


@pytest.fixture
def keys(config_path: Path) -> dict[str, str]:
    named: dict[str, str] = json.loads((config_path.parent / "keys.json").read_text(encoding="utf-8"))
    return named


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def with_store(config: dict[str, Any], **settings: Any) -> dict[str, Any]:
    store = config["vector_store"]
    return {**config, "vector_store": {**store, "config": {**store["config"], **settings}}}


def test_it_finds_memories_under_the_ids_that_the_store_has(search: Mem0Search, keys: dict[str, str]) -> None:
    hits = search.search("How many vans does the depot have?", user_id="acme:Kwame", top_k=3)
    assert keys["kwame.fleet"] == hits[0].id
    assert "The depot runs nineteen vans, five of them refrigerated" == hits[0].text


def test_it_answers_most_questions_of_the_data_set(search: Mem0Search, config_path: Path) -> None:
    rows = [json.loads(line) for line in (config_path.parent / "queries.jsonl").read_text("utf-8").splitlines()]
    found = 0
    for row in rows:
        hits = search.search(row["query"], user_id=row["user_id"], agent_id=row.get("agent_id"), top_k=5)
        found += any(hit.id in row["expect"] for hit in hits)
    assert found / len(rows) >= 0.85


def test_the_best_hit_is_first_and_there_are_never_more_than_requested(search: Mem0Search) -> None:
    hits = search.search("evening tea", user_id="alice", top_k=2)
    scores = [hit.score or 0.0 for hit in hits]
    assert 2 == len(hits)
    assert sorted(scores, reverse=True) == scores


def test_it_finds_memories_of_these_ids_alone(search: Mem0Search, keys: dict[str, str]) -> None:
    names = {value: key for key, value in keys.items()}
    query = "food, recipes and allergies"
    alone = search.search(query, user_id="alice", top_k=50)
    cooking = search.search(query, user_id="alice", agent_id="kitchen-helper", top_k=50)
    crew = search.search(query, agent_id="kitchen-helper", top_k=50)
    trip = search.search("rental car", user_id="alice", run_id="trip-azores", top_k=50)
    assert {"alice"} == {names[hit.id].split(".")[0] for hit in [*alone, *cooking, *trip]}
    assert {hit.id for hit in cooking} < {hit.id for hit in alone}
    assert {hit.id for hit in cooking} < {hit.id for hit in crew}
    assert {"alice.azores.car"} <= {names[hit.id] for hit in trip} <= {key for key in keys if "azores" in key}


def test_expired_and_deleted_memories_are_not_shown(search: Mem0Search, keys: dict[str, str]) -> None:
    parking = search.search("resident parking permit for Graça", user_id="alice", top_k=50)
    offer = search.search("offer from Nordlicht Bank", user_id="alice", top_k=50)
    assert keys["alice.parking"] not in {hit.id for hit in parking}
    assert keys["alice.offer"] not in {hit.id for hit in offer}


def test_it_says_which_mem0_and_embedder_answered(search: Mem0Search) -> None:
    from importlib import metadata

    assert f"mem0ai {metadata.version('mem0ai')}, embedder wordllama (offline)" == search.describe()


def test_a_query_without_any_id_is_refused(search: Mem0Search) -> None:
    with pytest.raises(InputError, match="needs a user, an agent or a run"):
        search.search("anything", top_k=5)


@pytest.mark.parametrize("on_disk", [True, False, None])
def test_not_a_byte_of_the_store_changes_whatever_the_config_says(
    config: dict[str, Any], config_path: Path, tmp_path: Path, on_disk: bool | None
) -> None:
    before = fingerprint(config_path.parent)
    with open_search(with_store(config, on_disk=on_disk), scratch=tmp_path) as search:
        assert search.search("tea", user_id="alice", top_k=5)
    assert before == fingerprint(config_path.parent)


def test_it_opens_while_an_application_holds_the_store(config: dict[str, Any], tmp_path: Path) -> None:
    folder = config["vector_store"]["config"]["path"]
    application = subprocess.Popen(
        [sys.executable, "-c", HOLDS_THE_STORE, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert application.stdin is not None
    assert application.stdout is not None
    try:
        assert "held\n" == application.stdout.readline()
        with open_search(config, scratch=tmp_path) as search:
            assert search.search("tea", user_id="alice", top_k=5)
    finally:
        application.stdin.close()
        application.wait(timeout=30)
        application.stdout.close()
    assert 0 == application.returncode


def test_no_language_model_key_and_no_graph_store_is_needed(config: dict[str, Any], tmp_path: Path) -> None:
    whole = {
        **config,
        "llm": {"provider": "openai", "config": {"model": "gpt-4o"}},
        "graph_store": {"provider": "neo4j", "config": {"url": "bolt://127.0.0.1:1", "username": "a", "password": "b"}},
    }
    with open_search(whole, scratch=tmp_path) as search:
        assert search.search("tea", user_id="alice", top_k=5)


def test_the_settings_it_needs_for_mem0_are_put_back(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEM0_DIR", "/somewhere/of/the/users")
    open_search(config, scratch=tmp_path).close()
    assert "/somewhere/of/the/users" == os.environ["MEM0_DIR"]
    from mem0.utils.factory import EmbedderFactory

    assert "mem0.embeddings.lmstudio.LMStudioEmbedding" == EmbedderFactory.provider_to_class["lmstudio"]


def test_closing_twice_is_harmless(config: dict[str, Any], tmp_path: Path) -> None:
    search = open_search(config, scratch=tmp_path / "first")
    search.close()
    search.close()
    with open_search(config, scratch=tmp_path / "second") as again:
        assert again.search("tea", user_id="alice", top_k=1)


def test_a_missing_folder_is_refused_before_anything_is_created(config: dict[str, Any], tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(InputError, match="there is no embedded Qdrant at"):
        open_search(with_store(config, path=str(missing)), scratch=tmp_path / "scratch")
    assert not missing.exists()
    assert not (tmp_path / "scratch").exists()


def test_an_unknown_collection_is_refused_with_those_that_exist(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no collection 'memories'") as refused:
        open_search(with_store(config, collection_name="memories"), scratch=tmp_path)
    assert "it has mem0" == refused.value.hint


@pytest.mark.parametrize(
    ("store", "named"),
    [
        ({"provider": "pgvector", "config": {"dbname": "mem0"}}, "pgvector"),
        ({"provider": "qdrant", "config": {"url": "http://127.0.0.1:6333", "api_key": "k"}}, "a Qdrant server"),
        ({"provider": "qdrant", "config": {"host": "127.0.0.1", "port": 6333}}, "a Qdrant server"),
    ],
)
def test_another_store_is_refused_with_the_other_way(store: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"names {named}") as refused:
        open_search({"vector_store": store}, scratch=tmp_path)
    assert "--mem0-results" in (refused.value.hint or "")


def test_an_embedder_that_cannot_be_constructed_is_named_without_its_key(
    config: dict[str, Any], tmp_path: Path
) -> None:
    mine = {key: value for key, value in config.items() if key != OWN_KEY}
    mine["embedder"] = {"provider": "openai", "config": {"api_key": "sk-very-secret", "nonsense": 1}}
    with pytest.raises(InputError, match="embedder openai") as refused:
        open_search(mine, scratch=tmp_path)
    assert "sk-very-secret" not in f"{refused.value} {refused.value.hint}"


def test_an_offline_embedder_that_we_do_not_have_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'word2vec'"):
        open_search({**config, OWN_KEY: {"embedder": "word2vec"}}, scratch=tmp_path)


class OlderMem0:
    """`search` before 2.0: ids as arguments, `limit`, and a bare list with a v1.0 config."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def search(
        self,
        query: str,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        self.asked.append({"user_id": user_id, "agent_id": agent_id, "run_id": run_id, "limit": limit})
        if query == "fail":
            raise ConnectionError("sk-very-secret")
        return [{"id": "1", "memory": "Likes tea", "score": 0.5}]


def test_mem0_before_2_is_called_with_its_own_arguments() -> None:
    older = OlderMem0()
    hits = Mem0Search(older, "older").search("tea", user_id="alice", run_id="r", top_k=7)
    assert [SearchHit("1", "Likes tea", 0.5)] == hits
    assert [{"user_id": "alice", "agent_id": None, "run_id": "r", "limit": 7}] == older.asked


def test_a_failure_of_mem0_is_never_an_empty_answer() -> None:
    with pytest.raises(Unreachable, match="ConnectionError") as failed:
        Mem0Search(OlderMem0(), "mem0ai 0.1, embedder openai").search("fail", user_id="alice", top_k=5)
    assert "sk-very-secret" not in f"{failed.value} {failed.value.hint}"


def test_mem0_with_telemetry_on_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mem0_home(tmp_path):
        from mem0.memory import telemetry
    monkeypatch.setattr(telemetry, "MEM0_TELEMETRY", True)
    with pytest.raises(RuntimeError, match="telemetry on"), mem0_home(tmp_path):
        pass


@pytest.mark.parametrize(
    "config",
    [
        {"vectorStore": {"provider": "qdrant", "config": {"path": "q", "onDisk": True, "collectionName": "mem0"}}},
        {"vectorStore": {"provider": "memory", "config": {"dbPath": "vector_store.db"}}},
    ],
    ids=str,
)
def test_a_configuration_of_typescript_is_not_given_to_python(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="Mem0 for TypeScript") as refused:
        open_search(python_config(config, "mem0.json"), scratch=tmp_path)

    assert "--mem0-results" in (refused.value.hint or "")
    assert [] == list(tmp_path.iterdir())
