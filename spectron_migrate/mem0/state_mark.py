"""A mark of Mem0's state: while the mark stays the same, nothing there has changed, so nothing needs to be read.

To take a mark, no rows are read. Only files have one that is certain: their metadata and the head of the file. What a
mark cannot show is found by the next reading of everything (docs/protocol.md, Cutover).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spectron_migrate.files.sqlite_heads import read_head
from spectron_migrate.mem0.open import config_of, expand_patterns
from spectron_migrate.mem0.stores.history import history_path
from spectron_migrate.mem0.stores.oss_config import VectorStore, vector_store
from spectron_migrate.records import digest

FRESH_NS = 1_000_000_000
"""A file that changed within this time has no mark, because a second change may get the same time."""
_HEAD = 128
"""The bytes with the counter that SQLite raises with every transaction, and with the salts of its write-ahead log."""


def state_mark(mem0: Mapping[str, Any], *, now_ns: int) -> str | None:
    """The mark for a `mem0` section of the settings; None if it has none, or has none now.

    Take it before a reading: a change during the reading then makes the next mark differ. `now_ns` is the wall clock
    in nanoseconds. Raises what opening the store raises.
    """
    if mem0.get("files") is not None:
        named = expand_patterns(mem0["files"])
        return _files_mark(named, now_ns) if all(map(Path.is_file, named)) else None
    if mem0.get("oss") is None:
        return None
    config = config_of(mem0["oss"])
    store = vector_store(config)
    files = _files_of(store)
    history = history_path(config)
    return _files_mark([*files, *([history] if history is not None else [])], now_ns) if files else None


def _files_of(store: VectorStore) -> list[Path]:
    match store.provider, store.path:
        case "qdrant", Path() as folder:
            return [folder / "meta.json", *sorted(folder.glob("collection/*/storage.*"))]
        case "faiss", Path() as folder:
            return sorted(folder.glob(f"{store.collection}.*"))
        case "chroma", Path() as folder:
            return [folder / "chroma.sqlite3"]
        case "memory", Path() as file:
            return [file]
    return []


def _files_mark(files: Iterable[Path], now_ns: int) -> str | None:
    """The mark of all files, and of the journals and logs that SQLite keeps beside them."""
    parts: list[str] = []
    for file in (Path(f"{path}{tail}") for path in files for tail in ("", "-wal", "-journal")):
        try:
            status, head = read_head(file, _HEAD)
        except FileNotFoundError:
            parts.append(f"{file} is not there")
            continue
        if status.st_mtime_ns > now_ns - FRESH_NS:
            return None
        parts += [str(file), head.hex()]
        parts += [str(each) for each in (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)]
    return digest(*parts)
