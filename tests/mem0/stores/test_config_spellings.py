"""A configuration that is not understood is never the default store, in whatever spelling it is."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.stores.config_spellings import TYPESCRIPT_ONLY, python_config, snake
from spectron_migrate.mem0.stores.history import history_path
from spectron_migrate.mem0.stores.oss_config import PROVIDERS, mem0_source_info, read_mem0_config, vector_store
from spectron_migrate.mem0.stores.store_settings import SETTINGS
from tests.support.examples import examples

pytestmark = pytest.mark.slow

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
    section = "vectorStore" if provider == "memory" else "vector_store"
    for config in (
        {section: {"provider": provider, "config": {"collectin_name": "a"}}},
        {"vectorStore": {"provider": provider, "config": {"collectinName": "a"}}},
    ):
        with pytest.raises(InputError, match="did you mean `collection_name`"):
            read(tmp_path, config)
    for key in SETTINGS[provider]:
        python_config({section: {"provider": provider, "config": {key: None}}}, "mem0.json")


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
    for provider in sorted(SETTINGS.keys() - set(TYPESCRIPT_ONLY)):
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


STORES = {
    "qdrant": {"url": "http://db:6333", "collection_name": "household"},
    "chroma": {"host": "db", "port": 8000, "collection_name": "household"},
    "redis": {"redis_url": "redis://db:6379", "collection_name": "household"},
    "mongodb": {"mongo_uri": "mongodb://db:27017", "db_name": "notes", "collection_name": "household"},
    "pgvector": {"host": "db", "port": 5433, "dbname": "notes", "collection_name": "household"},
    "milvus": {"url": "http://db:19530", "collection_name": "household"},
    "faiss": {"path": "/srv/notes", "collection_name": "household"},
}
Path_ = list[str]


@st.composite
def configs(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A provider, and a configuration that names its store, in any of the spellings."""
    provider = draw(st.sampled_from(sorted(STORES)))
    is_typescript = draw(st.booleans()) and provider != "faiss"
    config: dict[str, Any] = {"vector_store": {"provider": provider, "config": dict(STORES[provider])}}
    more = {"llm": {"provider": "openai"}, "version": "v1.1", "history_db_path": "/srv/history.db"}
    config |= {name: more[name] for name in draw(st.lists(st.sampled_from(sorted(more)), unique=True))}
    config = dict(draw(st.permutations(list(config.items()))))
    if is_typescript:
        config = camel(config)
    for container in draw(st.lists(st.sampled_from(["mem0", "oss", "config", "plugin"]), max_size=3)):
        config = {container: config}
    return provider, config


