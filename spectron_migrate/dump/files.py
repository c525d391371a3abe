"""Writes the files of a dump: private, checksummed while written, and durable before the manifest names them."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from base64 import b64encode
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any, BinaryIO

from spectron_migrate.dump.changes import NEWEST, changes_name, is_changes
from spectron_migrate.dump.manifest import DELETED, MANIFEST, SKIPPED, FileSum, Manifest, pending_name
from spectron_migrate.errors import InputError, LedgerLocked
from spectron_migrate.fast_json import canonical, canonical_line
from spectron_migrate.files.atomic import naming, sync_folder, write_durably
from spectron_migrate.files.locks import FileLock, try_lock
from spectron_migrate.records import Json, Memory

_BUFFER = 1 << 18
_PIECE = 1 << 19
_SYNC_EACH = 1 << 26
_MOST_PENDING = 4
"""The most pieces that wait to be written. Each has a megabyte or two at most, unless one text is longer."""


class LineFile:
    """A new file of lines that computes its own checksum; readable by its owner alone.

    Lines are collected into large pieces, which a thread of its own hashes and writes while reading goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.count = 0
        self._hash = hashlib.sha256()
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b", buffering=_BUFFER)
        self._held: list[bytes] = []
        self._passed_on = 0
        """The size of what was passed to the thread, or written."""
        self._beside: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()
        self._unsynced = 0

    def write(self, line: bytes) -> None:
        self.write_all([line])

    def write_all(self, lines: list[bytes]) -> None:
        """Write these lines, without empty ones."""
        self._held += lines
        self.size += sum(map(len, lines))
        self.count += len(lines) - lines.count(b"")
        if self.size - self._passed_on >= _PIECE:
            if self._beside is None:
                self._beside = ThreadPoolExecutor(1, "dump")
            self._wait(_MOST_PENDING)
            self._pending.append(self._beside.submit(self._write, self._take_held()))

    def copy(self, file: BinaryIO, begin: int, end: int) -> None:
        """Write the lines of another file between two offsets."""
        while begin < end:
            data = os.pread(file.fileno(), min(_PIECE, end - begin), begin)
            if not data:
                raise OSError(errno.EIO, "the file that is copied is shorter than it was")
            self.write_all([data])
            self.count += data.count(b"\n") - 1
            begin += len(data)

    def lines(self) -> Iterator[bytes]:
        self._flush()
        with self.path.open("rb") as lines:
            yield from lines

    def line_at(self, offset: int) -> bytes:
        self._flush()
        with self.path.open("rb") as lines:
            lines.seek(offset)
            return lines.readline()

    def checksum(self) -> FileSum:
        self._flush()
        return FileSum(sha256=self._hash.hexdigest(), size=self.size, lines=self.count)

    def rename(self, path: Path) -> None:
        self.path = self.path.replace(path)

    def finish(self) -> None:
        """Sync the file to disk and close it."""
        self._flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._end()

    def discard(self) -> None:
        self._end()
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # the disk may be full, but the data is not needed any more
            self._file.close()

    def _take_held(self) -> bytes:
        data = b"".join(self._held)
        self._held.clear()
        self._passed_on += len(data)
        return data

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_EACH:  # syncing a gigabyte only at the end would mean a long wait
            self._file.flush()
            os.fsync(self._file.fileno())
            self._unsynced = 0

    def _wait(self, most: int = 0) -> None:
        """Wait until at most this many pieces are left to write; raises what writing raised."""
        while len(self._pending) > most:
            self._pending[0].result()
            self._pending.popleft()

    def _flush(self) -> None:
        self._wait()
        self._write(self._take_held())
        self._file.flush()

    def _end(self) -> None:
        if self._beside is not None:
            self._beside.shutdown(cancel_futures=True)
            self._beside = None


def json_line(value: Json) -> bytes:
    """One line of JSON, the same for equal values. A value that JSON cannot hold is written as text."""
    try:
        return canonical(value) + b"\n"
    except UnicodeEncodeError:  # a lone surrogate can only be written as an escape
        return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode("ascii")
    except (TypeError, ValueError):
        return json_line(_as_json(value))


