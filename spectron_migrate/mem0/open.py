"""Chooses the reader for the `mem0` section of the settings."""

from __future__ import annotations

import glob
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.reader import Reader, Sleep
from spectron_migrate.mem0.stores.config_spellings import python_config
from spectron_migrate.mem0.stores.history import history_path, open_history
from spectron_migrate.mem0.stores.oss_config import VectorStore, mem0_source_info, read_mem0_config, vector_store
from spectron_migrate.records import SourceInfo

if TYPE_CHECKING:
    from spectron_migrate.mem0.stores.listed import ListedStore

__all__ = [
    "config_of",
    "expand_patterns",
    "mem0_source_info",
    "open_oss",
    "open_reader",
    "read_mem0_config",
    "require_followable",
    "source_info",
]

_COPY = "without it, what was exported can be copied: spectron-migrate export, then spectron-migrate replay"
_KINDS = ("oss", "platform", "server", "files")


def open_reader(mem0: Mapping[str, Any], *, now: datetime, sleep: Sleep | None = None) -> Reader:
    """The reader for a `mem0` section of the settings; `now` decides which memories have expired.

    `sleep` waits between attempts to reach a server; the default ends when the reader is closed. Raises InputError
    if the section is invalid or what it names does not exist.
    """
    kind = _kind_of(mem0)
    section = mem0[kind]
    if kind == "oss":
        return open_oss(config_of(section), now=now, sleep=sleep)
    if kind == "files":
        from spectron_migrate.mem0.formats.files import FilesReader

        return FilesReader(expand_patterns(section), now=now)
    if kind == "platform":
        from spectron_migrate.mem0.served.platform import PlatformReader

        return PlatformReader(section, now=now, sleep=sleep)
    from spectron_migrate.mem0.served.server import ServerReader

    return ServerReader(section, now=now, sleep=sleep)


def source_info(mem0: Mapping[str, Any]) -> SourceInfo:
    """The Mem0 that a section names, computed from the settings alone."""
    kind = _kind_of(mem0)
    if kind == "oss":
        return mem0_source_info(config_of(mem0[kind]))
    if kind == "platform":
        from spectron_migrate.mem0.served.platform import platform_info

        return platform_info(mem0[kind])
    if kind == "server":
        from spectron_migrate.mem0.served.server import server_info

        return server_info(mem0[kind])
    return SourceInfo(kind="files", place="files", provider="files")


def require_followable(mem0: Mapping[str, Any]) -> None:
    """Raises InputError for a source that cannot be read again and again, as following and a cutover do."""
    from spectron_migrate.mem0.stores.unsupported import REASONS

    kind = _kind_of(mem0)
    if kind == "files":
        raise InputError(
            "raw files do not change: there is nothing to follow, and so no cutover",
            hint=f"name the Mem0 they come from in the section `mem0`; {_COPY}",
        )
    if kind == "oss" and (provider := vector_store(config_of(mem0[kind])).provider) in REASONS:
        raise InputError(
            f"a store of {provider} cannot be followed, so there is no cutover from it: {REASONS[provider]}",
            hint=f"{_COPY} (docs/sources.md)",
        )


def open_oss(config: Mapping[str, Any], *, now: datetime, sleep: Sleep | None = None) -> Reader:
    """The reader for a configuration of Mem0 OSS, with its history if that file exists.

    Raises InputError, with the reason, for a store that cannot be read completely without changing it.
    """
    store = vector_store(config)
    reader = _reader_of(store, mem0_source_info(config), now, sleep)
    try:
        path = history_path(config)
        reader.history = open_history(path) if path is not None else None
    except BaseException:
        reader.close()
        raise
    return reader


def _reader_of(store: VectorStore, info: SourceInfo, now: datetime, sleep: Sleep | None) -> Reader:
    match store.provider, store.path:
        case "qdrant", Path() as folder:
            from spectron_migrate.mem0.stores.qdrant_folder import QdrantFolder

            return QdrantFolder(folder, store.collection, info, now=now)
        case "faiss", Path() as folder:
            from spectron_migrate.mem0.stores.faiss_folder import FaissFolder

            return FaissFolder(folder, store.collection, info, now=now, sleep=sleep or time.sleep)
        case "memory", Path() as file:
            from spectron_migrate.mem0.stores.typescript_sqlite import TypescriptSqlite

            return TypescriptSqlite(file, info, now=now)
    from spectron_migrate.mem0.stores.listed import ListedReader

    return ListedReader(_listed_store(store, info.place, sleep), info, now=now, sleep=sleep)


