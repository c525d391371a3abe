"""What an application imports during a migration and after it: Mem0's interface in front of Mem0 and Spectron.

It is kept light: importing it loads no command line, no Mem0 and no HTTP client.
"""

from spectron_migrate.adapter.async_adapter import AsyncMemoryAdapter
from spectron_migrate.adapter.mapping_check import OtherMapping
from spectron_migrate.adapter.memory_adapter import MemoryAdapter
from spectron_migrate.errors import (
    InputError,
    KeyRefused,
    MigrateError,
    NotInSpectron,
    NotLegal,
    ScopeRefused,
    Unreachable,
)
from spectron_migrate.state.routing_reader import RoutingUnreadable

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
    "Unreachable",
]
