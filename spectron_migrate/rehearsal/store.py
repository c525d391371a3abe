"""Makes a real Mem0 store from the data set: Mem0 writes every memory, update and deletion itself.

Only the times are changed. The data set covers two years, so the times of each row are set back right after Mem0 has
written it, in the store and in the history. Texts, ids, hashes, vectors and the order of events are Mem0's own.
"""

from __future__ import annotations

import inspect
import json
import sqlite3
import sys
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.search import close_memory, mem0_home, offline_embedder, unused_llm
from spectron_migrate.mem0.stores.config_spellings import OWN_KEY
from spectron_migrate.mem0.wordllama_embedder import DIMENSIONS
from spectron_migrate.records import Json

EventKind = Literal["add", "update", "tag", "delete"]

CONFIG, KEYS, QUERIES = "mem0.json", "keys.json", "queries.jsonl"


@dataclass(frozen=True, slots=True)
class MemoryEvent:
    """A change of one memory: it is added, updated, tagged (only its metadata changes) or deleted."""

    kind: EventKind
    key: str
    """Name of the memory in the data set; Mem0 chooses the id."""
    at: datetime
    user: str | None = None
    agent: str | None = None
    run: str | None = None
    text: str = ""
    metadata: dict[str, Json] = field(default_factory=dict)
    role: str = "user"
    actor: str | None = None
    expires: str | None = None


@dataclass(frozen=True, slots=True)
class SampleQuestion:
    """A question that a user could ask, and the keys of memories, any of which answers it."""

    text: str
    user: str
    agent: str | None
    expect: tuple[str, ...]


def load_events() -> list[MemoryEvent]:
    """The events of the data set, oldest first."""
    return sorted((_event(row) for row in _lines("data.jsonl")), key=lambda event: event.at)


def load_questions() -> list[SampleQuestion]:
    """The questions of the data set."""
    return [
        SampleQuestion(row["ask"], row["user"], row.get("agent"), tuple(row["expect"]))
        for row in _lines("questions.jsonl")
    ]


def make_store(folder: Path) -> Path:
    """Make the store in `folder` and return the path of its Mem0 config; nothing outside the folder is written.

    The folder holds the config (`mem0.json`, with absolute paths), the embedded Qdrant (`qdrant/`), Mem0's history
    (`history.db`) and home (`mem0/`), `keys.json` (key in the data set -> id in Mem0) and `queries.jsonl` (the
    questions with the ids they expect). Works with every mem0ai from 0.1.60 on; versions without expiry dates get
    none. Raises InputError if the folder already holds a store, or the offline embeddings are not installed.
    """
    folder = folder.resolve()
    if (folder / "qdrant").exists():
        raise InputError(f"{folder} already holds a store", hint="name an empty folder")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with mem0_home(folder / "mem0"):
        config = _config(folder)
        memory = _open(config)
        try:
            writer = _Writer(memory)
            for event in load_events():
                writer.apply(event)
        finally:
            close_memory(memory)
    _date_history(Path(config["history_db_path"]), writer.written)
    _write_json(folder / KEYS, writer.ids)
    _write_queries(folder / QUERIES, writer.ids)
    _write_json(folder / CONFIG, config)
    return folder / CONFIG


@dataclass(frozen=True, slots=True)
class _WrittenRow:
    memory_id: str
    created: datetime
    at: datetime


