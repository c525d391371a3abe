"""Files that appear as a whole or not at all, and writes that survive a power cut."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from spectron_migrate.records import Json


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError in the block name this path if it names none. Python names none if a full disk takes no bytes."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path, *, durable: bool = False, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write to, renamed to `path` at the end of the block. Readers see either the old file or the new one.

    After an exception, `path` is unchanged. `durable`: the new file survives a power cut. Raises OSError, which names
    the path.
    """
    draft = _draft_of(path)
    try:
        with _create(draft, mode) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(draft)):
            error.filename, error.filename2 = str(path), None
        raise
    if durable:
        sync_folder(path.parent)


def replace_file(path: Path, data: bytes, *, durable: bool = False, mode: int = 0o600) -> None:
    """Write `data` under this name, as `replacing` does."""
    with replacing(path, durable=durable, mode=mode) as file:
        file.write(data)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file in place and sync it. Its name is durable only after `sync_folder`."""
    with _create(path, 0o600) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def append_durably(path: Path, data: bytes, *, after: int) -> None:
    """Write `data` after the first `after` bytes of a file, replacing what followed them; it survives a power cut.

    Creates the file if it is missing. Raises OSError.
    """
    is_new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(handle, after)
        if os.pwrite(handle, data, after) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    finally:
        os.close(handle)
    if is_new:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a directory durable: files created or replaced there survive a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Mapping[str, Json]) -> None:
    """Replace a small JSON file, readable by its owner alone."""
    replace_file(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Json] | None:
    """The object that `write_json` wrote; None if the file is missing or cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")


def _create(path: Path, mode: int) -> BinaryIO:
    file = open(path, "wb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115 - the caller closes it
    os.fchmod(file.fileno(), mode)  # whatever the umask
    return file
