"""Counts the rows of a store in a process of its own: with the store's own listing, or with our reader.

Usage: python -m tests.stores.listing bare|ours PROVIDER SETTINGS; prints the number of rows.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from spectron_migrate.mem0.open import open_oss


def bare(provider: str, config: dict[str, Any]) -> int:
    """Count rows with the store's own listing, payload included."""
    if provider == "chroma":
        return _bare_chroma(config)
    if provider == "redis":
        return _bare_redis(config)
    if provider == "mongodb":
        import pymongo

        rows = pymongo.MongoClient(config["mongo_uri"])[config["db_name"]][config["collection_name"]]
        return sum(1 for _ in rows.find({}, {"payload": 1}))
    from pymilvus import MilvusClient

    client = MilvusClient(config["url"])
    client.load_collection(config["collection_name"])
    pages = client.query_iterator(
        config["collection_name"], batch_size=1000, output_fields=["id", "metadata"], consistency_level="Strong"
    )
    number = 0
    while page := pages.next():
        number += len(page)
    return number


def _bare_redis(config: dict[str, Any]) -> int:
    """Count the hashes, as the driver's `scan_iter` finds them, each with its fields."""
    import redis

    db = redis.Redis.from_url(config["redis_url"])
    keys = db.scan_iter(match=f"mem0:{config['collection_name']}:*", count=1000, _type="hash")
    fields = ("memory_id", "memory", "hash", "created_at", "updated_at", "user_id", "agent_id", "run_id", "metadata")
    number = 0
    while page := list(islice(keys, 1000)):
        asked = db.pipeline(transaction=False)
        for key in page:
            asked.hmget(key, fields)
        number += len(asked.execute())
    return number


def _bare_chroma(config: dict[str, Any]) -> int:
    base = f"http://{config['host']}:{config['port']}/api/v2/tenants/default_tenant/databases/default_database"
    with urllib.request.urlopen(f"{base}/collections/{config['collection_name']}", timeout=60) as answer:
        collection = json.load(answer)["id"]
    number = 0
    while True:
        asked = json.dumps({"limit": 300, "offset": number, "include": ["metadatas"]}).encode()
        request = urllib.request.Request(
            f"{base}/collections/{collection}/get", asked, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = len(json.load(answer)["ids"])
        if not found:
            return number
        number += found


def ours(provider: str, config: dict[str, Any]) -> int:
    """Count rows with the reader, proof of completeness included."""
    section = {"vector_store": {"provider": provider, "config": config}, "history_db_path": "/nowhere/history.db"}
    with open_oss(section, now=datetime.now(UTC)) as reader:
        number = sum(1 for _ in reader.rows())
        assert 0 == reader.missing()
    return number


if __name__ == "__main__":
    how, provider, settings = sys.argv[1:]
    print((ours if how == "ours" else bare)(provider, json.loads(settings)))
