"""Rules: which memories they take, and the scope paths their templates build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from spectron_migrate.mapping.segments import scalar_text, segment
from spectron_migrate.mapping.when import Capture, Condition, Exact
from spectron_migrate.records import Category, Infer, Json, Memory, Selector, State

IDS = ("user_id", "agent_id", "app_id", "run_id", "actor_id")
"""Fields that say whose memory it is: two values of one of them never share a scope."""
TEXTS = (*IDS, "role")
TIMES = ("created_at", "updated_at", "text_at", "expiration_date")
METADATA = "metadata."
STATES: tuple[State, ...] = ("expired", "deleted", "archived", "replaced")
Entity = Literal["user_id", "agent_id", "app_id", "run_id"]


@dataclass(frozen=True, slots=True)
class Plain:
    """Plain text in a template."""

    text: str
    field: str = ""

    def fill(self, value: object) -> str | None:
        """The text itself."""
        return self.text

    def __str__(self) -> str:
        """As it is written in a template."""
        return self.text


@dataclass(frozen=True, slots=True)
class Direct:
    """`{user_id}`: a field of the memory."""

    field: str

    def fill(self, value: object) -> str | None:
        """The segment of the field's value; None where that is no single text."""
        text = scalar_text(value)
        return None if text is None else segment(text)

    def __str__(self) -> str:
        """As it is written in a template."""
        return f"{{{self.field}}}"


@dataclass(frozen=True, slots=True)
class Captured:
    """`{org}` of `user_id: "{org}:{user}"`: a part of a field."""

    field: str
    capture: Capture
    index: int

    def fill(self, value: object) -> str | None:
        """The segment of the captured part; None where the value does not fit the pattern."""
        parts = self.capture.split(value)
        return None if parts is None else segment(parts[self.index])

    def __str__(self) -> str:
        """As it is written in a template."""
        return f"{{{self.capture.names[self.index]}}}"


@dataclass(frozen=True, eq=False)
class Lookup:
    """A table that fills a field: one column names a field of the memory, the other gives the value."""

    file: str
    key: str
    value: str
    table: Mapping[str, str]

    @cached_property
    def segments(self) -> frozenset[str]:
        """Every segment that the table can give."""
        return frozenset(map(segment, self.table.values()))


@dataclass(frozen=True, slots=True)
class LookedUp:
    """`{org}` of `lookup: {file: orgs.csv, key: user_id, value: org}`."""

    field: str
    lookup: Lookup

    def fill(self, value: object) -> str | None:
        """The segment of what the table says; None where it has no row for the value."""
        text = scalar_text(value)
        found = None if text is None else self.lookup.table.get(text)
        return None if found is None else segment(found)

    def __str__(self) -> str:
        """As it is written in a template."""
        return f"{{{self.lookup.value}}}"


Part = Plain | Direct | Captured | LookedUp
"""What fills one segment. Each depends on at most one field of the memory, named by `field`."""


@dataclass(frozen=True, slots=True)
class Path:
    """A scope path with templates: a word and what follows it, from the root down."""

    levels: tuple[tuple[str, Part], ...]

    def fill(self, values: Mapping[str, object]) -> tuple[str, ...]:
        """The levels that can be filled, in order, up to the first one that cannot."""
        filled: list[str] = []
        for word, part in self.levels:
            found = part.fill(values.get(part.field))
            if found is None:
                break
            filled.append(f"{word}/{found}")
        return tuple(filled)

    def depth_of(self, field: str) -> int | None:
        """How many levels it takes until the path names one value of `field` alone; None where it never does.

        That is its own segment, or the last one of a capture that is used in full.
        """
        captured: dict[Capture, set[int]] = {}
        for depth, (_, part) in enumerate(self.levels, 1):
            if part.field != field:
                continue
            if isinstance(part, Direct):
                return depth
            if isinstance(part, Captured):
                seen = captured.setdefault(part.capture, set())
                seen.add(part.index)
                if len(seen) == len(part.capture.names):
                    return depth
        return None

    def names(self, field: str) -> bool:
        """Whether a value of `field`, or a part of it, is written into the path."""
        return any(part.field == field and isinstance(part, Direct | Captured) for _, part in self.levels)

    def __str__(self) -> str:
        """As a path, with its templates."""
        return "/".join(f"{word}/{part}" for word, part in self.levels)


@dataclass(frozen=True)
class Rule:
    """One rule of a mapping: what it takes, and where and how that is written."""

    index: int
    """From 0; -1 in the built-in default."""
    label: str
    """How messages name it, with file and line."""
    when: tuple[tuple[str, Condition], ...]
    state: State
    """A rule takes active memories, unless it names another state."""
    clauses: tuple[tuple[Path, ...], ...]
    """Templates of a selector; empty in a rule that skips."""
    skip: str | None
    """The reason with which a skipping rule names what it leaves out."""
    category: Category
    infer: Infer
    labels: tuple[str, ...]

    def takes(self, memory: Memory) -> bool:
        """Whether every condition holds."""
        return memory.state == self.state and all(asked.matches(value_of(memory, field)) for field, asked in self.when)

    def asks(self, field: str) -> Condition | None:
        """The condition on one field, if there is any."""
        return dict(self.when).get(field)

    @cached_property
    def fixed(self) -> dict[str, str]:
        """The fields whose value the rule itself fixes."""
        return {field: asked.spec for field, asked in self.when if isinstance(asked, Exact) and asked.number is None}

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """All paths of all clauses."""
        return tuple(path for clause in self.clauses for path in clause)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields of a memory that the templates read."""
        return tuple(dict.fromkeys(part.field for path in self.paths for _, part in path.levels if part.field))

    def fill(self, memory: Memory) -> Selector | str:
        """The clauses of a memory that the rule takes, path by path as written, or why there are none."""
        values = {field: value_of(memory, field) for field in self.fields}
        clauses: list[tuple[str, ...]] = []
        for clause in self.clauses:
            filled = []
            for path in clause:
                levels = path.fill(values)
                if len(levels) < len(path.levels):
                    return f"{self.label}: {_why_not(path.levels[len(levels)][1])}"
                filled.append("/".join(levels))
            clauses.append(tuple(filled))
        return tuple(clauses)

    def to_json(self) -> Json:
        """What of the rule decides what is written, for the fingerprint."""
        tables = {
            str(part): [str(part), part.field, sorted(part.lookup.table.items())]
            for path in self.paths
            for _, part in path.levels
            if isinstance(part, LookedUp)
        }
        return {
            "when": [[field, asked.spec] for field, asked in self.when],
            "state": self.state,
            "scope": [[str(path) for path in clause] for clause in self.clauses],
            "tables": list(tables.values()),
            "skip": self.skip is not None,
            "category": self.category,
            "infer": self.infer,
            "labels": list(self.labels),
        }


def _why_not(part: Part) -> str:
    if isinstance(part, LookedUp):
        return f"{part.lookup.file} has no row for its {part.field}"
    return f"its {part.field} is no single text or number"


def value_of(memory: Memory, field: str) -> object:
    """A field of a memory; `metadata.a.b` walks into nested objects, and None stands for what is not there."""
    if not field.startswith(METADATA):
        return getattr(memory, field, None)
    value: object = memory.metadata
    for name in field.removeprefix(METADATA).split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value
