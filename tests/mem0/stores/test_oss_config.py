"""A configuration of Mem0's is read as Mem0 reads it; what no export can use is refused at once."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.open import expand_patterns, open_oss, open_reader, source_info
from spectron_migrate.mem0.stores.oss_config import PROVIDERS, mem0_source_info, read_mem0_config, vector_store
from spectron_migrate.mem0.stores.unsupported import REASONS
from tests.mem0.conftest import NOW

READ = {"qdrant", "pgvector", "supabase", "faiss", "chroma", "redis", "valkey", "elasticsearch", "opensearch"}
READ |= {"upstash_vector", "turbopuffer", "weaviate", "azure_ai_search", "vectorize"}
READ |= {"mongodb", "azure_mysql", "oracledb", "s3_vectors", "pinecone", "milvus"}
TYPESCRIPT_ONLY = {"vectorize"}


def test_json_and_yaml_are_read_alike(tmp_path: Path) -> None:
    config = {"vector_store": {"provider": "qdrant", "config": {"path": "/data/q", "collection_name": "m"}}}
    (tmp_path / "a.json").write_text(json.dumps(config))
    (tmp_path / "a.yaml").write_text(
        "vector_store:\n  provider: qdrant\n  config:\n    path: /data/q\n    collection_name: m\n"
    )

    assert config == read_mem0_config(str(tmp_path / "a.json")) == read_mem0_config(str(tmp_path / "a.yaml"))


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"version": "v1.1", "vector_store": {}}'))

    assert {"version": "v1.1", "vector_store": {}} == read_mem0_config("-")


def test_the_default_is_what_mem0_opens_by_itself() -> None:
    store = vector_store(read_mem0_config("default"))

    assert "qdrant" == store.provider
    assert "mem0" == store.collection
    assert Path("/tmp/qdrant") == store.path
    assert "qdrant:/tmp/qdrant:mem0" == mem0_source_info({}).place


def test_the_defaults_are_those_of_the_installed_mem0(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MEM0_DIR", str(tmp_path / ".mem0"))
    monkeypatch.setenv("MEM0_TELEMETRY", "False")
    from mem0.vector_stores.configs import VectorStoreConfig

    for provider in ("qdrant", "faiss"):
        theirs = VectorStoreConfig(provider=provider, config={}).config
        ours = vector_store({"vector_store": {"provider": provider}})
        assert theirs.collection_name == ours.collection
        assert theirs.path == str(ours.path)
    assert set(VectorStoreConfig()._provider_configs) == set(PROVIDERS)


def test_a_relative_path_is_resolved_from_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    store = vector_store({"vector_store": {"config": {"path": "data/q"}}})

    assert tmp_path / "data" / "q" == store.path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vector_store:\n  provider: [", "line 2 is neither JSON nor YAML"),
        ("- a\n- b", "is not a Mem0 configuration, but a list"),
        ("just text", "is not a Mem0 configuration, but text"),
        ("", "is not a Mem0 configuration, but nothing"),
        ("vector_store: qdrant", "is text, not a section"),
        ("vector_store: {provider: quadrant}", "is 'quadrant', which Mem0 does not have"),
        ("vector_store: {config: 3}", "is a number, not a section"),
        ("vector_store: {config: {collection_name: [1]}}", "is a list, not a name"),
        ("vector_store: {config: {path: '${NOT_SET_ANYWHERE}'}}", "NOT_SET_ANYWHERE, which is not set"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mem0.yaml"
    path.write_text(text)

    with pytest.raises(InputError) as error:
        read_mem0_config(str(path))

    assert str(path) in error.value.message
    assert message in error.value.message


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no Mem0 configuration at"):
        read_mem0_config(str(tmp_path / "none.yaml"))


def test_secrets_are_filled_in_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_PASSWORD_FOR_TEST", "s3cret")
    config = {"vector_store": {"provider": "pgvector", "config": {"password": "${PG_PASSWORD_FOR_TEST}", "host": "db"}}}

    store = vector_store(config)

    assert "s3cret" == store.settings["password"]
    assert "s3cret" not in repr(store) + mem0_source_info(config).place


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - READ))
def test_a_store_that_cannot_be_read_harmlessly_is_refused_with_its_reason(provider: str) -> None:
    config = {"vector_store": {"provider": provider, "config": {"url": "https://x.example", "api_key": "s3cret"}}}

    with pytest.raises(InputError) as error:
        open_oss(config, now=NOW)

    assert f"a store of {provider} cannot be exported directly: {REASONS[provider]}" == error.value.message
    assert "--from FILE" in (error.value.hint or "")
    assert "s3cret" not in mem0_source_info(config).place


def test_every_store_that_mem0_has_is_read_or_refused_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEM0_DIR", str(tmp_path))
    monkeypatch.setenv("MEM0_TELEMETRY", "False")
    from mem0.utils.factory import VectorStoreFactory

    assert sorted(VectorStoreFactory.provider_to_class) == sorted(PROVIDERS)
    assert set(PROVIDERS) | TYPESCRIPT_ONLY == READ | set(REASONS)


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"api_key": "s3cret", "path": "/data"}, "https://localhost:6333"),
        ({"https": False, "path": "/data"}, "http://localhost:6333"),
        ({"url": "http://db", "path": "/data"}, "http://db:6333"),
        ({"host": "db", "path": "/data"}, "/data"),
        ({"path": "/data"}, "/data"),
    ],
)
def test_a_path_counts_only_where_mem0_would_open_it(settings: dict[str, Any], place: str) -> None:
    config = {"vector_store": {"provider": "qdrant", "config": settings}}

    assert f"oss:qdrant:{place}:mem0" == mem0_source_info(config).identity


@pytest.mark.parametrize(
    ("provider", "settings", "place"),
    [
        ("chroma", {"host": "localhost", "port": 8000}, "http://localhost:8000"),
        ("chroma", {"api_key": "s3cret", "tenant": "t"}, "https://api.trychroma.com"),
        ("redis", {"redis_url": "redis://:s3cret@db:6379/2?protocol=3"}, "redis_url=redis://db:6379/2"),
        ("valkey", {"valkey_url": "valkey://me:s3cret@db:6379"}, "valkey_url=valkey://db:6379"),
        ("elasticsearch", {"host": "https://es", "user": "u", "password": "s3cret"}, "https://es:9200"),
        (
            "elasticsearch",
            {"cloud_id": "n:ZXUuZXMuaW86OTI0MyRhYmMkZGVm", "api_key": "s3cret"},
            "https://abc.eu.es.io:9243",
        ),
        ("opensearch", {"host": "os", "port": 443, "use_ssl": True, "http_auth": ["u", "s3cret"]}, "https://os:443"),
        ("opensearch", {}, "http://localhost:9200"),
    ],
)
def test_a_server_is_named_by_its_address_without_credentials(
    provider: str, settings: dict[str, Any], place: str
) -> None:
    config = {"vector_store": {"provider": provider, "config": settings}}

    assert f"oss:{provider}:{place}:mem0" == mem0_source_info(config).identity


@pytest.mark.parametrize("section", [{}, {"oss": {}, "files": []}, {"nothing": 1}])
def test_exactly_one_source_has_to_be_named(section: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must name one of"):
        open_reader(section, now=NOW)


def test_patterns_match_each_file_once_and_those_without_a_match_are_reported(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("[]")

    assert [tmp_path / "a.json", tmp_path / "b.json"] == expand_patterns([f"{tmp_path}/*.json", f"{tmp_path}/a.json"])
    with pytest.raises(InputError, match="2 problems"):
        expand_patterns([f"{tmp_path}/*.csv", f"{tmp_path}/c.json"])


def test_files_have_one_identity() -> None:
    assert "files" == source_info({"files": ["a.json"]}).identity


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_configuration_is_read_in_the_encodings_of_windows(tmp_path: Path, encoding: str, newline: str) -> None:
    lines = ["vector_store:", "  provider: qdrant", "  config: {path: /data/mémoire}", ""]
    (tmp_path / "mem0.yaml").write_bytes(newline.join(lines).encode(encoding))

    config = read_mem0_config(str(tmp_path / "mem0.yaml"))

    assert {"provider": "qdrant", "config": {"path": "/data/mémoire"}} == config["vector_store"]


def test_a_configuration_in_another_encoding_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "mem0.yaml").write_bytes("vector_store: {config: {path: mémoire}}".encode("cp1252"))

    with pytest.raises(InputError, match="cannot be read") as refused:
        read_mem0_config(str(tmp_path / "mem0.yaml"))

    assert "iconv -f WINDOWS-1252" in (refused.value.hint or "")
