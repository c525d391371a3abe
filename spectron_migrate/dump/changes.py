"""Files of changes: what rounds of following found changed, laid over the other files of the dump.

A round that reads only what changed writes one file, `changes-N.jsonl`, in place of the whole dump anew; N is the
generation that the dump has with it. Its first line says what changes in the manifest and names the digest of the
dump that it belongs to, so a file left over from an older dump counts for nothing. `.newest` names the last of them,
so that one that is lost is missed. A whole reading, or a later round, folds all of them in.
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
    """The file that makes the dump one of this generation; None: a pattern for all of them."""
    return f"{_START}{'*' if generation is None else format(generation, '06d')}.jsonl"


def is_changes(name: str) -> bool:
    """Whether a file of the dump holds changes."""
    return name.startswith(_START)


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a file of changes."""

    previous: str
    """Digest of the dump that it lies over."""
    scan_id: str
    began: str
    """No row that changed before this is missing."""
    ended: str
    native_count: int | None
    memories: int
    users: Mapping[str, int]
    """Numbers of memories of the users for whom they changed."""
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
        """As the first line of the file."""
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
    """The manifest of a dump directory as its files of changes leave it, or None if there is none.

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
            f"{path / changes_name(generation + 1)} is missing: the dump lacks what was laid over it last",
            hint=f"put it back, or delete {path} and export again: `spectron-migrate export`",
        )
    return _laid_over(base, chain, last) if chain else base


def note_newest(path: Path, name: str) -> None:
    """Note the last file of changes, once it is there. Raises OSError."""
    base = _base(path)
    assert base is not None  # noqa: S101 - the file of changes was laid over it a moment ago
    replace_file(path / NEWEST, canonical_json({"manifest": base.digest, "changes": name}).encode(), durable=True)


def _newest(path: Path, base: Manifest) -> str:
    """The name of the last file of changes; empty if there is none over this `manifest.json`."""
    value = read_json(path / NEWEST) or {}
    return str(value.get("changes", "")) if value.get("manifest") == base.digest else ""


def _laid_over(base: Manifest, chain: list[tuple[str, Header, FileSum]], last: str) -> Manifest:
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
        # What the last round did not find changed is as it was: each row is known as of that round.
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


def laid_over(lines: Mapping[str, Iterator[bytes]]) -> dict[str, tuple[bytes, bool]]:
    """The last line of each memory in these files of changes, by id, and whether Mem0 still has the memory.

    `lines`: of each file, by name. They are few and small: see `changes_writer.MOST_BYTES`.
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
"""What this process has read, by what changes with every write: a follower reads the same files again each round."""


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
