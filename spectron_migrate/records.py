"""The frozen types that travel between the parts, and the few pure rules about them.

A raw JSON object never leaves the module that read it: readers turn it into a `Memory`, the mapping
turns that into a `Placement`, and the ledger keeps both.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, Protocol

Json = Any
"""A value as `json` reads and writes it."""

State = Literal["active", "expired", "deleted", "archived", "replaced"]
"""What Mem0 would say of a row: only `active` ones are shown to the application."""

TextAtSource = Literal["history", "updated_at", "created_at", "none"]
"""Where `text_at` comes from; `updated_at` is a guess, because a metadata edit moves it too."""

Infer = Literal["full", "none"]
Category = Literal["identity", "knowledge", "context"]

Clause = tuple[str, ...]
Selector = tuple[Clause, ...]
"""Spectron's ScopeSets: any clause is enough, a reader must cover every path of it."""

EPOCH = "1970-01-01T00:00:00.000000Z"

NAMED = 10
"""Items that a message lists by name."""

ENTITY_IDS = ("user_id", "agent_id", "app_id", "run_id")
"""The ids that say whose a memory is."""


@dataclass(frozen=True, slots=True)
class Memory:
    """One row of Mem0, told truthfully.

    Times are RFC 3339 in UTC with microseconds and a `Z` (`format_time`), so that they sort as text.
    """

    id: str
    memory: str
    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    app_id: str | None = None
    actor_id: str | None = None
    role: str | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    created_at: str | None = None
    updated_at: str | None = None
    expiration_date: str | None = None
    hash: str | None = None
    text_at: str | None = None
    """When the current text came to be."""
    text_at_source: TextAtSource = "none"
    state: State = "active"
    history_row: int | None = None
    """Row in Mem0's history of the change that made this text: it breaks ties of time."""
    extra: Mapping[str, Json] = field(default_factory=dict)
    """All else that Mem0 gave, so that nothing is dropped in silence."""

    @property
    def entity_ids(self) -> dict[str, str]:
        """The ids that say whose memory it is; absent ones are left out."""
        pairs = {name: getattr(self, name) for name in ENTITY_IDS}
        return {name: value for name, value in pairs.items() if value is not None}

    def to_json(self) -> dict[str, Json]:
        """As one line of `memories.jsonl`."""
        return {
            "id": self.id,
            "memory": self.memory,
            "user_id": self.user_id,
            "agent_id": self.agent_id,
            "run_id": self.run_id,
            "app_id": self.app_id,
            "actor_id": self.actor_id,
            "role": self.role,
            "metadata": dict(self.metadata),
            "categories": list(self.categories),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "expiration_date": self.expiration_date,
            "hash": self.hash,
            "text_at": self.text_at,
            "text_at_source": self.text_at_source,
            "state": self.state,
            "history_row": self.history_row,
            "extra": dict(self.extra),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Json]) -> Memory:
        """The inverse of `to_json`; raises KeyError or TypeError for a line that is none."""
        return cls(**{**row, "categories": tuple(row.get("categories") or ())})


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Which Mem0 a scan read: computable from the settings alone, never with a credential in it."""

    kind: Literal["oss", "platform", "server", "files"]
    place: str
    """Canonical: provider, resolved path or URL without credentials, collection; or base URL and account."""
    provider: str = ""
    version: str | None = None

    @property
    def identity(self) -> str:
        """What the migration's id is computed from, together with the context."""
        return self.kind if self.kind == "files" else f"{self.kind}:{self.place}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A memory, or a raw row, that is not carried on, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how the mapping writes one memory."""

    selector: Selector
    lane: str
    """Inside a lane the order of `full` facts is kept; lanes run in parallel."""
    run: str | None
    """Memories of one run share sessions; None shares them with all that have no run."""
    infer: Infer
    category: Category
    labels: tuple[str, ...]
    rule: int
    """Index of the rule that matched, from 0; -1 for the built-in default."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A write that Spectron confirmed, with the ids by which its hits are recognised later."""

    turn_id: str | None
    chunk_id: str | None
    ids: tuple[str, ...]
    """Entity and attribute ids of the extraction."""
    extracted: bool
    """False where `full` was asked for and nothing was extracted."""
    tokens: int | None = None
    """What the write cost, where the answer says so."""


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """A batch that Spectron confirmed: one receipt a message, in their order."""

    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """One row of an answer of Spectron's; `source` is its kind, such as `memory_chunk` or `attribute`."""

    id: str
    text: str
    source: str
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Filters:
    """Which memories a command is about; empty means all. Filters choose, they never change the order."""

    users: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """True where anything is filtered at all."""
        return bool(self.users or self.agents or self.runs)

    def admits(self, memory: Memory) -> bool:
        """A memory must match every kind of id that is filtered by."""
        return (
            (not self.users or memory.user_id in self.users)
            and (not self.agents or memory.agent_id in self.agents)
            and (not self.runs or memory.run_id in self.runs)
        )


