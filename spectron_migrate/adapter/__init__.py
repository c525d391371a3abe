"""What an application imports: Mem0's interface over Mem0 and Spectron, for the time of a migration and after it.

Light on purpose: importing it loads no command line, no Mem0 and no HTTP client.
"""

from spectron_migrate.adapter.aio import AsyncMemoryAdapter
from spectron_migrate.adapter.sync import MemoryAdapter

__all__ = ["AsyncMemoryAdapter", "MemoryAdapter"]
