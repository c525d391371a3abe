"""Stores that cannot be read, and why Mem0's own classes are not used for them either.

Most of these classes create or change something on the user's server when they are opened, and several silently list
only a part of the rows.
"""

from __future__ import annotations

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.stores.oss_config import VectorStore

_CREATES = "opening it with Mem0's class may create or change a collection or an index there"
_NEAREST = "its listing in Mem0 is a nearest-neighbour search, which may silently leave out memories"

REASONS = {
    "baidu": _CREATES,
    "cassandra": f"{_CREATES}, and its scoped listing drops rows",
    "databricks": _NEAREST,
    "langchain": "the store behind it has no listing of everything",
    "neptune": _CREATES,
    "vertex_ai_vector_search": _NEAREST,
}
OWN_DUMP = (
    "dump it from your application, which has the store open already: docs/sources.md has some ten lines for it, then"
    " `spectron-migrate export --from FILE`"
)


def unsupported_store(store: VectorStore) -> InputError:
    """The error that says why this store cannot be read, and what to do instead."""
    reason = REASONS.get(store.provider, _CREATES)
    return InputError(f"a store of {store.provider} cannot be exported directly: {reason}", hint=OWN_DUMP)