class Reporter(Protocol):
    """How logic speaks: it never prints. The command line draws; tests and libraries use `NullReporter`."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A new stage begins; `total` items are expected where that is known."""

    def advance(self, done: int = 1, note: str = "") -> None:
        """`done` more items of the stage are finished; `note` says what slows it down, if anything."""

    def warn(self, message: str) -> None:
        """Something the user should know; it also goes into the summary's `warnings`."""

    def info(self, message: str) -> None:
        """A line for a person."""


class NullReporter:
    """Says nothing, but keeps the warnings."""

    def __init__(self) -> None:
        """Start with no warnings."""
        self.warnings: list[str] = []

    def stage(self, name: str, total: int | None = None) -> None:
        """Ignore it."""

    def advance(self, done: int = 1, note: str = "") -> None:
        """Ignore it."""

    def warn(self, message: str) -> None:
        """Keep it."""
        self.warnings.append(message)

    def info(self, message: str) -> None:
        """Ignore it."""


def format_time(moment: datetime) -> str:
    """RFC 3339, UTC, microseconds, `Z`: one spelling, so that times compare as text and bytes stay stable."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rjust(26, "0") + "Z"


def counted(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 memory`, `1,234 memories`; `many` where an ending does not make the plural."""
    if n == 1:
        return f"1 {one}"
    if many is None:
        many = f"{one[:-1]}ies" if one.endswith("y") else f"{one}s"
    return f"{n:,} {many}"


def name_first(items: Sequence[str], *, separator: str = ", ") -> str:
    """The first `NAMED` items, and how many more there are."""
    more = [f"and {len(items) - NAMED:,} more"] if len(items) > NAMED else []
    joined = separator.join(items[:NAMED])
    return f"{joined}{separator if separator != ', ' else ' '}{more[0]}" if more else joined


def parse_time(text: str) -> datetime:
    """A time in our own spelling; raises ValueError for any other."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def canonical_json(value: Json) -> str:
    """The same value always gives the same text: keys sorted, no spaces, letters unescaped."""
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=4096)
def selector_of(text: str) -> Selector:
    """A selector from its canonical JSON, as ledgers and workspaces keep it."""
    return tuple(tuple(clause) for clause in json.loads(text))


def digest(*parts: str) -> str:
    """SHA-256 over the parts, which cannot run into each other."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)
    return hasher.hexdigest()


def is_unicode(text: str) -> bool:
    """False where half a letter (a lone surrogate) stands in it, which JSON can carry and nothing else takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def same_text(left: str, right: str) -> bool:
    """Equal exactly, or equal after NFC and without outer space: a server may normalise that much."""
    if left == right:
        return True
    return unicodedata.normalize("NFC", left).strip() == unicodedata.normalize("NFC", right).strip()


def order_key(memory: Memory, scanned_at: str) -> str:
    """The place of a memory in its lane, as text that sorts.

    A time in the future is capped at the start of the scan that read the row, so that one wrong clock
    cannot hold the high-water of a lane above everything that is still to come.
    """
    text_at = min(memory.text_at, scanned_at) if memory.text_at and has_time(memory) else "0"
    return "|".join(
        [
            text_at.ljust(27, "0"),
            (memory.created_at or "0").ljust(27, "0"),
            f"{memory.history_row or 0:015d}",
            memory.id,
        ]
    )


def has_time(memory: Memory) -> bool:
    """False for no time at all, and for 1970-01-01, which stores write where they have none."""
    return memory.text_at is not None and not memory.text_at.startswith("1970-01-01")
