"""What both adapters share: how they are made, and which attributes are those of the wrapped client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectron_migrate.adapter.after_complete import SpectronBackend
from spectron_migrate.adapter.core import AdapterCore
from spectron_migrate.adapter.mem0_methods import COUNTED


class AdapterBase:
    """Wraps a client of Mem0. Making one sends no request and writes no file."""

    def __init__(
        self,
        mem0_client: Any,
        spectron_client: Any | None = None,
        *,
        config: str | Path | None = None,
        state: str | Path | None = None,
        mapping: str | Path | None = None,
        routing: str | Path | None = None,
    ) -> None:
        """Read the settings.

        Args:
            mem0_client: the application's `Memory` or `MemoryClient`, or an asynchronous one for AsyncMemoryAdapter.
            spectron_client: a `SpectronClient`; without one the settings say where Spectron is.
            config: the settings file; by default `spectron-migrate.yaml` if it is there, and the environment.
            state: the migration's state directory, instead of the settings'.
            mapping: the mapping file, instead of the settings'.
            routing: file or https address of `routing.json`; by default it lies in the state directory.

        Raises:
            InputError: settings or mapping are invalid.
        """
        self.mem0 = mem0_client
        """The wrapped client. Calls made directly on it are neither counted nor noted."""
        self.spectron = spectron_client
        self._core = AdapterCore(
            mem0_client, spectron_client, config=config, state=state, mapping=mapping, routing=routing
        )
        self._backend = SpectronBackend(self._core)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.mem0).__name__}, phase={self._core.routing.current().phase!r})"

    def _counting(self, name: str) -> Callable[..., Any]:
        """Wrap a method of the client that Spectron does not have, so that its calls are counted."""
        raise NotImplementedError

    if not TYPE_CHECKING:  # a checker would accept any misspelled method

        def __getattr__(self, name: str) -> Any:
            """All other attributes are the wrapped client's. Calls that Spectron cannot answer are counted."""
            if name.startswith("__") or name in ("mem0", "_core", "_backend"):
                raise AttributeError(name)
            found = getattr(self.mem0, name)
            return self._counting(name) if name in COUNTED else found
