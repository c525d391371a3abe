"""Mem0's embedder, made to fail soon and with one sentence, because many more questions may follow.

Embedders wait for minutes and try again (OpenAI's client: 10 minutes, three times), and would do so for every question.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from spectron_migrate.errors import MigrateError, Unreachable
from spectron_migrate.mem0.addresses import without_credentials
from spectron_migrate.mem0.stores.config_spellings import OWN_KEY
from spectron_migrate.records import Json

CONNECT_S = 10.0
ANSWER_S = 60.0
"""The time limit. An embedding takes less than a second, but a model may have to be loaded first."""
MOST_FAILURES = 3
"""After this many failures in a row, the embedder is not asked again."""
_HINT = "is it reachable from here, with its key?"
_DEFAULTS = {
    "openai": "https://api.openai.com/v1",
    "ollama": "http://localhost:11434",
    "lmstudio": "http://localhost:1234/v1",
}
_VARIABLES = {"openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE"), "azure_openai": ("EMBEDDING_AZURE_ENDPOINT",)}


class TimedEmbedder:
    """An embedder of Mem0 with a time limit. Everything else is left to the embedder itself."""

    def __init__(self, embedder: Any, name: str, *, answer_s: float = ANSWER_S) -> None:
        """`name`: as `embedder_name` gives it."""
        self._embedder = embedder
        self._name = name
        self._answer_s = answer_s
        self._failures = 0
        self._gone: Unreachable | None = None

    def embed(self, *texts: Any, **options: Any) -> Any:
        """The vector of a text.

        Raises Unreachable; after a time-out or several failures, at once and without asking again.
        """
        return self._ask(self._embedder.embed, texts, options)

    def embed_batch(self, *texts: Any, **options: Any) -> Any:
        """The vectors of texts; like `embed`."""
        return self._ask(self._embedder.embed_batch, texts, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def _ask(self, call: Callable[..., Any], values: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        if self._gone is not None:
            raise self._gone
        try:
            answer = _within(self._answer_s, lambda: call(*values, **options))
        except TimeoutError:
            self._gone = self._unreachable(f"within {self._answer_s:g} s")
            raise self._gone from None
        except Exception as error:  # embedders may raise any error, and may quote a key
            failed = self._unreachable(type(error).__name__)
            self._failures += 1
            self._gone = failed if self._failures >= MOST_FAILURES else None
            raise failed from error
        self._failures = 0
        return answer

    def _unreachable(self, why: str) -> Unreachable:
        reason = f" {why}" if why.startswith("within") else f": {why}"
        return Unreachable(f"Mem0's embedder {self._name} did not answer{reason}", hint=_HINT)


def embedder_name(config: Mapping[str, Json]) -> str:
    """The provider, and its address if that is known: `openai at https://api.openai.com/v1`."""
    address = _address(config)
    return f"{_provider(config)} at {address}" if address else _provider(config)


def check_connection(config: Mapping[str, Json], *, connect_s: float = CONNECT_S) -> None:
    """Raises Unreachable if nothing listens at the embedder's address.

    If no address is named, nothing is checked. Some embedders connect while they are constructed, and would wait
    longer.
    """
    address = _address(config)
    parts = urlsplit(address or "")
    if not parts.hostname or address == _DEFAULTS["openai"] or parts.scheme in getproxies():
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=connect_s).close()
    except TimeoutError:
        reason = f"within {connect_s:g} s"
    except OSError as error:
        reason = f"({(error.strerror or type(error).__name__).lower()})"
    else:
        return
    raise Unreachable(f"Mem0's embedder {embedder_name(config)} did not answer {reason}", hint=_HINT)


def ask_once(embedder: TimedEmbedder) -> int:
    """The length of the vectors, found by a first question. Raises Unreachable."""
    try:
        return len(embedder.embed("a first question", "search"))
    except MigrateError:
        raise
    except TypeError as error:
        raise Unreachable(f"Mem0's embedder gave no vector: {type(error).__name__}", hint=_HINT) from error


def _address(config: Mapping[str, Json]) -> str | None:
    if (config.get(OWN_KEY) or {}).get("embedder") is not None:
        return None  # it runs in this process
    provider = _provider(config)
    settings = (config.get("embedder") or {}).get("config") or {}
    named = [settings.get(f"{provider}_base_url"), (settings.get("azure_kwargs") or {}).get("azure_endpoint")]
    named += [os.environ.get(name) for name in _VARIABLES.get(provider, ())]
    found = next((str(one) for one in named if one), _DEFAULTS.get(provider))
    if found is None:
        return None
    try:
        return without_credentials(found)
    except ValueError:
        return None


def _provider(config: Mapping[str, Json]) -> str:
    return str((config.get("embedder") or {}).get("provider", "openai"))


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """The result of the call; raises TimeoutError after some time.

    The thread is left behind, because it cannot be stopped.
    """
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:  # raised again in the caller's thread
            outcome.append((False, error))

    thread = threading.Thread(target=run, name="mem0-embedder", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError
    succeeded, value = outcome[0]
    if not succeeded:
        raise value
    return value