def memory_line(memory: Memory, known: tuple[str, int] | None) -> bytes:
    """The line of a memory. `known`: when the text came to be, by Mem0's history, and the row that says so."""
    row: dict[str, Json] = {
        "actor_id": memory.actor_id,
        "agent_id": memory.agent_id,
        "app_id": memory.app_id,
        "categories": memory.categories,
        "created_at": memory.created_at,
        "expiration_date": memory.expiration_date,
        "extra": memory.extra,
        "hash": memory.hash,
        "history_row": memory.history_row,
        "id": memory.id,
        "memory": memory.memory,
        "metadata": memory.metadata,
        "role": memory.role,
        "run_id": memory.run_id,
        "state": memory.state,
        "text_at": memory.text_at,
        "text_at_source": memory.text_at_source,
        "updated_at": memory.updated_at,
        "user_id": memory.user_id,
    }
    if known is not None:
        set_time(row, known)
    try:
        return canonical_line(row, memory.categories, memory.extra, memory.metadata)
    except (UnicodeEncodeError, TypeError, ValueError):
        return json_line(row)


def set_time(row: dict[str, Json], known: tuple[str, int]) -> None:
    """Write into a row of the dump when its text came to be, and which row of Mem0's history says so."""
    row["text_at"], row["history_row"] = known
    row["text_at_source"] = "history"


def _as_json(value: Any) -> Json:
    """A value from a pickle in JSON types: times in ISO form, bytes in base64, anything else by `str`."""
    if isinstance(value, Mapping):
        return {str(name): _as_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted((_as_json(inner) for inner in value), key=str)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return b64encode(value).decode()
    return value if value is None or isinstance(value, str | int | float) else str(value)


def prepare_directory(path: Path) -> FileLock:
    """Create the directory or check that it may hold a dump, make it private, and lock it for one export at a time.

    Raises InputError for a directory with other files, LedgerLocked while another export writes it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{path} is not a directory", hint="`--dump` names a directory") from error
    others = [name for name in os.listdir(path) if not name.startswith(".")]
    if others and MANIFEST not in others:
        raise InputError(
            f"{path} holds other files ({sorted(others)[0]}, …) and no dump", hint="name an empty or a new directory"
        )
    path.chmod(0o700)
    if not (path / ".gitignore").exists():
        write_durably(path / ".gitignore", b"*\n")
    lock = try_lock(path / ".lock")
    if lock is None:
        raise LedgerLocked(f"another export is writing {path}", hint="wait until it has ended")
    return lock


def publish(path: Path, manifest: Manifest, files: dict[str, LineFile]) -> None:
    """Make new files, under their pending names, and their manifest the dump.

    They are once the manifest is renamed; what follows can be repeated after a crash. Files that the manifest does not
    name are discarded. Those that are left in `files` after an exception do not belong to the dump. Raises OSError,
    which names the file.
    """
    for name, file in list(files.items()):
        if name not in manifest.files:
            files.pop(name).discard()
        else:
            with naming(path / name):
                file.finish()
    draft = path / f".manifest.{manifest.scan_id}"
    with naming(path / MANIFEST):
        write_durably(draft, json.dumps(manifest.to_json(), ensure_ascii=True, indent=1).encode() + b"\n")
    files.clear()
    draft.replace(path / MANIFEST)
    sync_folder(path)
    roll_forward(path, manifest)


def roll_forward(path: Path, manifest: Manifest) -> None:
    """Rename the files of a published manifest to their final names, and remove those it no longer names."""
    for name in manifest.files:
        pending = path / pending_name(name, manifest.scan_id)
        if pending.exists():
            pending.replace(path / name)
    for name in (DELETED, SKIPPED):
        if name not in manifest.files:
            (path / name).unlink(missing_ok=True)
    for file in path.glob(changes_name(None)):
        if file.name not in manifest.files:
            file.unlink()
    if not any(is_changes(name) for name in manifest.files):
        (path / NEWEST).unlink(missing_ok=True)
    sync_folder(path)
