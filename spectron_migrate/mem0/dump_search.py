"""Runs Mem0's own search on a copy made from a dump, for a store that Mem0 would change by opening it.

The copy is an embedded Qdrant with the embedder of the user's configuration. The memories of an owner are embedded
again when a query first asks about that owner, so the cost depends on the owners in the queries, not on the whole dump.
Ranks may differ from those of the user's store if its index is approximate or scores in another way.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.embedder import TimedEmbedder, ask_once, check_connection, embedder_name
from spectron_migrate.mem0.search import Mem0Search, construct_memory, describe_memory, mem0_home, offline_embedder
from spectron_migrate.mem0.stores.config_spellings import TYPESCRIPT
from spectron_migrate.mem0.stores.oss_config import MEMORY, vector_store
from spectron_migrate.records import ENTITY_IDS, Json, Memory, canonical_json

_PAGE = 100
_COLLECTION = "mem0"
_OWNERS = tuple(name for name in ENTITY_IDS if name != "app_id")


def needs_copy_of_dump(config: Mapping[str, Json]) -> bool:
    """Whether Mem0 can only be opened on a copy of the dump, not of the store.

    False for Mem0 for TypeScript, which cannot be searched at all.
    """
    store = vector_store(config)
    is_typescript = bool(config.get(TYPESCRIPT)) or store.provider == MEMORY
    return not is_typescript and (store.provider != "qdrant" or store.path is None)


def open_dump_search(config: Mapping[str, Json], memories: Iterable[Memory], *, scratch: Path) -> Mem0Search:
    """Mem0's search over the active memories of a dump, with the embedder of `config`.

    The caller removes `scratch`. Raises InputError if Mem0 or its embedder cannot be constructed from the config, and
    Unreachable if the embedder does not answer.
    """
    check_connection(config)
    scratch.mkdir(exist_ok=True)
    rows = _keep_rows(memories, scratch / "rows.db")
    with mem0_home(scratch / "mem0"), offline_embedder(config):
        settings = {"collection_name": _COLLECTION, "path": str(scratch / "qdrant"), "on_disk": True}
        settings["embedding_model_dims"] = _dimensions(config)
        store = {"provider": "qdrant", "config": settings}
        memory = construct_memory(config, store, history=scratch / "history.db")
    copy = _Copy(rows, memory)
    description = f"{describe_memory(memory, config)}, on a copy made of the dump"
    return Mem0Search(memory, description, prepare=copy.fill, real_id=copy.real_id, close=rows.close)


def _keep_rows(memories: Iterable[Memory], file: Path) -> sqlite3.Connection:
    rows = sqlite3.connect(file, check_same_thread=False)
    rows.execute("PRAGMA journal_mode = OFF").fetchall()
    rows.execute(
        "CREATE TABLE row (id TEXT PRIMARY KEY, user_id TEXT, agent_id TEXT, run_id TEXT, body TEXT, copied INTEGER)"
    )
    with rows:
        rows.executemany(
            "INSERT OR REPLACE INTO row VALUES (?, ?, ?, ?, ?, 0)",
            (
                (one.id, one.user_id, one.agent_id, one.run_id, json.dumps(_payload(one)))
                for one in memories
                if one.state == "active"
            ),
        )
        for name in _OWNERS:
            rows.execute(f"CREATE INDEX by_{name} ON row({name}) WHERE {name} IS NOT NULL")
    return rows


def _payload(memory: Memory) -> dict[str, Json]:
    """As Mem0 stores a memory."""
    own = {name: getattr(memory, name) for name in (*_OWNERS, "actor_id", "role", "hash", "created_at", "updated_at")}
    known = {name: value for name, value in own.items() if value is not None}
    expires = {} if memory.expiration_date is None else {"expiration_date": memory.expiration_date}
    return {**memory.metadata, **known, **expires, "data": memory.memory}


def _dimensions(config: Mapping[str, Json]) -> int:
    """Length of the embedder's vectors, found by one embedding, because every store has another setting for it."""
    from mem0.utils.factory import EmbedderFactory

    section = config.get("embedder") or {}
    provider = section.get("provider", "openai")
    try:
        embedder = EmbedderFactory.create(provider, section.get("config") or {}, None)
    except Exception as error:  # embedders may raise any error, and may quote a key
        raise InputError(
            f"Mem0's embedder {provider} could not be constructed: {type(error).__name__}",
            hint="give it what it needs, for instance its key",
        ) from error
    return ask_once(TimedEmbedder(embedder, embedder_name(config)))


class _Copy:
    """Copies the rows of the owners in queries into Mem0's store."""

    def __init__(self, rows: sqlite3.Connection, memory: Any) -> None:
        self._rows = rows
        self._memory = memory
        self._done: set[str] = set()
        self._real_ids: dict[str, str] = {}
        self._lock = threading.Lock()

    def fill(self, ids: Mapping[str, str]) -> None:
        """Copy what Mem0 would search for these ids; nothing is copied twice."""
        asked = canonical_json(dict(ids))
        with self._lock:
            if asked in self._done:
                return
            where = " AND ".join(f"{name} = ?" for name in ids)
            query = f"SELECT id, body FROM row WHERE {where} AND copied = 0 ORDER BY id LIMIT {_PAGE}"
            while page := self._rows.execute(query, tuple(ids.values())).fetchall():
                self._insert({row_id: json.loads(body) for row_id, body in page})
                self._rows.executemany("UPDATE row SET copied = 1 WHERE id = ?", [(row_id,) for row_id, _ in page])
            self._done.add(asked)

    def real_id(self, point: str) -> str:
        """The memory's id. Qdrant accepts only UUIDs."""
        return self._real_ids.get(point, point)

    def _insert(self, page: Mapping[str, dict[str, Json]]) -> None:
        embedder, texts = self._memory.embedding_model, [str(row["data"]) for row in page.values()]
        vectors = [embedder.embed(text, "add") for text in texts]
        points = [self._point(row_id) for row_id in page]
        self._memory.vector_store.insert(
            vectors=vectors, payloads=[_searchable(row) for row in page.values()], ids=points
        )

    def _point(self, row_id: str) -> str:
        try:
            point = str(UUID(row_id))
        except ValueError:
            point = str(uuid5(NAMESPACE_URL, row_id))
        self._real_ids[point] = row_id
        return point


def _searchable(row: dict[str, Json]) -> dict[str, Json]:
    """The payload with the words that Mem0 2.0 and later searches by."""
    try:
        from mem0.utils.lemmatization import lemmatize_for_bm25
    except ImportError:
        return row
    return {**row, "text_lemmatized": lemmatize_for_bm25(str(row["data"]))}
