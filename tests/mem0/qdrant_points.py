"""Embedded Qdrant folders, written as the Qdrant client writes them."""

from __future__ import annotations

import base64
import pickle
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_store(folder: Path, points: Iterable[tuple[str, bytes]], collection: str = "mem0") -> Path:
    """A collection with these pickled ids and points, in this order."""
    directory = folder / "store" / "collection" / collection
    directory.mkdir(parents=True)
    with sqlite3.connect(directory / "storage.sqlite") as db:
        db.execute("CREATE TABLE points (id TEXT PRIMARY KEY, point BLOB)")
        db.executemany("INSERT INTO points VALUES (?, ?)", points)
    db.close()
    return folder


def key_of(point_id: Any, protocol: int = 4) -> str:
    return base64.b64encode(pickle.dumps(point_id, protocol=protocol)).decode()


def point(point_id: Any, vector: Any = (0.5,), **payload: Any) -> bytes:
    """A point as the client pickles it."""
    from qdrant_client.http.models import PointStruct

    return pickle.dumps(PointStruct.model_construct(id=point_id, vector=list(vector), payload=payload))


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"
