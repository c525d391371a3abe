"""The immutable types that all parts share, and a few pure functions on them.

A raw JSON object never leaves the module that read it: a reader converts it to a `Memory`, the mapping adds a
`Placement`, and the ledger stores both.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal

Json = Any
"""A value as `json` reads and writes it."""

State = Literal["active", "expired", "deleted", "archived", "replaced"]
"""State of a memory in Mem0, which shows only `active` ones to the application."""

TextAtSource = Literal["history", "updated_at", "created_at", "none"]
"""Where `text_at` comes from; `updated_at` is a guess, because a metadata edit changes it too."""

Infer = Literal["full", "none"]
Category = Literal["identity", "knowledge", "context"]

Clause = tuple[str, ...]
Selector = tuple[Clause, ...]
"""Scopes a memory is written to (Spectron's ScopeSets): a reader must cover every path of at least one clause."""

EPOCH = "1970-01-01T00:00:00.000000Z"

NAMED = 10
"""Items that a message lists by name."""

ENTITY_IDS = ("user_id", "agent_id", "app_id", "run_id")
"""The ids that name the owners of a memory."""


@dataclass(frozen=True, slots=True)
class Memory:
    """One memory as Mem0 has it.

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
    """When the current text was written."""
    text_at_source: TextAtSource = "none"
    state: State = "active"
    history_row: int | None = None
    """The row of Mem0's history that changed the memory to this text. It decides the order of equal times."""
    extra: Mapping[str, Json] = field(default_factory=dict)
    """All other fields that Mem0 returned, so that nothing is silently dropped."""

    @property
    def entity_ids(self) -> dict[str, str]:
        """The ids of its owners by field name, without those that are None."""
        pairs = {name: getattr(self, name) for name in ENTITY_IDS}
        return {name: value for name, value in pairs.items() if value is not None}

    def to_json(self) -> dict[str, Json]:
        """The form in a line of `memories.jsonl`."""
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
        """The inverse of `to_json`; raises KeyError or TypeError for any other line."""
        if len(row) == len(cls.__slots__):
            try:
                return MemoryDraft.of(_fields_of(row))
            except KeyError:
                pass  # a line of another version, or of something else
        return cls(**{**row, "categories": tuple(row.get("categories") or ())})


class MemoryDraft:
    """A memory whose fields are all set, one by one, before `finished`.

    An export makes one for each row, and a frozen dataclass would need a call for each of its 19 fields.
    """

    __slots__ = Memory.__slots__

    id: str
    memory: str
    user_id: str | None
    agent_id: str | None
    run_id: str | None
    app_id: str | None
    actor_id: str | None
    role: str | None
    metadata: Mapping[str, Json]
    categories: tuple[str, ...]
    created_at: str | None
    updated_at: str | None
    expiration_date: str | None
    hash: str | None
    text_at: str | None
    text_at_source: TextAtSource
    state: State
    history_row: int | None
    extra: Mapping[str, Json]

    @classmethod
    def of(cls, values: tuple[Any, ...]) -> Memory:
        """A memory from the values of all fields, in order. The categories may be a list, or None."""
        made = cls()
        made.id, made.memory, made.user_id, made.agent_id, made.run_id, made.app_id, made.actor_id = values[:7]
        made.role, made.metadata, categories, made.created_at, made.updated_at, made.expiration_date = values[7:13]
        made.hash, made.text_at, made.text_at_source, made.state, made.history_row, made.extra = values[13:]
        made.categories = tuple(categories or ())
        return made.finished()

    def finished(self) -> Memory:
        """The draft itself, as a memory that is not changed any more."""
        self.__class__ = Memory  # type: ignore[assignment]
        return self  # type: ignore[return-value]


_fields_of = itemgetter(*Memory.__slots__)


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Identifies a Mem0: computed from the settings alone, without credentials."""

    kind: Literal["oss", "platform", "server", "files"]
    place: str
    """Provider, resolved path or URL, and collection; or base URL and account. Canonical, without credentials."""
    provider: str = ""
    version: str | None = None

    @property
    def identity(self) -> str:
        """The id of a migration is computed from this and the context."""
        return self.kind if self.kind == "files" else f"{self.kind}:{self.place}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A memory or a raw row that is not migrated, and why."""

    id: str
    reason: str
    has_content: bool = False
    """Whether a text or rows are lost with it, so that the reading is not complete."""


def reason_key(reason: str) -> str:
    """The part of a reason that is counted: without the details after the colon."""
    return reason.split(":", 1)[0]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how the mapping writes one memory."""

    selector: Selector
    lane: str
    """Facts with `full` keep their order within a lane; lanes are sent in parallel."""
    run: str | None
    """Memories of one run share sessions; those without a run (None) share theirs."""
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
    """False if `full` was requested and nothing was extracted."""
    tokens: int | None = None
    """Tokens that the write cost, if the response says so."""


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """A batch that Spectron confirmed: one receipt for each message, in order."""

    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a Spectron query; `source` is its kind, such as `memory_chunk` or `attribute`."""

    id: str
    text: str
    source: str
    score: float = 0.0
    session_id: str | None = None
    """The session of a passage, if the server's generation names it."""
    turn_id: str | None = None
    """Its turn, which may be missing even if the session is known."""


@dataclass(frozen=True, slots=True)
class Filters:
    """The memories a command applies to; empty means all. Filters never change the order."""

    users: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Whether there is any filter."""
        return bool(self.users or self.agents or self.runs)

    def admits(self, memory: Memory) -> bool:
        """Whether the memory matches every kind of id that is filtered."""
        return (
            (not self.users or memory.user_id in self.users)
            and (not self.agents or memory.agent_id in self.agents)
            and (not self.runs or memory.run_id in self.runs)
        )


def format_time(moment: datetime) -> str:
    """A time as RFC 3339 in UTC with microseconds and `Z`: one format, so that times can be compared as text."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rjust(26, "0") + "Z"


def counted(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 memory`, `1,234 memories`. `many` is the plural if it is irregular."""
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
    """A time as `format_time` writes it; raises ValueError for any other format."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def canonical_json(value: Json) -> str:
    """JSON that is the same text for equal values: keys sorted, no spaces, no escapes for non-ASCII characters."""
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=4096)
def selector_of(text: str) -> Selector:
    """A selector from its canonical JSON, as the ledger stores it."""
    return tuple(tuple(clause) for clause in json.loads(text))


def digest(*parts: str) -> str:
    """SHA-256 over the parts and their lengths, so that `("ab", "c")` and `("a", "bc")` differ."""
    return hashlib.sha256(b"".join([len(data).to_bytes(8, "big") + data for data in map(to_bytes, parts)])).hexdigest()


def to_bytes(text: str) -> bytes:
    """UTF-8 for any text, even one with a lone surrogate, which SQLite and strict UTF-8 refuse."""
    return text.encode("utf-8", "surrogatepass")


def from_bytes(data: bytes) -> str:
    """The inverse of `to_bytes`."""
    return data.decode("utf-8", "surrogatepass")


def is_unicode(text: str) -> bool:
    """False for a text with a lone surrogate (half a character), which only JSON can represent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def same_text(left: str, right: str) -> bool:
    """Whether two texts are equal, apart from what a server may normalise: NFC and outer white space."""
    if left == right:
        return True
    return unicodedata.normalize("NFC", left).strip() == unicodedata.normalize("NFC", right).strip()


def order_key(memory: Memory, scanned_at: str) -> str:
    """The order key of a memory in its lane: a text that sorts.

    A time in the future is capped at the start of the scan that read the row, so that one wrong clock cannot raise the
    high-water of a lane above all later memories.
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
    """Whether the memory has a time."""
    return memory.text_at is not None and is_time(memory.text_at)


def is_time(text: str) -> bool:
    """False for 1970-01-01 and the year 1, which stores and languages write for a missing time."""
    return not text.startswith(("1970-01-01", "0001-"))
