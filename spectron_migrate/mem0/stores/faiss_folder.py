"""Reads a FAISS folder of Mem0: only the docstore beside the index, which holds the memories.

Mem0 2.x keeps the docstore as JSON, older versions as a pickle. If both exist, the newer file counts, because an
application that was not upgraded goes on writing the pickle after 2.x has written the JSON.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.mem0.normalise import from_payload
from spectron_migrate.mem0.reader import ReaderBase, Sleep
from spectron_migrate.mem0.stores.qdrant_pickle import UnexpectedClass
from spectron_migrate.records import Memory, Skipped, SourceInfo, counted

_TRIES = 5
_PAUSE = 0.2
_INDEX_HEAD = struct.Struct("<4siq")
"""Start of a flat index: its kind, its dimensions, its number of vectors."""

Docstore = Mapping[str, Any]


class FaissFolder(ReaderBase):
    """Reads one collection of a FAISS folder."""

    def __init__(self, folder: Path, collection: str, info: SourceInfo, *, now: datetime, sleep: Sleep) -> None:
        """Find the collection; raises InputError, listing those that exist, if there is no such collection."""
        super().__init__()
        self.info = info
        self._now = now
        self._sleep = sleep
        self._folder = folder
        self._name = collection
        self._docstore()

    def native_count(self) -> int:
        """Number of memories in the docstore."""
        return len(self._docstore())

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every memory of the docstore as it was when reading began."""
        self.notes.clear()
        docstore = self._docstore()
        vectors = self._vectors()
        if vectors is not None and vectors != len(docstore):
            self.notes.append(
                f"the index beside {self._newest_docstore().name} holds {counted(vectors, 'vector')} for"
                f" {counted(len(docstore), 'memory')}; "
                "deletions by Mem0 before 1.0 leave such vectors behind"
            )
        for memory_id, payload in docstore.items():
            yield from_payload(memory_id, payload if isinstance(payload, dict) else {}, now=self._now)

    def _docstore(self) -> Docstore:
        """The whole docstore, read again if an application was rewriting it in place."""
        failure: Exception | None = None
        for _ in range(_TRIES):
            path = self._newest_docstore()
            before = _stamp(path)
            try:
                docstore = _read_docstore(path)
            except UnexpectedClass:
                raise
            except (ValueError, EOFError, pickle.UnpicklingError, OSError, KeyError, TypeError) as error:
                failure = error
            else:
                if before == _stamp(path):
                    return self._check_not_erased(docstore, path)
            self._sleep(_PAUSE)
        if failure is None:
            raise Incomplete(f"{self._newest_docstore()} changes too fast to be read", hint="run it again")
        raise InputError(
            f"{self._newest_docstore()} is not a docstore of Mem0, or is truncated: {failure}"
        ) from failure

    def _check_not_erased(self, docstore: Docstore, path: Path) -> Docstore:
        if not docstore and self._vectors():
            raise Incomplete(
                f"{path} reads as empty, but the index beside it holds {self._vectors():,} vectors",
                hint="the docstore was erased; export from a backup of the folder",
            )
        return docstore

    def _newest_docstore(self) -> Path:
        found = [path for tail in (".json", ".pkl") if (path := self._folder / f"{self._name}{tail}").is_file()]
        if found:
            return max(found, key=lambda path: path.stat().st_mtime_ns)
        if not self._folder.is_dir():
            raise InputError(f"there is no FAISS folder at {self._folder}", hint="name the folder Mem0 writes to")
        names = sorted(path.stem for path in self._folder.glob("*.faiss"))
        raise InputError(
            f"there is no collection {self._name} in {self._folder}",
            hint=f"collections there: {', '.join(names) or 'none at all'}",
        )

    def _vectors(self) -> int | None:
        """The number of vectors in the header of the index; None if it is not a flat index."""
        try:
            with (self._folder / f"{self._name}.faiss").open("rb") as file:
                kind, _, count = _INDEX_HEAD.unpack(file.read(_INDEX_HEAD.size))
        except (OSError, struct.error):
            return None
        return int(count) if kind in (b"IxFI", b"IxF2", b"IxFl") else None


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise UnexpectedClass(
            f"the docstore names the class {module}.{name}, which is not part of a memory",
            hint="the file may be malicious; nothing in it was executed",
        )


def _read_docstore(path: Path) -> Docstore:
    data = path.read_bytes()
    docstore = json.loads(data)["docstore"] if path.suffix == ".json" else _PlainUnpickler(io.BytesIO(data)).load()[0]
    if not isinstance(docstore, dict):
        raise ValueError("it holds no docstore")
    return docstore


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
