"""Rules for merging a scan with the previous dump."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from spectron_migrate.dump.index import SeenIndex, SeenRow, record_digest, text_digest
from spectron_migrate.dump.manifest import Manifest, Tombstone
from spectron_migrate.records import Filters, Json, SourceInfo, format_time, parse_time

MOST_DIFFERING = 10_000


@dataclass(frozen=True, slots=True)
class DumpUpdate:
    """What a scan changed in the dump: the new manifest, and counts of memories."""

    manifest: Manifest
    new: int
    changed_text: int
    changed_otherwise: int
    """Memories with the same text, but other metadata, times or state."""
    deleted: int
    differing: frozenset[str] | None = None
    """Ids of memories that are new, deleted, back, or have another text; None if there are too many to name."""


@dataclass(slots=True)
class MergeResult:
    """The result of comparing the old dump with the scan. All but the last two are counts of memories."""

    matched: int = 0
    """Memories that are in both."""
    carried: int = 0
    """Memories that are only in the old dump, and are kept."""
    changed_text: int = 0
    changed_otherwise: int = 0
    deleted: int = 0
    """Memories that are only in the old dump, and get a tombstone."""
    returned: list[str] = field(default_factory=list)
    tombstones: dict[str, Tombstone] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)
    """Ids of memories that are in both with different texts, or only in the old dump.

    Kept up to one too many to name.
    """
    numbers: bytearray = field(default_factory=bytearray)
    """For the number of each row of the scan, whether the old dump knows its memory."""

    def differs(self, memory_id: str) -> None:
        """Note a memory that has changed."""
        if len(self.differing) <= MOST_DIFFERING:
            self.differing.append(memory_id)

    def knows(self, found: SeenRow) -> None:
        """Note that the old dump has the memory of this row."""
        if found.number >= len(self.numbers):
            self.numbers.extend(bytes(found.number + 1024 - len(self.numbers)))
        self.numbers[found.number] = 1

    def all_differing(self, seen: SeenIndex, new: int) -> frozenset[str] | None:
        """`differing` with the `new` memories, which the old dump does not have; None if there are too many to name."""
        if new + len(self.differing) > MOST_DIFFERING:
            return None
        return frozenset(self.differing).union(seen.not_among(self.numbers) if new else ())

    def returned_at(self, old: Manifest | None, began: str) -> dict[str, str]:
        """Kept in later scans: a reader that saw the tombstone must learn that it is gone, however late it reads."""
        earlier = old.returned_at if old is not None else {}
        kept = {memory_id: at for memory_id, at in earlier.items() if memory_id not in self.tombstones}
        return {**kept, **dict.fromkeys(self.returned, began)}

    def compare(self, found: SeenRow, line: bytes, row: Json) -> None:
        """Count a memory that is in both, by what changed. `row`: the old line, decoded; None if both are equal."""
        self.matched += 1
        self.knows(found)
        if row is None:
            return
        if found.text != text_digest(row["memory"]):
            self.changed_text += 1
            self.differs(found.id)
        elif found.record != record_digest(line):
            self.changed_otherwise += 1


def owners_of(row: Mapping[str, Json]) -> tuple[str | None, str | None, str | None]:
    """User, agent and run of a line of the dump."""
    return row["user_id"], row["agent_id"], row["run_id"]


def limits_of(filters: Filters, since: str | None) -> dict[str, Json]:
    """The limits of a scan, as the manifest records them."""
    limits: dict[str, Json] = {
        name: sorted(ids)
        for name, ids in (("users", filters.users), ("agents", filters.agents), ("runs", filters.runs))
        if ids
    }
    return limits | ({"since": since} if since is not None else {})


def same_source(old: SourceInfo, new: SourceInfo) -> bool:
    """Whether both are the same Mem0.

    One address of the Platform serves many projects, so its `provider`, which names the project, is compared too.
    """
    return old.identity == new.identity and (not new.provider or old.provider in ("", new.provider))


def describe_source(source: SourceInfo) -> str:
    """A source, for a message."""
    return f"{source.identity} {source.provider}" if source.kind == "platform" else source.identity


def later_than(last: str | None, began: str) -> str:
    """The start of a scan, which is always later than the last one's, even if the clock was set back in between."""
    if last is None or began > last:
        return began
    return format_time(parse_time(last) + timedelta(microseconds=1))
