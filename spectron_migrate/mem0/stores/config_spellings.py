"""Brings a configuration of Mem0 for Python, Mem0 for TypeScript, OpenMemory or OpenClaw into Python's spelling. Pure.

A key that is not understood is refused, because Mem0 would open its default store, which is not the one meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.stores.store_settings import SETTINGS
from spectron_migrate.settings.strict_yaml import nearest

TYPESCRIPT = "typescript"
"""The key of a converted configuration which says that it is for Mem0 for TypeScript, whose defaults differ."""

_TOP = (
    *("vector_store", "history_db_path", "history_store", "llm", "embedder", "graph_store", "reranker", "version"),
    *("custom_prompt", "custom_instructions", "custom_fact_extraction_prompt", "custom_update_memory_prompt"),
    *("custom_categories", "disable_history", "enable_graph", "telemetry", "collection_name", "name", "logger"),
)
_STORE = ("provider", "config")
TYPESCRIPT_ONLY = ("memory", "vectorize")
"""Stores that Mem0 for Python does not have."""

OWN_KEY = "x_spectron_migrate"
"""A key of ours in a Mem0 config, removed before Mem0 sees it. `{"embedder": "wordllama"}` under it says that the store
was embedded by `WordLlamaEmbedding`, which replaces the class of the provider that the config names."""

_SAME = {"mongodb": {"url": "mongo_uri"}, "s3_vectors": {"region": "region_name"}}
"""TypeScript's names for settings that say which store it is, with Python's names."""

_CONTAINERS = ("mem0", "oss")
_DEEPEST = 6
_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")


def python_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The configuration in Python's spelling; raises InputError, naming the key, for one that is not understood."""
    inner = _inside(config)
    converted: dict[str, Any] = {}
    for key, value in inner.items():
        python = snake(key)
        if python in converted:
            raise InputError(f"{name} has {key!r} in two spellings", hint="keep one of them")
        if python not in (*_TOP, TYPESCRIPT, OWN_KEY):
            raise InputError(f"{name} has the key {key!r}, which Mem0 does not know: {nearest(python, _TOP)}")
        converted[python] = value
    if "vectorStore" in inner or "historyStore" in inner or "historyDbPath" in inner:
        converted[TYPESCRIPT] = True
    if "vector_store" not in converted:
        keys = ", ".join(map(str, config)) or "nothing"
        raise InputError(
            f"{name} names no vector store: it has {keys}",
            hint="`default` instead of a file means the store that Memory() opens without a configuration",
        )
    section = converted["vector_store"]
    if isinstance(section, Mapping):
        if "vector_store" in inner:
            _refuse_mixed_spelling(section, name)
        converted["vector_store"] = _store(section, name, is_typescript=TYPESCRIPT in converted)
    return converted


def snake(key: str) -> str:
    """Convert `collectionName` to `collection_name`."""
    return _CAMEL.sub(r"_\1", str(key)).lower() if not str(key).isupper() else str(key)


def _refuse_mixed_spelling(section: Mapping[str, Any], name: str) -> None:
    """Raise InputError for TypeScript's default store below a key that TypeScript does not read.

    Python's Mem0 refuses such a configuration, and TypeScript's opens its default file, so nobody uses the store that
    it names.
    """
    provider = section.get("provider")
    if provider == "memory":
        given = section.get("config")
        settings = {_camel(key): value for key, value in given.items()} if isinstance(given, Mapping) else {}
        shown = {"vectorStore": {"provider": provider, "config": dict.fromkeys(settings, "…") | _places(settings)}}
        raise InputError(
            f"vector_store in {name} names {provider}, a store of Mem0 for TypeScript, which does not read the key"
            " vector_store: it would open its default file",
            hint=f"write it as an application in TypeScript has it: {json.dumps(shown, ensure_ascii=False)}",
        )


def _places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that may be shown: they hold no key."""
    return {key: value for key, value in settings.items() if key in ("dbPath", "indexName", "collectionName")}


def _camel(key: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), str(key))


def _store(section: Mapping[str, Any], name: str, *, is_typescript: bool) -> dict[str, Any]:
    unknown = [key for key in section if key not in _STORE]
    if unknown:
        raise InputError(f"vector_store in {name} has the key {unknown[0]!r}: {nearest(str(unknown[0]), _STORE)}")
    store = dict(section)
    provider = store.get("provider")
    if isinstance(provider, str):
        provider = provider.replace("-", "_").lower()
        store["provider"] = "neptune" if provider == "neptune_analytics" else provider
    elif provider is None and is_typescript:
        store["provider"] = "memory"
    if isinstance(store.get("config"), Mapping):
        settings = {snake(key): value for key, value in store["config"].items()}
        known = SETTINGS.get(store.get("provider", "qdrant"), tuple(settings))
        for key in settings:
            if key not in known:
                raise InputError(f"vector_store.config in {name} has the key {key!r}: {nearest(key, known)}")
        for theirs, ours in _SAME.get(store.get("provider", ""), {}).items():
            if theirs in settings and ours not in settings:
                settings[ours] = settings.pop(theirs)
        store["config"] = settings
    return store


def _inside(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that is Mem0's: OpenMemory has it under `mem0`, OpenClaw under `oss`, below the plug-in's name."""
    found = _parts_with_store(config, 0)
    return found[0] if len(found) == 1 else config


def _parts_with_store(config: Mapping[str, Any], depth: int) -> list[Mapping[str, Any]]:
    if "vector_store" in config or "vectorStore" in config:
        return [config]
    inner = [value for value in config.values() if isinstance(value, Mapping)]
    for key in _CONTAINERS:
        if isinstance(config.get(key), Mapping):
            inner = [config[key]]
            break
    return [part for value in inner for part in _parts_with_store(value, depth + 1)] if depth <= _DEEPEST else []
