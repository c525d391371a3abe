"""What a dump says of itself: `manifest.json`, which names every other file with its SHA-256."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spectron_migrate.errors import InputError
from spectron_migrate.records import Json, SourceInfo, canonical_json, digest

FORMAT = 1
MANIFEST = "manifest.json"
MEMORIES = "memories.jsonl"
DELETED = "deleted.jsonl"
SKIPPED = "skipped.jsonl"
HISTORY = "history.jsonl"
RELATIONS = "relations.jsonl"

AGAIN = "export it again: `spectron-migrate export`"


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A memory that a scan, complete for its owner, no longer found."""

    first_missed: str
    """When the scan began that missed it first."""
    scan: str


@dataclass(frozen=True, slots=True)
class FileSum:
    """What a file of the dump has to be."""

    sha256: str
    size: int
    lines: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the dump holds and how that is known; `digest` is over all of it."""

    tool: str
    source: SourceInfo
    native_count: int | None
    """What the store itself said it holds, at the end of the last scan."""
    began: str
    """When the oldest scan began that still speaks for a memory in here: a time no row is older than."""
    ended: str
    scan_id: str
    scan_began: str
    """When the last scan began."""
    complete: bool
    """Every scan that speaks for a memory in here read all that it was asked for, proven by counts."""
    whole: bool
    """Some scan read everything, without a filter: memories that are not in here were not in Mem0."""
    memories: int
    users: Mapping[str, int]
    """Memories of each user."""
    agents: int
    runs: int
    skipped: Mapping[str, int]
    """How many rows of the last scan were skipped, by reason; each is named in `skipped.jsonl`."""
    filtered: int = 0
    """Rows of the last scan that its filters left out."""
    filters: Mapping[str, Json] = field(default_factory=dict)
    """What the last scan was limited to; empty for all."""
    fence: str | None = None
    """Of a running cutover: the scan has to begin after it."""
    returned: tuple[str, ...] = ()
    returned_at: Mapping[str, str] = field(default_factory=dict)
    """When the scan began that saw a memory again which once had a tombstone, of all scans; id to time."""
    """Ids the last scan found again that had a tombstone."""
    tombstones: Mapping[str, Tombstone] = field(default_factory=dict)
    files: Mapping[str, FileSum] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """SHA-256 over everything in here, and so over every file by its own."""
        return digest(canonical_json(self._fields()))

    def to_json(self) -> dict[str, Json]:
        """As `manifest.json` holds it."""
        return {**self._fields(), "digest": self.digest}

    def _fields(self) -> dict[str, Json]:
        info = self.source
        return {
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
            "filtered": self.filtered,
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
        """The inverse of `to_json`; raises KeyError, TypeError or AttributeError for anything else."""
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
            filtered=value["filtered"],
            fence=value["fence"],
            returned=tuple(value["returned"]),
            returned_at=value["returned_at"],
            tombstones={
                key: Tombstone(stone["first_missed"], stone["scan"]) for key, stone in value["tombstones"].items()
            },
            files={name: FileSum(file["sha256"], file["size"], file["lines"]) for name, file in value["files"].items()},
        )


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of a dump directory, or None where there is none; raises InputError where it was altered."""
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
        raise InputError(f"{file} is cut off or no manifest of a dump", hint=AGAIN) from error
    if value.get("digest") != manifest.digest:
        raise InputError(f"{file} was altered: its digest does not fit", hint=AGAIN)
    return manifest


def pending_name(name: str, scan_id: str) -> str:
    """The name under which a new file lies beside the old one until the manifest is renamed."""
    return f".{name}.{scan_id}"
