"""Move an AI agent's memory from Mem0 to Spectron (SurrealDB Agent Memory)."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AsyncMemoryAdapter", "MemoryAdapter", "NotInSpectron", "SpectronClient", "__version__"]

if TYPE_CHECKING:
    from spectron_migrate.adapter import AsyncMemoryAdapter, MemoryAdapter
    from spectron_migrate.errors import NotInSpectron
    from spectron_migrate.spectron.session import SpectronClient


def __getattr__(name: str) -> Any:
    """Load what an application imports on first use: the command line must not pay for it."""
    if name == "AsyncMemoryAdapter":
        from spectron_migrate.adapter import AsyncMemoryAdapter

        return AsyncMemoryAdapter
    if name == "MemoryAdapter":
        from spectron_migrate.adapter import MemoryAdapter

        return MemoryAdapter
    if name == "SpectronClient":
        from spectron_migrate.spectron.session import SpectronClient

        return SpectronClient
    if name == "NotInSpectron":
        from spectron_migrate.errors import NotInSpectron

        return NotInSpectron
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
