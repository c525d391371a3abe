"""A configuration that is not understood is never the default store, in whatever spelling it is."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.stores.config_spellings import python_config, snake
from spectron_migrate.mem0.stores.history import history_path
from spectron_migrate.mem0.stores.oss_config import mem0_source_info, read_mem0_config, vector_store
from spectron_migrate.mem0.stores.store_settings import SETTINGS

QDRANT = {"provider": "qdrant", "config": {"url": "http://db:6333", "collectionName": "household"}}


def read(folder: Path, config: Any) -> dict[str, Any]:
    (folder / "mem0.json").write_text(json.dumps(config))
    return read_mem0_config(str(folder / "mem0.json"))


@pytest.mark.parametrize(
    "config",
    [
        {"vectorStore": QDRANT},
        {"vector_store": QDRANT},
        {"mem0": {"vector_store": QDRANT}, "openmemory": {}},
        {"oss": {"vectorStore": QDRANT}, "mode": "open-source"},
        {
            "plugins": {
                "entries": {"openclaw-mem0": {"config": {"mode": "open-source", "oss": {"vectorStore": QDRANT}}}}
            }
        },
    ],
)
def test_every_spelling_names_the_same_store(tmp_path: Path, config: dict[str, Any]) -> None:
    assert "oss:qdrant:http://db:6333:household" == mem0_source_info(read(tmp_path, config)).identity


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"vector_stores": QDRANT}, "did you mean `vector_store`?"),
        ({"name": "app", "dependencies": {"mem0ai": "^2"}}, "'dependencies'"),
        ({"llm": {"provider": "openai"}}, "names no vector store"),
        ({}, "names no vector store"),
        ({"vector_store": {"provider": "qdrant", "conf": {}}}, "did you mean `config`?"),
        ({"vector_store": {"provider": "qdrant", "config": {"collection": "a"}}}, "did you mean `collection_name`?"),
        ({"vector_store": QDRANT, "vectorStore": QDRANT}, "two spellings"),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused_by_its_key(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path, config)

    assert named in error.value.message
    assert "/tmp/qdrant" not in error.value.message


def test_variables_are_filled_in_anywhere_in_a_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QDRANT_HOST_FOR_TEST", "db")
    for url in ("http://${QDRANT_HOST_FOR_TEST}:6333", "http://db:6333"):
        config = {"vectorStore": {"provider": "qdrant", "config": {"url": url}}}
        assert "http://db:6333" == vector_store(read(tmp_path, config)).url


def test_typescript_has_defaults_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = read(tmp_path, {"vectorStore": {"config": {}}})
    postgres = read(tmp_path, {"vectorStore": {"provider": "pgvector", "config": {"host": "db"}}})

    assert tmp_path / ".mem0" / "vector_store.db" == vector_store(config).path
    assert Path("memory.db") == history_path(config)
    assert "oss:pgvector:postgresql://db:5432/vector_store:memories" == mem0_source_info(postgres).identity


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"historyDbPath": "h.db"}, Path("h.db")),
        ({"historyStore": {"provider": "sqlite", "config": {"historyDbPath": "h.db"}}}, Path("h.db")),
        ({"historyStore": {"provider": "supabase", "config": {}}}, None),
        ({"disableHistory": True}, None),
    ],
)
def test_the_history_of_typescript_is_where_its_configuration_says(
    tmp_path: Path, more: dict[str, Any], expected: Path | None
) -> None:
    assert expected == history_path(read(tmp_path, {"vectorStore": {"provider": "memory"}, **more}))


@pytest.mark.parametrize("provider", sorted(SETTINGS))
def test_a_key_that_the_store_does_not_know_is_refused_with_the_nearest_known_one(
    tmp_path: Path, provider: str
) -> None:
    for config in (
        {"vector_store": {"provider": provider, "config": {"collectin_name": "a"}}},
        {"vectorStore": {"provider": provider, "config": {"collectinName": "a"}}},
    ):
        with pytest.raises(InputError, match="did you mean `collection_name`"):
            read(tmp_path, config)
    for key in SETTINGS[provider]:
        python_config({"vector_store": {"provider": provider, "config": {key: None}}}, "mem0.json")


@pytest.mark.parametrize(
    ("provider", "keys"),
    [
        ("redis", ["redisUrl", "collectionName", "embeddingModelDims", "username", "password"]),
        ("supabase", ["supabaseUrl", "supabaseKey", "tableName", "embeddingColumnName", "metadataColumnName"]),
        ("pgvector", ["dbname", "connectionString", "ssl", "embeddingModelDims", "diskann", "hnsw"]),
        ("opensearch", ["httpAuth", "useSSL", "verifyCerts", "autoRefresh"]),
        ("vectorize", ["apiKey", "indexName", "accountId"]),
        ("memory", ["dbPath", "dimension", "collectionName"]),
        ("neptune-analytics", ["graphIdentifier", "endpoint"]),
        ("azure-ai-search", ["serviceName", "useFloat16", "vectorFilterMode"]),
    ],
)
def test_the_keys_of_typescript_are_those_of_python_in_its_spelling(provider: str, keys: list[str]) -> None:
    config = {"vectorStore": {"provider": provider, "config": dict.fromkeys(keys, "x")}}

    converted = python_config(config, "mem0.json")["vector_store"]

    assert [snake(key) for key in keys] == list(converted["config"])


def test_every_key_of_the_mem0_that_is_installed_is_known() -> None:
    mem0 = importlib.util.find_spec("mem0")
    assert mem0 is not None
    assert mem0.origin is not None
    folder = Path(mem0.origin).parent / "configs" / "vector_stores"
    unknown = []
    for provider in sorted(SETTINGS.keys() - {"memory", "vectorize"}):
        source = (folder / f"{provider}.py").read_text(encoding="utf-8")
        for config in [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]:
            if not config.name.endswith("Config"):
                continue
            fields = [
                ast.unparse(node.target) for node in config.body if isinstance(node, ast.AnnAssign) and is_field(node)
            ]
            unknown += [f"{provider}.{name}" for name in fields if snake(name) not in SETTINGS[provider]]
    assert [] == unknown


def is_field(node: ast.AnnAssign) -> bool:
    return isinstance(node.target, ast.Name) and "ClassVar" not in ast.unparse(node.annotation)
