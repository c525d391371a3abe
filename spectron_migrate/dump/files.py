"""Files of a dump as they are made: private, checksummed while written, durable before they count."""

from __future__ import annotations

import hashlib
import json
import math
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any

from spectron_migrate.dump.manifest import DELETED, MANIFEST, SKIPPED, FileSum, Manifest, pending_name
from spectron_migrate.errors import InputError, LedgerLocked
from spectron_migrate.files.atomic import sync_folder, write_durably
from spectron_migrate.files.locks import FileLock, try_lock
from spectron_migrate.records import Json

_BUFFER = 1 << 18
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


class LineFile:
    """A new file of lines that knows its own checksum; readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.count = 0
        self._hash = hashlib.sha256()
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b", buffering=_BUFFER)

    def write(self, line: bytes) -> None:
        self.write_all([line])

    def write_all(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
        self.count += len(lines)

    def lines(self) -> Iterator[bytes]:
        self._file.flush()
        with self.path.open("rb") as lines:
            yield from lines

    def line_at(self, place: int) -> bytes:
        self._file.flush()
        with self.path.open("rb") as lines:
            lines.seek(place)
            return lines.readline()

    def sum(self) -> FileSum:
        return FileSum(sha256=self._hash.hexdigest(), size=self.size, lines=self.count)

    def rename(self, path: Path) -> None:
        self.path = self.path.replace(path)

    def finish(self) -> None:
        """On the disk, not only on its way there."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk: what cannot be written is not wanted any more
            self._file.close()


def encoded(value: Json) -> bytes:
    """One line of JSON, the same for the same value; what JSON cannot say is told as text."""
    try:
        return (_ENCODER.encode(value) + "\n").encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair: only an escape can carry it
        return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode("ascii")
    except (TypeError, ValueError):
        return encoded(_as_json(value))


def _as_json(value: Any) -> Json:
    """A value out of a pickle as JSON has it: times in ISO form, bytes in base64, the rest as its text."""
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


def locked_folder(path: Path) -> FileLock:
    """The directory, private and for one export at a time."""
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


def roll_forward(path: Path, manifest: Manifest) -> None:
    """Put the files of a published manifest under their own names, and remove what it no longer names."""
    for name in manifest.files:
        pending = path / pending_name(name, manifest.scan_id)
        if pending.exists():
            pending.replace(path / name)
    for name in (DELETED, SKIPPED):
        if name not in manifest.files:
            (path / name).unlink(missing_ok=True)
    sync_folder(path)
