"""Memories in Redis or Valkey: the hashes `mem0:COLLECTION:ID`, found with SCAN.

Mem0's index is not used: it lags, ends at 10,000 rows, and also holds the entity store of the same name. SCAN returns
every key that exists from its beginning to its end, and reading a hash changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from spectron_migrate.errors import InputError, KeyRefused, MigrateError, Unreachable
from spectron_migrate.mem0.addresses import without_credentials
from spectron_migrate.mem0.reader import Sleep
from spectron_migrate.mem0.stores.listed import ListedStore, Row, missing_driver, retried
from spectron_migrate.mem0.stores.oss_config import VectorStore

if TYPE_CHECKING:
    import redis

_PAGE = 1000
_FIELDS = (*("memory_id", "memory", "hash", "created_at", "updated_at", "user_id", "agent_id", "run_id", "metadata"),)
_MILLISECONDS = 100_000_000_000
"""Times above this are milliseconds, as Mem0 for TypeScript writes them. Seconds reach it in the year 5138."""


class RedisHashes(ListedStore):
    """One collection of a Redis or Valkey."""

    counts = "never"

    def __init__(self, store: VectorStore, *, sleep: Sleep) -> None:
        """Prepare the connection; raises InputError without an address or the driver."""
        url = str(store.settings.get("redis_url") or store.settings.get("valkey_url") or "")
        url = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
        super().__init__(store.collection, f"at {without_credentials(url)}")
        self._sleep = sleep
        self._db = _connect(url, store)
        self._prefix = f"mem0:{store.collection}:"

    def exists(self) -> bool:
        return next(self.pages(payload=False), None) is not None

    def names(self) -> list[str]:
        """Collections with a memory. An id holds no colon."""
        return sorted({key.split(":", 1)[1].rpartition(":")[0] for page in self._scan("mem0:*:*") for key in page})

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        for keys in self._scan(f"{_escaped(self._prefix)}*"):
            plain = [key for key in keys if ":" not in key[len(self._prefix) :]]
            if payload or len(plain) < len(keys):
                yield list(self.fetch(keys))
            else:
                yield [Row(key, key[len(self._prefix) :], None) for key in keys]

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        pipeline = self._db.pipeline(transaction=False)
        for key in keys:
            pipeline.hmget(_bytes(key), list(_FIELDS))
        for key, values in zip(keys, self._retried(pipeline.execute), strict=True):
            found = {name: _text(value) for name, value in zip(_FIELDS, values, strict=True) if value is not None}
            memory_id = key[len(self._prefix) :]
            if found and found.get("memory_id", memory_id) == memory_id:  # not of a collection with a longer name
                yield Row(key, memory_id, _payload(memory_id, found))

    def explained(self, error: Exception) -> MigrateError | None:
        import redis

        if not isinstance(error, redis.RedisError):
            return None
        text = " ".join(str(error).split())
        if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError) or "NOAUTH" in text:
            hint = f"the user needs +scan +type +hmget on ~{self._prefix}*, no more"
            return KeyRefused(f"the store {self.where} refuses this user: {text}", hint=hint)
        if isinstance(error, redis.ConnectionError | redis.TimeoutError):
            return Unreachable(f"the store {self.where} cannot be reached: {text}", hint="check address and network")
        return InputError(f"the store {self.where} cannot be read: {text}")

    def close(self) -> None:
        self._db.close()

    def _retried(self, ask: Callable[[], Any]) -> Any:
        import redis

        return retried(ask, (redis.ConnectionError, redis.TimeoutError), self._sleep)

    def _scan(self, pattern: str) -> Iterator[list[str]]:
        """Pages of keys; in a cluster, from every primary."""
        nodes: list[Any] = [None]
        if hasattr(self._db, "get_primaries"):
            nodes = list(self._db.get_primaries())
        for node in nodes:
            where = {} if node is None else {"target_nodes": node}
            cursor: Any = 0
            while True:
                scan = partial(self._db.scan, cursor, match=pattern, count=_PAGE, _type="hash", **where)
                cursor, keys = self._retried(scan)
                if isinstance(cursor, dict):
                    cursor = next(iter(cursor.values()))
                if keys:
                    yield [_text(key) for key in keys]
                if not cursor:
                    break


def _connect(url: str, store: VectorStore) -> redis.Redis:
    if "://" not in url:
        name = f"{store.provider}_url"
        raise InputError(f"vector_store.config.{name} is missing", hint=f"{name}: {store.provider}://HOST:6379")
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise missing_driver("redis", "redis") from error
    options: dict[str, Any] = {"socket_timeout": 60, "socket_connect_timeout": 15}
    options |= {name: value for name in ("username", "password") if (value := store.settings.get(name))}
    try:
        if store.settings.get("cluster_mode"):
            return redis.RedisCluster.from_url(url, **options)
        return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
    except ValueError as error:
        raise InputError(f"{without_credentials(url)!r} is not an address of {store.provider}") from error


def _payload(memory_id: str, found: dict[str, str]) -> dict[str, Any]:
    """Restore Mem0's payload: times were stored as numbers, and missing texts as a mark."""
    metadata: Any = found.get("metadata")
    try:
        metadata = json.loads(metadata or "{}")
    except ValueError:
        metadata = {"metadata": metadata}
    payload = dict(metadata) if isinstance(metadata, dict) else {"metadata": metadata}
    payload |= {name: found[name] for name in ("user_id", "agent_id", "run_id", "hash") if found.get(name)}
    if payload.get("hash") == f"hash_{memory_id}":  # valkey's mark for a row without a hash
        del payload["hash"]
    if "memory" in found and found["memory"] != f"data_{memory_id}":
        payload["data"] = found["memory"]
    for name in ("created_at", "updated_at"):
        moment = _time(found.get(name))
        if moment is not None:
            payload[name] = moment
    return payload


def _time(text: str | None) -> str | None:
    """ISO text for a number of seconds or milliseconds, None for 0. Text that is no number stays as it is."""
    try:
        number = float(text or 0)
        return (
            datetime.fromtimestamp(number / (1000 if number > _MILLISECONDS else 1), UTC).isoformat()
            if number
            else None
        )
    except (ValueError, OverflowError, OSError):
        return text


def _escaped(prefix: str) -> str:
    """The prefix, escaped for a glob pattern."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^-" else letter for letter in prefix)


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
