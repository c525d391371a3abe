"""Folds files of changes into the other files of a dump. Mem0 is not read, and no unchanged line is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from spectron_migrate.dump.changes import is_changes
from spectron_migrate.dump.files import LineFile, publish
from spectron_migrate.dump.manifest import DELETED, MEMORIES, MOST_ANCESTORS, Manifest, pending_name
from spectron_migrate.dump.opened import open_dump
from spectron_migrate.fast_json import loads
from spectron_migrate.files.atomic import naming
from spectron_migrate.records import digest


def fold(
    path: Path,
    manifest: Manifest,
    lines: BinaryIO,
    over: Mapping[str, tuple[bytes, bool]],
    replaced: Iterable[tuple[int, int]],
) -> Manifest:
    """Publish the same dump without files of changes, as a generation of its own; returns its manifest.

    `lines`: the file of memories. `over`: what the files of changes say, as `changes.last_lines` gives it. `replaced`:
    offset and size of each line that they replace in `lines`, ascending. The lines of `over` are written after all
    others, in its order.

    After a crash the dump is the one before or this one. Hold the dump's lock. Raises InputError if the dump was
    altered, OSError, which names the file.
    """
    # No other publication has this name: the pending files of one that failed must never be taken for those of another.
    scan_id = digest("fold", manifest.digest)[:16]
    files: dict[str, LineFile] = {}
    try:
        with open_dump(path) as dump:
            with naming(path / MEMORIES):
                files[MEMORIES] = memories = LineFile(path / pending_name(MEMORIES, scan_id))
                at = 0
                for offset, size in replaced:
                    memories.copy(lines, at, offset)
                    at = offset + size
                memories.copy(lines, at, manifest.files[MEMORIES].size)
                memories.write_all([line for line, is_there in over.values() if is_there])
                memories.checksum()
            with naming(path / DELETED):
                files[DELETED] = deleted = LineFile(path / pending_name(DELETED, scan_id))
                for line in dump.lines_without_changes(DELETED):
                    if loads(line)["id"] not in over:
                        deleted.write(line)
                deleted.write_all([line for line, is_there in over.values() if not is_there])
                deleted.checksum()
        kept = {name: file for name, file in manifest.files.items() if name != DELETED and not is_changes(name)}
        written = {name: file.checksum() for name, file in files.items() if file.count or name == MEMORIES}
        folded = replace(
            manifest,
            scan_id=scan_id,
            files={**kept, **written},
            generation=manifest.generation + 1,
            ancestors=(manifest.digest, *manifest.ancestors)[:MOST_ANCESTORS],
            chained="",
        )
        publish(path, folded, files)
        return folded
    except BaseException:
        for file in files.values():
            file.discard()
        raise
