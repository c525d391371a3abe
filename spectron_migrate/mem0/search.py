"""Runs Mem0's own search on a copy of a store, to compare its results with Spectron's.

Mem0 itself runs only here and in the rehearsal's store. Constructing a Mem0 object writes: versions up to 1.0.7 erase
an embedded Qdrant folder opened without `on_disk: true`, and every version creates what it does not find. So it is only
constructed on a copy, with a home directory of its own and telemetry off.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spectron_migrate.errors import InputError, MigrateError, Unreachable
from spectron_migrate.mem0.embedder import TimedEmbedder, ask_once, check_connection, embedder_name
from spectron_migrate.mem0.stores.config_spellings import OWN_KEY, TYPESCRIPT
from spectron_migrate.mem0.stores.oss_config import MEMORY
from spectron_migrate.mem0.stores.sqlite_readonly import ReadOnlyDb
from spectron_migrate.mem0.wordllama_embedder import WordLlamaEmbedding
from spectron_migrate.records import Json

OFFLINE_EMBEDDERS = {"wordllama": f"{WordLlamaEmbedding.__module__}.{WordLlamaEmbedding.__qualname__}"}
"""Embedders of ours: classes by their full names, as in Mem0's table of embedders."""

_DEFAULT_FOLDER = "/tmp/qdrant"  # noqa: S108 - Mem0's own default
_SERVER_KEYS = ("url", "host", "client")
_ALTERNATIVE = "run the queries where this Mem0 runs and pass the answers with --mem0-results"
_NOISY = ("mem0", "httpx", "qdrant_client", "posthog", "wordllama")


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One result of Mem0. Scores of different stores and versions are not comparable; ranks and ids are."""

    id: str
    text: str
    score: float | None


class Mem0Search:
    """Mem0's search over a copy of a store; a context manager."""

    def __init__(
        self,
        memory: Any,
        description: str,
        *,
        prepare: Callable[[Mapping[str, str]], object] = lambda ids: None,
        real_id: Callable[[str], str] = str,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        """`memory`: a `mem0.Memory` opened on a copy. Use `open_search` or `dump_search.open_dump_search`.

        `prepare` is called before a search with its ids; `real_id` converts the id of a hit.
        """
        self._memory = memory
        self._description = description
        self._prepare, self._real_id, self._close = prepare, real_id, close
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
        """The results that an application would get: with Mem0's own threshold, best first, at most `top_k`.

        Raises InputError for a query without an id, which Mem0 refuses, and Unreachable if Mem0 fails, because a
        failure must never look like an empty result.
        """
        given = {"user_id": user_id, "agent_id": agent_id, "run_id": run_id}
        ids = {name: value for name, value in given.items() if value is not None}
        if not ids:
            raise InputError(
                "a query needs a user, an agent or a run", hint="Mem0 only searches the memories of one of them"
            )
        try:
            self._prepare(ids)
            if self._ids_are_arguments:
                answer = self._memory.search(query, limit=top_k, **ids)
            else:
                answer = self._memory.search(query, top_k=top_k, filters=ids)
        except MigrateError:
            raise
        except Exception as error:  # Mem0 raises any error that its embedder and store raise
            raise Unreachable(
                f"Mem0 could not answer a query: {type(error).__name__}",
                hint=f"it was {self._description}; is its embedder reachable, with its key?",
            ) from error
        return [self._hit(row) for row in _rows(answer)][:top_k]

    def describe(self) -> str:
        """The Mem0 version and the embedder, for reports."""
        return self._description

    def close(self) -> None:
        """Close the copy. May be called twice."""
        close_memory(self._memory)
        self._close()

    def _hit(self, row: Json) -> SearchHit:
        return SearchHit(id=self._real_id(str(row["id"])), text=row["memory"], score=row.get("score"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_search(config: Mapping[str, Json], *, scratch: Path) -> Mem0Search:
    """Copy the embedded Qdrant folder that `config` names into `scratch` and open Mem0 on the copy.

    `config` is a complete Mem0 config as for `Memory.from_config`. Its embedder and reranker are used unchanged. Its
    language model and graph store are left out, because searching memories does not need them, and opening a graph
    store can write to it. Qdrant loads the whole copy into memory, about 16 MB for 1,000 memories.

    The caller removes `scratch`. Raises InputError if the config does not name an embedded Qdrant folder with that
    collection, or Mem0 cannot be constructed from it, Incomplete if the folder cannot be read now, and Unreachable if
    the embedder does not answer a first question.
    """
    folder, collection = _embedded_folder(config)
    _refuse_missing(folder, collection)
    check_connection(config)
    copied = scratch / "qdrant"
    copy_qdrant_folder(folder, copied)
    settings = {**((config.get("vector_store") or {}).get("config") or {}), "path": str(copied), "on_disk": True}
    store = {"provider": "qdrant", "config": settings}
    with mem0_home(scratch / "mem0"), offline_embedder(config):
        memory = construct_memory(config, store, history=scratch / "history.db")
    try:
        ask_once(memory.embedding_model)
    except MigrateError:
        close_memory(memory)
        raise
    return Mem0Search(memory, describe_memory(memory, config))


def copy_qdrant_folder(folder: Path, target: Path) -> None:
    """Copy an embedded Qdrant folder, without its lock, even while an application writes to it.

    Each `storage.sqlite` is copied in one read transaction, so every collection is consistent. Raises InputError or
    Incomplete if one cannot be read.
    """
    target.mkdir(parents=True, mode=0o700)
    shutil.copyfile(folder / "meta.json", target / "meta.json")
    for storage in sorted(folder.glob("collection/*/storage.sqlite")):
        copied = target / storage.relative_to(folder)
        copied.parent.mkdir(parents=True)
        with ReadOnlyDb(storage) as database:
            database.all("VACUUM INTO ?", (str(copied),))


@contextmanager
def mem0_home(home: Path) -> Iterator[None]:
    """In the block, Mem0 can be imported and constructed, with `home` as its home, without telemetry and log output.

    Mem0 reads both settings when it is first imported, and then writes an id into its home. `MEM0_DIR` is restored at
    the end, because the default configuration of Mem0 depends on it.
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
    """In the block, Mem0 constructs our embedder if `config` requests it under `OWN_KEY`; otherwise nothing changes.

    Mem0 checks the name of the provider against a fixed list, but looks its class up in a table. Our class is put into
    that table under the provider of the config, and the table is restored afterwards. Raises InputError for an
    embedder that is unknown or not installed.
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


def unused_llm() -> dict[str, Json]:
    """A language model that Mem0 can construct without a key; it is never called."""
    from mem0.utils.factory import LlmFactory

    if "lmstudio" in LlmFactory.provider_to_class:
        return {"provider": "lmstudio", "config": {}}
    return {"provider": "openai", "config": {"api_key": "never-called"}}


def close_memory(memory: Any) -> None:
    """Close the connections of a `mem0.Memory` of any version.

    A Qdrant client that is left open prints an error at exit.
    """
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
    if config.get(TYPESCRIPT) or provider == MEMORY:
        raise InputError(
            "Mem0's search cannot be run here for a configuration of Mem0 for TypeScript", hint=_ALTERNATIVE
        )
    if provider != "qdrant" or any(settings.get(key) for key in _SERVER_KEYS):
        where = "a Qdrant server" if provider == "qdrant" else provider
        raise InputError(
            f"Mem0's search can only be run here on an embedded Qdrant folder, and this config names {where}",
            hint=_ALTERNATIVE,
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


def construct_memory(config: Mapping[str, Json], store: dict[str, Json], *, history: Path) -> Any:
    """A `mem0.Memory` with this `vector_store` and history, and everything else that searching needs as in `config`.

    Its embedder answers within a time limit. Call it inside `mem0_home`. Raises InputError if Mem0 cannot be
    constructed.
    """
    from mem0 import Memory

    left_out = (OWN_KEY, "graph_store", "llm", "vector_store", "history_db_path", TYPESCRIPT)
    prepared: dict[str, Json] = {key: copy.deepcopy(value) for key, value in config.items() if key not in left_out}
    prepared |= {"vector_store": store, "history_db_path": str(history)}
    try:
        memory = Memory.from_config({**prepared, "llm": unused_llm()})
    except Exception as error:  # embedder, reranker and validation may raise any error, and may quote a key
        raise InputError(
            f"Mem0 could not be opened on a copy of the store: {_cause(error)} (embedder {_provider(prepared)})",
            hint=f"give the embedder what it needs, for instance its key; or {_ALTERNATIVE}",
        ) from error
    memory.embedding_model = TimedEmbedder(memory.embedding_model, embedder_name(config))
    return memory


def _cause(error: BaseException) -> str:
    """Only the class of an error, because its text can contain a key, or a whole config."""
    if isinstance(error, ModuleNotFoundError):
        return f"the module {error.name} is not installed"
    return type(error).__name__


def describe_memory(memory: Any, config: Mapping[str, Json]) -> str:
    """The version of Mem0 and its embedder."""
    version = f"mem0ai {metadata.version('mem0ai')}"
    own = (config.get(OWN_KEY) or {}).get("embedder")
    if own is not None:
        return f"{version}, embedder {own} (offline)"
    model = getattr(getattr(memory.embedding_model, "config", None), "model", None)
    return f"{version}, embedder {_provider(config)}/{model or 'its default model'}"


def _provider(config: Mapping[str, Json]) -> str:
    return str((config.get("embedder") or {}).get("provider", "openai"))


def _rows(answer: Json) -> list[Json]:
    """The rows of a response: a list or an object with `results`, depending on Mem0's version and its config."""
    return list(answer["results"] if isinstance(answer, dict) else answer)
