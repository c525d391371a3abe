"""`manifest.json` of a dump: where it came from, how complete it is, and the SHA-256 of every other file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from spectron_migrate.errors import InputError
from spectron_migrate.records import Json, SourceInfo, canonical_json, counted, digest

FORMAT = 1
MANIFEST = "manifest.json"
MEMORIES = "memories.jsonl"
DELETED = "deleted.jsonl"
SKIPPED = "skipped.jsonl"
HISTORY = "history.jsonl"
RELATIONS = "relations.jsonl"

MOST_ANCESTORS = 500
"""How many generations back a dump knows its ancestors. It cannot be shown to descend from older ones."""

EXPORT_AGAIN = "export it again: `spectron-migrate export`"


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Set by a scan that was complete for the memory's owner and did not find the memory."""

    first_missed: str
    """Start of the first scan that missed it."""
    scan: str


@dataclass(frozen=True, slots=True)
class FileSum:
    """Expected content of a file of the dump."""

    sha256: str
    size: int
    lines: int


@dataclass(frozen=True)
class Manifest:
    """What the dump holds and how that is known; `digest` covers all of it."""

    tool: str
    source: SourceInfo
    native_count: int | None
    """How many rows the store itself reported at the end of the last scan."""
    began: str
    """Start of the oldest scan that a memory in the dump still comes from. No row was read before it."""
    ended: str
    scan_id: str
    """Of the last scan, or of a fold of files of changes: pending files are named after it."""
    scan_began: str
    """Start of the last scan."""
    complete: bool | None
    """Whether each scan that a memory in the dump comes from read everything that it was asked for.

    True if counts prove it, false if something is missing, None if neither can be shown.
    """
    whole: bool
    """Whether some scan read everything, without a filter. Then a memory that is not in the dump was not in Mem0."""
    memories: int
    users: Mapping[str, int]
    """Number of memories by user."""
    agents: int
    runs: int
    skipped: Mapping[str, int]
    """How many rows of the last scan were skipped, by reason; each is named in `skipped.jsonl`."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many of the skipped rows had content, by reason. Then something is missing."""
    filtered: int = 0
    """Rows of the last scan that its filters left out."""
    filters: Mapping[str, Json] = field(default_factory=dict)
    """What the last scan was limited to; empty if it was not limited."""
    fence: str | None = None
    """The fence of a running cutover (a time), after which the scan began."""
    returned: tuple[str, ...] = ()
    """Ids with a tombstone that the last scan found again."""
    returned_at: Mapping[str, str] = field(default_factory=dict)
    """For each id that any scan found again after a tombstone: the start of that scan."""
    tombstones: Mapping[str, Tombstone] = field(default_factory=dict)
    files: Mapping[str, FileSum] = field(default_factory=dict)
    generation: int = 0
    """How often the dump was brought up to date, counted from 1; 0 in a manifest from before generations were kept."""
    ancestors: tuple[str, ...] = ()
    """Digests of the manifests that it was brought up to date from, newest first; the newest `MOST_ANCESTORS`."""
    imported: bool = False
    """Whether all `updated_at` come from one import, so that they say nothing about the texts."""
    format: int = FORMAT
    chained: str = ""
    """The digest if there are files of changes: it covers `manifest.json` and all of them."""

    @property
    def completeness(self) -> bool | None:
        """`complete`, but None for a dump of files from before totals were counted, which claimed to be complete."""
        is_claim = self.complete is True and self.source.kind == "files" and self.native_count is None
        return None if is_claim else self.complete

    @property
    def relations(self) -> int:
        """How many graph relations the dump holds."""
        return self.files[RELATIONS].lines if RELATIONS in self.files else 0

    @property
    def previous(self) -> str | None:
        """Digest of the manifest that this one was brought up to date from; None for the first."""
        return self.ancestors[0] if self.ancestors else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all fields, which include the SHA-256 of every file."""
        return self.chained or digest(canonical_json(self._fields()))

    def to_json(self) -> dict[str, Json]:
        """The form in `manifest.json`."""
        return {**self._fields(), "digest": self.digest}

    def _fields(self) -> dict[str, Json]:
        info = self.source
        # A manifest made before generations were kept has none of these fields, and its digest must still match.
        lineage = {
            "generation": self.generation,
            "previous": self.previous,
            "earlier": list(self.ancestors[1:]),
        }
        return {
            **(lineage if self.generation else {}),
            "format": self.format,
            "tool": self.tool,
            "source": {
                "kind": info.kind,
                "place": info.place,
                "provider": info.provider,
                "version": info.version,
                "identity": info.identity,
            },
            "native_count": self.native_count,
            "began": self.began,
            "ended": self.ended,
            "scan": {"id": self.scan_id, "began": self.scan_began, "filters": dict(self.filters)},
            "complete": self.complete,
            "whole": self.whole,
            "memories": self.memories,
            "users": dict(self.users),
            "agents": self.agents,
            "runs": self.runs,
            "skipped": dict(self.skipped),
            **({"left_out": dict(self.left_out)} if self.left_out else {}),
            "filtered": self.filtered,
            **({"imported": True} if self.imported else {}),
            "fence": self.fence,
            "returned": list(self.returned),
            "returned_at": dict(self.returned_at),
            "tombstones": {
                memory_id: {"first_missed": stone.first_missed, "scan": stone.scan}
                for memory_id, stone in self.tombstones.items()
            },
            "files": {
                name: {"sha256": file.sha256, "size": file.size, "lines": file.lines}
                for name, file in self.files.items()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Manifest:
        """The inverse of `to_json`; raises KeyError, TypeError or AttributeError if `value` is not a manifest."""
        source, scan = value["source"], value["scan"]
        return cls(
            format=value["format"],
            tool=value["tool"],
            source=SourceInfo(source["kind"], source["place"], source["provider"], source["version"]),
            native_count=value["native_count"],
            began=value["began"],
            ended=value["ended"],
            scan_id=scan["id"],
            scan_began=scan["began"],
            filters=scan["filters"],
            complete=value["complete"],
            whole=value["whole"],
            memories=value["memories"],
            users=value["users"],
            agents=value["agents"],
            runs=value["runs"],
            skipped=value["skipped"],
            left_out=value.get("left_out", {}),
            filtered=value["filtered"],
            fence=value["fence"],
            imported=value.get("imported", False),
            returned=tuple(value["returned"]),
            returned_at=value["returned_at"],
            tombstones={
                key: Tombstone(stone["first_missed"], stone["scan"]) for key, stone in value["tombstones"].items()
            },
            files={name: FileSum(file["sha256"], file["size"], file["lines"]) for name, file in value["files"].items()},
            generation=value.get("generation", 0),
            ancestors=(value["previous"], *value["earlier"]) if value.get("previous") is not None else (),
        )


def read_base_manifest(path: Path) -> Manifest | None:
    """`manifest.json` of a dump directory, or None if there is none; raises InputError if it was altered."""
    file = path / MANIFEST
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    try:
        value = json.loads(data)
        if isinstance(value, dict) and value.get("format") != FORMAT and isinstance(value.get("format"), int):
            raise InputError(
                f"{file} has format {value['format']}, this tool reads format {FORMAT}",
                hint="use the version that wrote it, named under `tool`",
            )
        manifest = Manifest.from_json(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is truncated or is not a dump manifest", hint=EXPORT_AGAIN) from error
    if value.get("digest") != manifest.digest:
        raise InputError(f"{file} was altered: its digest does not match", hint=EXPORT_AGAIN)
    return manifest


def pending_name(name: str, scan_id: str) -> str:
    """Name of a new file beside the old one, which it keeps until the new manifest is renamed into place."""
    return f".{name}.{scan_id}"


def describe_relations(number: int) -> str:
    """The warning about graph relations."""
    which = counted(number, "graph relation is", "graph relations are")
    return f"{which} in {RELATIONS} of the dump and not moved: Spectron extracts its own from the memories"


def all_complete(*parts: bool | None) -> bool | None:
    """False if any part is not complete, None if that cannot be shown for some part, else True."""
    return False if False in parts else None if None in parts else True
