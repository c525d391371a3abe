"""Mem0's own search, asked on a copy, so that its answers can be laid beside Spectron's.

This is the one place, with the rehearsal's store, where Mem0 itself runs. Constructing a Mem0 object writes:
up to 1.0.7 it erases an embedded Qdrant folder opened without `on_disk: true`, every version creates what it
does not find. So it is only ever constructed on a copy, with its own home and telemetry off.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spectron_migrate.errors import InputError, Unreachable
from spectron_migrate.mem0.stores.sqlite_readonly import ReadOnlyDb
from spectron_migrate.records import Json

OWN_KEY = "x_spectron_migrate"
"""A key of ours in a Mem0 config, taken out before Mem0 sees it. `{"embedder": "wordllama"}` there says that the
store was embedded by `rehearsal/embed.py`, and that this class stands in for whatever provider is named."""

OFFLINE_EMBEDDERS = {"wordllama": "spectron_migrate.rehearsal.embed.WordLlamaEmbedding"}

_DEFAULT_FOLDER = "/tmp/qdrant"  # noqa: S108 - Mem0's own default
_SERVER_KEYS = ("url", "host", "client")
_OTHER_WAY = "run the queries where this Mem0 runs and give the answers with --mem0-results"
_NOISY = ("mem0", "httpx", "qdrant_client", "posthog", "wordllama")


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One answer of Mem0. Scores of different stores and versions do not compare; ranks and ids do."""

    id: str
    text: str
    score: float | None


class Mem0Search:
    """Mem0's search over a copy of a store; `close` it, or use it as a context manager."""

    def __init__(self, memory: Any, description: str) -> None:
        """Take over a `mem0.Memory` that stands on a copy; `open_search` makes one."""
        self._memory = memory
        self._description = description
        self._ids_are_arguments = "user_id" in inspect.signature(memory.search).parameters

    def search(
        self,
        query: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        top_k: int,
    ) -> list[SearchHit]:
        """What an application would get: Mem0's own threshold and order, best first, at most `top_k`.

        Raises InputError for a query without any id (Mem0 refuses those) and Unreachable where Mem0 fails,
        because a failure must never look like an empty answer.
        """
        given = {"user_id": user_id, "agent_id": agent_id, "run_id": run_id}
        ids = {name: value for name, value in given.items() if value is not None}
        if not ids:
            raise InputError("a query needs a user, an agent or a run", hint="Mem0 searches inside one of them only")
        try:
            if self._ids_are_arguments:
                answer = self._memory.search(query, limit=top_k, **ids)
            else:
                answer = self._memory.search(query, top_k=top_k, filters=ids)
        except Exception as error:  # Mem0 passes on whatever its embedder and store raise
            raise Unreachable(
                f"Mem0 could not answer a query: {type(error).__name__}",
                hint=f"asked was {self._description}; is its embedder reachable, with its key?",
            ) from error
        return [_hit(row) for row in _rows(answer)][:top_k]

    def describe(self) -> str:
        """Which Mem0 and which embedder answered, for reports."""
        return self._description

    def close(self) -> None:
        """Let go of the copy; harmless twice."""
        close_memory(self._memory)

    def __enter__(self) -> Self:
        """The search itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def open_search(config: Mapping[str, Json], *, scratch: Path) -> Mem0Search:
    """Copy the embedded Qdrant folder that `config` names into `scratch` and open Mem0 on the copy.

    `config` is a whole Mem0 config as for `Memory.from_config`. Its embedder and reranker are used as they are.
    Its language model and graph store are left out: no search of memories needs them, and opening a graph store
    can write to it. The copy is read whole into memory by Qdrant, about 16 MB for 1,000 memories.

    `scratch` gets folders of its own and is the caller's to remove. Raises InputError where the config names
    no embedded Qdrant folder, or one without that collection, or Mem0 cannot be constructed from it, and
    Incomplete where the folder cannot be read now.
    """
    folder, collection = _embedded_folder(config)
    _refuse_missing(folder, collection)
    copied = scratch / "qdrant"
    copy_qdrant_folder(folder, copied)
    prepared = _on_copy(config, copied, scratch / "history.db")
    with mem0_at_home(scratch / "mem0"), offline_embedder(config):
        memory = _construct(prepared)
    return Mem0Search(memory, _describe(memory, config))


def copy_qdrant_folder(folder: Path, target: Path) -> None:
    """Copy an embedded Qdrant folder while an application may be writing to it; its lock stays behind.

    Each `storage.sqlite` is copied in one read transaction, so every collection is whole. Raises InputError or
    Incomplete where one cannot be read.
    """
    target.mkdir(parents=True, mode=0o700)
    shutil.copyfile(folder / "meta.json", target / "meta.json")
    for storage in sorted(folder.glob("collection/*/storage.sqlite")):
        copied = target / storage.relative_to(folder)
        copied.parent.mkdir(parents=True)
        with ReadOnlyDb(storage) as database:
            database.all("VACUUM INTO ?", (str(copied),))


@contextmanager
def mem0_at_home(home: Path) -> Iterator[None]:
    """Inside, Mem0 can be imported and constructed: its home is `home`, its telemetry off, its loggers silent.

    Mem0 reads both settings when it is first imported and writes an id into its home right then. The user's
    own `MEM0_DIR` is put back at the end, since a default Mem0 config is found by it.
    """
    home.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("MEM0_DIR")
    os.environ["MEM0_TELEMETRY"] = "False"
    os.environ["MEM0_DIR"] = str(home)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _import_without_telemetry()
            yield
    finally:
        if before is None:
            del os.environ["MEM0_DIR"]
        else:
            os.environ["MEM0_DIR"] = before


@contextmanager
def offline_embedder(config: Mapping[str, Json]) -> Iterator[None]:
    """Inside, Mem0 constructs our embedder where `config` asks for it under `OWN_KEY`; otherwise nothing changes.

    Mem0 checks the provider's name against a fixed list but looks its class up in a table, so the class is put
    in there under the provider that the config names, and the table is put back afterwards. Raises InputError
    for an embedder that we do not have, or that is not installed.
    """
    wanted = (config.get(OWN_KEY) or {}).get("embedder")
    if wanted is None:
        yield
        return
    if wanted not in OFFLINE_EMBEDDERS:
        raise InputError(f"{OWN_KEY} names the embedder {wanted!r}", hint=f"known: {', '.join(OFFLINE_EMBEDDERS)}")
    from mem0.utils.factory import EmbedderFactory

    classes = EmbedderFactory.provider_to_class
    before = dict(classes)
    classes[_provider(config)] = OFFLINE_EMBEDDERS[wanted]
    try:
        yield
    finally:
        classes.clear()
        classes.update(before)


def idle_llm() -> dict[str, Json]:
    """A language model that Mem0 can construct without a key and that is never called."""
    from mem0.utils.factory import LlmFactory

    if "lmstudio" in LlmFactory.provider_to_class:
        return {"provider": "lmstudio", "config": {}}
    return {"provider": "openai", "config": {"api_key": "never-called"}}


def close_memory(memory: Any) -> None:
    """Close what a `mem0.Memory` holds, in every version: left open, Qdrant's client fails loudly at exit."""
    stores = [getattr(memory, name, None) for name in ("vector_store", "_telemetry_vector_store", "_entity_store")]
    for store in stores:
        client = getattr(store, "client", None)
        if client is not None:
            client.close()
    connection = getattr(getattr(memory, "db", None), "connection", None)
    if connection is not None:
        connection.close()


