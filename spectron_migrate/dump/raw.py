"""Raw Mem0 files behind the same interface as a dump directory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from spectron_migrate.dump.manifest import MANIFEST, RELATIONS
from spectron_migrate.dump.opened import Dump, open_dump
from spectron_migrate.errors import InputError
from spectron_migrate.files.scratch import Scratch
from spectron_migrate.records import Memory, counted, digest


def open_any(paths: Sequence[Path], *, now: datetime | None = None) -> Dump:
    """Open a dump directory, or raw Mem0 files of any format.

    `now` decides which memories of raw files have expired. Raises InputError if a file holds no memories of Mem0.
    """
    directories = [path for path in paths if path.is_dir() or path.name == MANIFEST]
    if len(paths) == 1 and directories:
        return open_dump(paths[0].parent if paths[0].name == MANIFEST else paths[0])
    if directories:
        raise InputError(
            f"{directories[0]} is a directory beside other inputs", hint="name one dump directory, or raw files only"
        )
    return _open_raw(paths, now or datetime.now(UTC))


def _open_raw(paths: Sequence[Path], now: datetime) -> Dump:
    # Imported here, because they load archive formats and everything that writes a dump, which reading a dump does not
    # need.
    from spectron_migrate.dump.writer import DumpWriter
    from spectron_migrate.mem0.formats.files import FilesReader
    from spectron_migrate.mem0.unreadable import UnreadableFields

    with Scratch() as scratch:
        folder = scratch / "dump"
        with FilesReader(paths, now=now) as reader, DumpWriter(folder, reader.info, now) as writer:
            unreadable = UnreadableFields()
            for row in reader.rows():
                if isinstance(row, Memory):
                    unreadable.add(row)
                writer.add(row)
            for relation in reader.relations():
                writer.append_line(RELATIONS, relation)
            missing, left_out = reader.missing(), writer.left_out()
            writer.commit(complete=False if missing or left_out else None, native_count=None, ended=now)
            notes = [*reader.notes, *unreadable.notes()]
            if missing:
                which = counted(missing, "memory that the pages announce is", "memories that the pages announce are")
                notes.append(f"{which} missing")
            if left_out:
                notes.append(f"{counted(sum(left_out.values()), 'row')} with content left out: {', '.join(left_out)}")
        dump = open_dump(folder)  # its files stay open after their directory is removed
    sums = sorted(_sha256(path) for path in paths)
    return dump.as_raw(paths[0], digest("raw", *sums), notes)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
