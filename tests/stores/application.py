"""Writes into a store with Mem0's own class, as an application does: run as a process with Mem0 and its drivers.

Usage: python -m tests.stores.application; on standard input one line of JSON `{"provider", "config"}`, then lines
`["insert", first, last]`, `["update", number]`, `["delete", number]`; each answer is a line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

DIMS = 2
VECTOR = [0.1, 0.2]


def memory_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def payload(number: int, text: str = "note") -> dict[str, Any]:
    time = "2025-01-02T03:04:05.678901+00:00"
    owner = {"user_id": f"user-{number % 7}", "role": "user", "topic": "drinks"}
    return {"data": f"{text} {number}", "hash": "h", "created_at": time, "updated_at": time, **owner}


def open_store(provider: str, config: dict[str, Any]) -> Any:
    """Mem0's class for this provider, with the defaults of its configuration."""
    from mem0.utils.factory import VectorStoreFactory
    from mem0.vector_stores.configs import VectorStoreConfig

    if provider == "mongodb":
        import pymongo
        from mem0.vector_stores.mongodb import MongoDB

        MongoDB.create_col = lambda self: pymongo.MongoClient(config["mongo_uri"])[config["db_name"]][
            config["collection_name"]
        ]
    if provider == "azure_mysql":  # its index on an expression is one of MySQL 8; the table was made by hand
        from mem0.vector_stores.azure_mysql import AzureMySQL

        AzureMySQL.create_col = lambda self, *arguments, **how: None
    return VectorStoreFactory.create(provider, VectorStoreConfig(provider=provider, config=config).config)


def main() -> None:
    how = json.loads(sys.stdin.readline())
    store = open_store(how["provider"], how["config"])
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        call, *numbers = json.loads(line)
        if call == "insert":
            rows = range(*numbers)
            store.insert(
                vectors=[VECTOR for _ in rows],
                payloads=[payload(number) for number in rows],
                ids=[memory_id(number) for number in rows],
            )
        elif call == "update":
            store.update(vector_id=memory_id(numbers[0]), vector=VECTOR, payload=payload(numbers[0], "changed"))
        else:
            store.delete(vector_id=memory_id(numbers[0]))
        print(json.dumps("done"), flush=True)


if __name__ == "__main__":
    main()