def _import_without_telemetry() -> None:
    already = "mem0" in sys.modules
    from mem0.memory import telemetry

    if telemetry.MEM0_TELEMETRY:
        raise RuntimeError("mem0 was imported with telemetry on" if already else "mem0 ignores MEM0_TELEMETRY")


def _embedded_folder(config: Mapping[str, Json]) -> tuple[Path, str]:
    store = config.get("vector_store") or {}
    provider = store.get("provider", "qdrant")
    settings = store.get("config") or {}
    if provider != "qdrant" or any(settings.get(key) for key in _SERVER_KEYS):
        where = "a Qdrant server" if provider == "qdrant" else provider
        raise InputError(
            f"Mem0's search can be asked here on an embedded Qdrant folder, and this config names {where}",
            hint=_OTHER_WAY,
        )
    return Path(settings.get("path") or _DEFAULT_FOLDER), settings.get("collection_name") or "mem0"


def _refuse_missing(folder: Path, collection: str) -> None:
    meta = folder / "meta.json"
    try:
        known = json.loads(meta.read_text(encoding="utf-8"))
        collections = sorted({**known["collections"], **known.get("aliases", {})})
    except FileNotFoundError:
        raise InputError(
            f"there is no embedded Qdrant at {folder}", hint="is vector_store.config.path right?"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{meta} cannot be read as Qdrant's list of collections: {type(error).__name__}") from error
    if collection not in collections:
        raise InputError(
            f"the embedded Qdrant at {folder} has no collection {collection!r}",
            hint=f"it has {', '.join(collections) or 'none'}",
        )


def _on_copy(config: Mapping[str, Json], folder: Path, history: Path) -> dict[str, Json]:
    left_out = (OWN_KEY, "graph_store", "llm")
    prepared = {key: copy.deepcopy(value) for key, value in config.items() if key not in left_out}
    store = prepared.get("vector_store") or {}
    settings = {**(store.get("config") or {}), "path": str(folder), "on_disk": True}
    prepared["vector_store"] = {"provider": "qdrant", "config": settings}
    prepared["history_db_path"] = str(history)
    return prepared


def _construct(prepared: dict[str, Json]) -> Any:
    from mem0 import Memory

    try:
        return Memory.from_config({**prepared, "llm": idle_llm()})
    except Exception as error:  # whatever the embedder, the reranker or the validation raise; it may quote a key
        raise InputError(
            f"Mem0 could not be opened on a copy of the store: {_cause(error)} (embedder {_provider(prepared)})",
            hint=f"give the embedder what it needs, its key for instance; or {_OTHER_WAY}",
        ) from error


def _cause(error: BaseException) -> str:
    """The kind of an error alone: its text can hold a key, or a whole config."""
    if isinstance(error, ModuleNotFoundError):
        return f"the module {error.name} is not installed"
    return type(error).__name__


def _describe(memory: Any, config: Mapping[str, Json]) -> str:
    version = f"mem0ai {metadata.version('mem0ai')}"
    own = (config.get(OWN_KEY) or {}).get("embedder")
    if own is not None:
        return f"{version}, embedder {own} (offline)"
    model = getattr(getattr(memory.embedding_model, "config", None), "model", None)
    return f"{version}, embedder {_provider(config)}/{model or 'its default model'}"


def _provider(config: Mapping[str, Json]) -> str:
    return str((config.get("embedder") or {}).get("provider", "openai"))


def _rows(answer: Json) -> list[Json]:
    """Mem0 answers with a list or an envelope, by version and by the `version` of its config."""
    return list(answer["results"] if isinstance(answer, dict) else answer)


def _hit(row: Json) -> SearchHit:
    return SearchHit(id=str(row["id"]), text=row["memory"], score=row.get("score"))
