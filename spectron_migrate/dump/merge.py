"""The small rules by which a scan and an older dump become one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from spectron_migrate.dump.index import Found, record_digest, text_digest
from spectron_migrate.dump.manifest import Tombstone
from spectron_migrate.records import Filters, Json, SourceInfo


@dataclass(slots=True)
class Merge:
    """What walking the old dump found."""

    matched: int = 0
    carried: int = 0
    changed_text: int = 0
    changed_otherwise: int = 0
    deleted: int = 0
    returned: list[str] = field(default_factory=list)
    tombstones: dict[str, Tombstone] = field(default_factory=dict)

    def compare(self, found: Found, line: bytes, text: str) -> None:
        """Count a memory that is in both."""
        self.matched += 1
        if found.text != text_digest(text):
            self.changed_text += 1
        elif found.record != record_digest(line):
            self.changed_otherwise += 1


def owners_of(row: Mapping[str, Json]) -> tuple[str | None, str | None, str | None]:
    """User, agent and run of a line."""
    return row["user_id"], row["agent_id"], row["run_id"]


def limits_of(filters: Filters, since: str | None) -> dict[str, Json]:
    """What a scan was limited to, for the manifest."""
    told: dict[str, Json] = {
        name: sorted(ids)
        for name, ids in (("users", filters.users), ("agents", filters.agents), ("runs", filters.runs))
        if ids
    }
    return told | ({"since": since} if since is not None else {})


def same_source(old: SourceInfo, new: SourceInfo) -> bool:
    """One address of the Platform serves many projects: which one it was is told beside the identity."""
    return old.identity == new.identity and (not new.provider or old.provider in ("", new.provider))


def named_source(source: SourceInfo) -> str:
    """A source, for a person."""
    return f"{source.identity} {source.provider}" if source.kind == "platform" else source.identity


def changed_at(line: bytes) -> str:
    """When the row last changed, as Mem0 says; empty where it does not."""
    row = json.loads(line)
    return str(row["updated_at"] or row["created_at"] or "")
