"""Move an AI agent's memory from Mem0 to Spectron (SurrealDB Agent Memory)."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "AsyncMemoryAdapter",
    "InputError",
    "KeyRefused",
    "MemoryAdapter",
    "MigrateError",
    "NotInSpectron",
    "NotLegal",
    "OtherMapping",
    "RoutingUnreadable",
    "ScopeRefused",
    "SpectronClient",
    "Unreachable",
    "__version__",
]

if TYPE_CHECKING:
    from spectron_migrate.adapter import (
        AsyncMemoryAdapter,
        InputError,
        KeyRefused,
        MemoryAdapter,
        MigrateError,
        NotInSpectron,
        NotLegal,
        OtherMapping,
        RoutingUnreadable,
        ScopeRefused,
        Unreachable,
    )
    from spectron_migrate.spectron.session import SpectronClient


def __getattr__(name: str) -> Any:
    """Load what an application imports on first use, so that it does not slow down the command line."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "SpectronClient":
        from spectron_migrate.spectron.session import SpectronClient

        return SpectronClient
    from spectron_migrate import adapter

    return getattr(adapter, name)