def _listed_store(store: VectorStore, place: str, sleep: Sleep | None) -> ListedStore:
    match store.provider, store.path:
        case "qdrant", None:
            from spectron_migrate.mem0.stores.qdrant_server import QdrantServer

            return QdrantServer(store, sleep=sleep)
        case (("pgvector" | "supabase"), _) if store.provider == "pgvector" or store.settings.get("connection_string"):
            from spectron_migrate.mem0.stores.pgvector import PgVector

            return PgVector(store, place)
        case "chroma", Path() as folder:
            from spectron_migrate.mem0.stores.chroma_folder import ChromaFolder

            return ChromaFolder(folder, store.collection)
        case "chroma", None:
            from spectron_migrate.mem0.stores.chroma_server import ChromaServer

            return ChromaServer(store, sleep=sleep)
        case (("redis" | "valkey"), _):
            from spectron_migrate.mem0.stores.redis_hashes import RedisHashes

            return RedisHashes(store, sleep=sleep or time.sleep)
        case (("elasticsearch" | "opensearch"), _):
            from spectron_migrate.mem0.stores.search_index import SearchIndex

            return SearchIndex(store, sleep=sleep)
        case "supabase", _:
            from spectron_migrate.mem0.stores.supabase_rest import SupabaseRest

            return SupabaseRest(store, sleep=sleep)
        case "upstash_vector", _:
            from spectron_migrate.mem0.stores.upstash_vector import UpstashVector

            return UpstashVector(store, sleep=sleep)
        case "mongodb", _:
            from spectron_migrate.mem0.stores.mongodb import MongoDb

            return MongoDb(store, sleep=sleep or time.sleep)
        case "milvus", _:
            from spectron_migrate.mem0.stores.milvus import milvus_store

            return milvus_store(store)
        case "azure_mysql", _:
            from spectron_migrate.mem0.stores.mysql import MySql

            return MySql(store)
        case "oracledb", _:
            from spectron_migrate.mem0.stores.oracle import Oracle

            return Oracle(store)
        case "s3_vectors", _:
            from spectron_migrate.mem0.stores.s3_vectors import S3Vectors

            return S3Vectors(store)
        case "pinecone", _:
            from spectron_migrate.mem0.stores.pinecone import Pinecone

            return Pinecone(store, sleep=sleep)
        case "turbopuffer", _:
            from spectron_migrate.mem0.stores.turbopuffer import Turbopuffer

            return Turbopuffer(store, sleep=sleep)
        case "weaviate", _:
            from spectron_migrate.mem0.stores.weaviate import Weaviate

            return Weaviate(store, sleep=sleep)
        case "azure_ai_search", _:
            from spectron_migrate.mem0.stores.azure_ai_search import AzureAiSearch

            return AzureAiSearch(store, sleep=sleep)
        case "vectorize", _:
            from spectron_migrate.mem0.stores.vectorize import Vectorize

            return Vectorize(store, sleep=sleep)
    from spectron_migrate.mem0.stores.unsupported import unsupported_store

    raise unsupported_store(store)


def expand_patterns(patterns: list[str] | tuple[str, ...]) -> list[Path]:
    """The files that these names and glob patterns match, each once. Raises InputError for names without a match."""
    found: dict[Path, None] = {}
    nothing: list[str] = []
    for pattern in patterns:
        matches = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
        if not matches:
            nothing.append(f"there is no file {pattern}")
        found.update(dict.fromkeys(Path(match) for match in matches))
    if nothing:
        raise InputError.of_all(nothing)
    return list(found)


def _kind_of(mem0: Mapping[str, Any]) -> str:
    kinds = [name for name in _KINDS if mem0.get(name) is not None]
    if len(kinds) != 1:
        named = ", ".join(kinds) or "none"
        raise InputError(f"the section mem0 must name one of {', '.join(_KINDS)}, but names {named}")
    return kinds[0]


def config_of(section: Any) -> Mapping[str, Any]:
    """`{"config": "mem0.yaml"}` names a file; `{"config": {...}}` is the configuration itself."""
    config = section.get("config", "default") if isinstance(section, Mapping) else section
    return python_config(config, "mem0.oss.config") if isinstance(config, Mapping) else read_mem0_config(str(config))