def camel(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    names = {name: name.split("_")[0] + "".join(map(str.title, name.split("_")[1:])) for name in value}
    return {names[name]: camel(one) for name, one in value.items()}


def objects_in(value: dict[str, Any], names: Path_ | None = None) -> list[Path_]:
    """The paths of all objects of the configuration that Mem0 looks into."""
    inner = [name for name, one in value.items() if isinstance(one, dict) and name != "llm"]
    return [names or [], *(path for name in inner for path in objects_in(value[name], [*(names or []), name]))]


def at(config: dict[str, Any], path: Path_) -> dict[str, Any]:
    for name in path:
        config = config[name]
    return config


def identity(folder: Path, config: Any) -> str | None:
    """What is read; None if the configuration is refused."""
    try:
        return mem0_source_info(read(folder, config)).identity
    except InputError:
        return None


SAME_FOLDER = settings(
    max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SAME_FOLDER
@given(config=configs(), data=st.data())
def test_a_key_that_is_misspelt_anywhere_is_refused_or_the_store_is_the_one_it_names(
    tmp_path: Path, config: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    provider, given_config = config
    wanted = identity(tmp_path, given_config)
    assert wanted is not None
    assert wanted.startswith(f"oss:{provider}:")
    assert "household" in wanted
    assert "db" in wanted or provider == "faiss"

    where = at(given_config, data.draw(st.sampled_from(objects_in(given_config))))
    name = data.draw(st.sampled_from(sorted(where)))
    spot = data.draw(st.integers(0, len(name) - 1))
    how = data.draw(st.sampled_from(["without", "twice", "another", "capital", "dash", "moved"]))
    if how == "moved":
        changed = {**where, name: None, f"{name}s": where[name]}
    else:
        spelled = {
            "without": name[:spot] + name[spot + 1 :],
            "twice": name[:spot] + name[spot] + name[spot:],
            "another": f"{name[:spot]}q{name[spot + 1 :]}",
            "capital": name.title(),
            "dash": name.replace("_", "-"),
        }[how]
        changed = {(spelled if one == name else one): value for one, value in where.items()}
    where.clear()
    where.update(changed)
    assert identity(tmp_path, given_config) in (None, wanted)


@SAME_FOLDER
@given(
    config=configs(),
    data=st.data(),
    value=st.sampled_from([3, 1.5, True, False, "", "  ", [], ["http://db:6333"], {}, {"url": "http://db:6333"}]),
)
def test_an_address_that_is_none_is_refused_and_never_the_default_store(
    tmp_path: Path, config: tuple[str, dict[str, Any]], data: st.DataObject, value: Any
) -> None:
    _, given_config = config
    path = max(objects_in(given_config), key=len)
    names = [name for name in at(given_config, path) if name != "port"]
    at(given_config, path)[data.draw(st.sampled_from(names))] = value

    assert identity(tmp_path, given_config) is None


@pytest.mark.parametrize("section", [None, [], "qdrant"])
def test_a_store_that_is_named_and_missing_is_not_the_default_one(tmp_path: Path, section: Any) -> None:
    """As YAML gives it where what follows `vector_store:` is not indented."""
    for name in ("vector_store", "vectorStore"):
        with pytest.raises(InputError, match="vector_store"):
            read(tmp_path, {name: section})


def test_the_default_store_of_typescript_below_a_key_of_python_is_refused_with_its_right_spelling(
    tmp_path: Path,
) -> None:
    """Neither Mem0 opens it: the application has its memories in another file than the one named."""
    with pytest.raises(InputError, match="Mem0 for TypeScript") as error:
        read(tmp_path, {"vector_store": {"provider": "memory", "config": {"db_path": "notes.db", "dimension": 3}}})

    hint = error.value.hint or ""
    assert {"vectorStore": {"provider": "memory", "config": {"dbPath": "notes.db", "dimension": "…"}}} == json.loads(
        hint[hint.index("{") :]
    )


BOTH: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "azure_ai_search": ({"service_name": "s", "api_key": "k"}, {"serviceName": "s", "apiKey": "k"}),
    "azure_mysql": ({"host": "h", "database": "d"}, {"host": "h", "database": "d"}),
    "baidu": ({"endpoint": "http://h", "table_name": "t"}, {"endpoint": "http://h", "tableName": "t"}),
    "cassandra": (
        {"contact_points": ["h"], "keyspace": "k", "local_data_center": "c"},
        {"contactPoints": ["h"], "keyspace": "k", "localDataCenter": "c"},
    ),
    "chroma": ({"host": "h", "port": 8000}, {"host": "h", "port": 8000}),
    "databricks": (
        {"workspace_url": "https://w", "access_token": "k", "table_name": "t"},
        {"workspaceUrl": "https://w", "accessToken": "k", "tableName": "t"},
    ),
    "elasticsearch": ({"host": "https://h", "user": "u"}, {"host": "https://h", "username": "u"}),
    "langchain": ({}, {}),
    "milvus": ({"url": "http://h:1", "db_name": "d"}, {"url": "http://h:1", "dbName": "d"}),
    "mongodb": ({"mongo_uri": "mongodb://h", "db_name": "d"}, {"url": "mongodb://h", "dbName": "d"}),
    "neptune": ({"endpoint": "neptune-graph://g"}, {"endpoint": "neptune-graph://g"}),
    "opensearch": ({"host": "h", "use_ssl": True}, {"host": "h", "useSSL": True}),
    "oracledb": (
        {"connection_params": {"user": "u", "dsn": "h/s"}},
        {"connectionParams": {"user": "u", "dsn": "h/s"}},
    ),
    "pgvector": ({"host": "h", "dbname": "vector_store"}, {"host": "h"}),
    "pinecone": ({"api_key": "k", "namespace": "n"}, {"apiKey": "k", "namespace": "n"}),
    "qdrant": ({"url": "http://h:6333", "api_key": "k"}, {"url": "http://h:6333", "apiKey": "k"}),
    "redis": ({"redis_url": "redis://h"}, {"redisUrl": "redis://h"}),
    "s3_vectors": ({"vector_bucket_name": "b", "region_name": "r"}, {"vectorBucketName": "b", "region": "r"}),
    "supabase": (
        {"connection_string": "postgresql://h/d"},
        {"connectionString": "postgresql://h/d"},
    ),
    "turbopuffer": ({"api_key": "k", "region": "r"}, {"apiKey": "k", "region": "r"}),
    "upstash_vector": ({"url": "https://h", "token": "t"}, {"url": "https://h", "token": "t"}),
    "valkey": ({"valkey_url": "valkey://h"}, {"valkeyUrl": "valkey://h"}),
    "vertex_ai_vector_search": (
        {"project_number": "1", "endpoint_id": "e", "deployment_index_id": "d", "region": "r"},
        {"projectNumber": "1", "endpointId": "e", "deploymentIndexId": "d", "region": "r"},
    ),
    "weaviate": ({"cluster_url": "http://h"}, {"clusterUrl": "http://h"}),
}
"""For each provider that both have: the same store as Python's and as TypeScript's configuration names it."""


def test_every_provider_that_both_have_is_tried() -> None:
    assert set(PROVIDERS) - {"faiss"} == set(BOTH)


@pytest.mark.parametrize("provider", sorted(BOTH))
@pytest.mark.parametrize("has_hyphens", [False, True])
def test_python_and_typescript_name_the_same_store(tmp_path: Path, provider: str, has_hyphens: bool) -> None:
    python, typescript = BOTH[provider]
    spelled = provider.replace("_", "-") if has_hyphens else provider.upper()

    ours = read(tmp_path, {"vector_store": {"provider": provider, "config": {**python, "collection_name": "notes"}}})
    theirs = read(tmp_path, {"vectorStore": {"provider": spelled, "config": {**typescript, "collectionName": "notes"}}})

    assert mem0_source_info(ours).identity == mem0_source_info(theirs).identity
    assert vector_store(ours).provider == vector_store(theirs).provider
    assert vector_store(ours).collection == vector_store(theirs).collection
