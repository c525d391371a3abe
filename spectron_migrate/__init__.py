"""Move an AI agent's memory from Mem0 to Spectron (SurrealDB Agent Memory)."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AsyncMemoryAdapter", "MemoryAdapter", "NotInSpectron", "SpectronClient", "__version__"]

if TYPE_CHECKING:
    from spectron_migrate.adapter import AsyncMemoryAdapter, MemoryAdapter
    from spectron_migrate.errors import NotInSpectron
    from spectron_migrate.spectron.session import SpectronClient

_PLACES = {
    "AsyncMemoryAdapter": "adapter",
    "MemoryAdapter": "adapter",
    "NotInSpectron": "errors",
    "SpectronClient": "spectron.session",
}


def __getattr__(name: str) -> Any:
    """Load what an application imports on first use: the command line must not pay for it."""
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
