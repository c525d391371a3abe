"""Files of changes: what rounds of following found changed since the other files of the dump were written.

A round that reads only what changed does not write the whole dump again, but one file, `changes-N.jsonl`; N is the
generation of the dump with this file. The file's first line says what changes in the manifest and names the digest of
the dump that it belongs to, so a file left over from an older dump is ignored. `.newest` names the last file, so that a
lost one is noticed. A whole reading, or a later round, folds all of them in.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from spectron_migrate.dump.checksums import stamp_of
from spectron_migrate.dump.manifest import (
    EXPORT_AGAIN,
    MANIFEST,
    MOST_ANCESTORS,
    FileSum,
    Manifest,
    Tombstone,
    read_base_manifest,
)
from spectron_migrate.errors import InputError
from spectron_migrate.files.atomic import read_json, replace_file
from spectron_migrate.records import canonical_json, digest

_START = "changes-"
NEWEST = ".newest"
"""Names the last file of changes and the digest of the `manifest.json` that they belong to."""


def changes_name(generation: int | None) -> str:
    """The file of changes of this generation of the dump; None: a pattern for all of them."""
    return f"{_START}{'*' if generation is None else format(generation, '06d')}.jsonl"


def is_changes(name: str) -> bool:
    """Whether a file of the dump holds changes."""
    return name.startswith(_START)


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a file of changes."""

    previous: str
    """Digest of the dump to which the changes apply."""
    scan_id: str
    began: str
    """No row that changed before this is missing."""
    ended: str
    native_count: int | None
    memories: int
    users: Mapping[str, int]
    """Number of memories by user, of the users for whom it changed."""
    agents: int
    runs: int
    skipped: Mapping[str, int]
    changed: int
    """How many lines with memories follow; the lines after them are the last records of deleted memories."""
    gone: tuple[str, ...]
    returned: tuple[str, ...]
    body: str
    """SHA-256 of the lines that follow."""

    def line(self) -> bytes:
        """The header as the first line of the file."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({**fields, "digest": digest(canonical_json(fields))}, sort_keys=True).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes) -> Header:
        """The inverse of `line`; raises ValueError, KeyError, TypeError or AttributeError for anything else."""
        value = json.loads(line)
        expected = value.pop("digest")
        if digest(canonical_json(value)) != expected:
            raise ValueError("the digest does not match")
        return cls(**{**value, "gone": tuple(value["gone"]), "returned": tuple(value["returned"])})


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of a dump directory with its files of changes applied, or None if there is none.

    Raises InputError if it was altered.
    """
    base = _base(path)
    if base is None:
        return None
    chain: list[tuple[str, Header, FileSum]] = []
    last, generation = base.digest, max(base.generation, 1)
    while True:
        found = _read(path / changes_name(generation + 1))
        if found is None or found[0].previous != last:
            break
        header, total = found
        generation += 1
        chain.append((last, header, total))
        last = digest(last, total.sha256)
    newest = _newest(path, base)
    if _base(path) != base:
        return read_manifest(path)  # an export or a fold has just replaced the dump, and removed these files
    if changes_name(generation) < newest:
        raise InputError(
            f"{path / changes_name(generation + 1)} is missing: the dump lacks its last changes",
            hint=f"put it back, or delete {path} and export again: `spectron-migrate export`",
        )
    return _with_changes(base, chain, last) if chain else base


def note_newest(path: Path, name: str) -> None:
    """Note in `.newest` which file of changes is the last, after it was written. Raises OSError."""
    base = _base(path)
    assert base is not None  # noqa: S101 - the file of changes was laid over it a moment ago
    replace_file(path / NEWEST, canonical_json({"manifest": base.digest, "changes": name}).encode(), durable=True)


def _newest(path: Path, base: Manifest) -> str:
    """The name of the last file of changes; empty if there is none for this `manifest.json`."""
    value = read_json(path / NEWEST) or {}
    return str(value.get("changes", "")) if value.get("manifest") == base.digest else ""


def _with_changes(base: Manifest, chain: list[tuple[str, Header, FileSum]], last: str) -> Manifest:
    users, tombstones, returned_at = dict(base.users), dict(base.tombstones), dict(base.returned_at)
    files, ancestors, generation = dict(base.files), list(base.ancestors), max(base.generation, 1)
    for previous, header, total in chain:
        generation += 1
        files[changes_name(generation)] = total
        ancestors.insert(0, previous)
        for user, count in header.users.items():
            users[user] = count
            if not count:
                del users[user]
        for mem0_id in header.returned:
            tombstones.pop(mem0_id, None)
            returned_at[mem0_id] = header.began
        for mem0_id in header.gone:
            tombstones[mem0_id] = Tombstone(header.began, header.scan_id)
            returned_at.pop(mem0_id, None)
    header = chain[-1][1]
    return replace(
        base,
        # Rows that the last round did not find changed are as they were, so every row is known as of that round.
        began=header.began,
        ended=header.ended,
        scan_id=header.scan_id,
        scan_began=header.began,
        native_count=header.native_count,
        memories=header.memories,
        users=users,
        agents=header.agents,
        runs=header.runs,
        skipped=header.skipped,
        returned=header.returned,
        returned_at=returned_at,
        tombstones=tombstones,
        files=files,
        generation=generation,
        ancestors=tuple(ancestors[:MOST_ANCESTORS]),
        chained=last,
    )


def last_lines(lines: Mapping[str, Iterator[bytes]]) -> dict[str, tuple[bytes, bool]]:
    """The last line of each memory in these files of changes, by id, and whether Mem0 still has the memory.

    `lines`: the lines of each file, by name. They are few and small: see `changes_writer.MOST_BYTES`.
    """
    found: dict[str, tuple[bytes, bool]] = {}
    for name in sorted(lines):
        header = Header.of(next(lines[name]))
        for number, line in enumerate(lines[name]):
            found[json.loads(line)["id"]] = line, number < header.changed
    return found


_MOST_KEPT = 2_000
_BASES: dict[tuple[object, ...], Manifest] = {}
_READ: dict[tuple[object, ...], tuple[Header, FileSum]] = {}
"""What this process has read. A stamp changes with every write; a follower reads the same files again in each round."""


def _base(path: Path) -> Manifest | None:
    stamp = _stamp(path / MANIFEST)
    if stamp is None:
        return read_base_manifest(path)
    if stamp not in _BASES:
        manifest = read_base_manifest(path)
        if manifest is None or stamp != _stamp(path / MANIFEST):
            return manifest
        _BASES.clear()
        _READ.clear()
        _BASES[stamp] = manifest
    return _BASES[stamp]


def _read(file: Path) -> tuple[Header, FileSum] | None:
    """A file of changes; None if there is none. Raises InputError if it is not one."""
    stamp = _stamp(file)
    if stamp is None:
        return None
    if stamp not in _READ:
        try:
            data = file.read_bytes()
            first, _, body = data.partition(b"\n")
            header = Header.of(first)
            if hashlib.sha256(body).hexdigest() != header.body:
                raise ValueError("the lines are not those of the header")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file} is truncated or holds no changes of a dump", hint=EXPORT_AGAIN) from error
        if len(_READ) > _MOST_KEPT:
            _READ.clear()
        _READ[stamp] = header, FileSum(hashlib.sha256(data).hexdigest(), len(data), data.count(b"\n"))
    return _READ[stamp]


def _stamp(file: Path) -> tuple[object, ...] | None:
    try:
        return str(file), *stamp_of(os.stat(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