class _Writer:
    """Applies events with Mem0's own methods, in any version of Mem0."""

    def __init__(self, memory: Any) -> None:
        self.ids: dict[str, str] = {}
        self.written: list[_WrittenRow] = []
        self._memory = memory
        self._store = memory.vector_store
        self._created: dict[str, datetime] = {}
        self._add_takes = inspect.signature(memory.add).parameters
        self._update_takes = inspect.signature(memory.update).parameters

    def apply(self, event: MemoryEvent) -> None:
        """Apply one event with Mem0, then set the times of the row it wrote."""
        if event.kind == "add":
            self.ids[event.key] = self._add(event)
            self._created[event.key] = event.at
        memory_id = self.ids[event.key]
        if event.kind == "delete":
            self._memory.delete(memory_id)
        else:
            if event.kind != "add":
                self._update(memory_id, event)
            self._date_row(memory_id, self._created[event.key], event.at)
        self.written.append(_WrittenRow(memory_id, self._created[event.key], event.at))

    def _add(self, event: MemoryEvent) -> str:
        ids = {"user_id": event.user, "agent_id": event.agent, "run_id": event.run}
        owners = {name: value for name, value in ids.items() if value is not None}
        if "infer" not in self._add_takes:
            # Such an old Mem0 always asks a language model first; this is what it calls with the answer
            return str(self._memory._create_memory(event.text, {}, {**event.metadata, **owners}))
        message = {"role": event.role, "content": event.text} | ({"name": event.actor} if event.actor else {})
        expiry = {"expiration_date": event.expires} if event.expires and "expiration_date" in self._add_takes else {}
        answer = self._memory.add([message], metadata=dict(event.metadata), infer=False, **owners, **expiry)
        rows = answer["results"] if isinstance(answer, dict) else answer
        return str(rows[0]["id"])

    def _update(self, memory_id: str, event: MemoryEvent) -> None:
        change: dict[str, Json] = {"metadata": event.metadata} if "metadata" in self._update_takes else {}
        if not event.metadata:
            change = {}
        if "text" not in self._update_takes:
            change["data"] = event.text or self._memory.get(memory_id)["memory"]
        elif event.text:
            change["text"] = event.text
        self._memory.update(memory_id, **change)

    def _date_row(self, memory_id: str, created: datetime, updated: datetime) -> None:
        collection, client = self._store.collection_name, self._store.client
        payload = client.retrieve(collection, ids=[memory_id], with_payload=True)[0].payload
        times = {"created_at": created, "updated_at": updated}
        dated = {name: _as_spelled(payload[name], time) for name, time in times.items() if payload.get(name)}
        client.set_payload(collection, payload=dated, points=[memory_id])


def _config(folder: Path) -> dict[str, Json]:
    from mem0.utils.factory import EmbedderFactory

    # The provider must be one that this Mem0 knows; `offline_embedder` replaces its class
    provider = "lmstudio" if "lmstudio" in EmbedderFactory.provider_to_class else "huggingface"
    return {
        OWN_KEY: {"embedder": "wordllama"},
        "vector_store": {
            "provider": "qdrant",
            "config": {
                "collection_name": "mem0",
                "path": str(folder / "qdrant"),
                "on_disk": True,
                "embedding_model_dims": DIMENSIONS,
            },
        },
        "embedder": {"provider": provider, "config": {"model": "wordllama", "embedding_dims": DIMENSIONS}},
        "llm": unused_llm(),
        "history_db_path": str(folder / "history.db"),
        "version": "v1.1",
    }


def _open(config: dict[str, Json]) -> Any:
    from mem0 import Memory

    with offline_embedder(config):
        return Memory.from_config({key: value for key, value in config.items() if key != OWN_KEY})


def _date_history(path: Path, written: list[_WrittenRow]) -> None:
    """Set the times in Mem0's history, which has one row for each event, in order; an empty time stays empty."""
    database = sqlite3.connect(path)
    try:
        rows = database.execute("SELECT rowid, memory_id, created_at, updated_at FROM history ORDER BY rowid")
        for (rowid, memory_id, created_at, updated_at), event in zip(rows.fetchall(), written, strict=True):
            if memory_id != event.memory_id:
                raise RuntimeError(f"row {rowid} of Mem0's history is of another memory than expected")
            dated = (
                created_at and _as_spelled(created_at, event.created),
                updated_at and _as_spelled(updated_at, event.at),
                rowid,
            )
            database.execute("UPDATE history SET created_at = ?, updated_at = ? WHERE rowid = ?", dated)
        database.commit()
    finally:
        database.close()


def _as_spelled(by_mem0: str, moment: datetime) -> str:
    """A time in the time zone of `by_mem0`, a time that this Mem0 has just written: UTC, or US/Pacific before 1.0."""
    return moment.astimezone(datetime.fromisoformat(by_mem0).tzinfo).isoformat()


def _write_queries(path: Path, ids: dict[str, str]) -> None:
    rows = [
        {"query": question.text, "user_id": question.user}
        | ({"agent_id": question.agent} if question.agent else {})
        | {"expect": [ids[key] for key in question.expect]}
        for question in load_questions()
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _write_json(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _lines(name: str) -> list[dict[str, Json]]:
    text = resources.files("spectron_migrate.rehearsal").joinpath(name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _event(row: dict[str, Json]) -> MemoryEvent:
    fields = dict(row)
    kind = next(iter(fields))
    return MemoryEvent(
        kind=cast(EventKind, kind), key=fields.pop(kind), at=datetime.fromisoformat(fields.pop("at")), **fields
    )


if __name__ == "__main__":
    sys.stdout.write(f"{make_store(Path(sys.argv[1]))}\n")
