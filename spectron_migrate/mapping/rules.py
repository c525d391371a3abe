"""Rules: which memories they take, and the scope paths that their templates build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from spectron_migrate.mapping.conditions import Capture, Condition, Exact
from spectron_migrate.mapping.labels import NO_LABELS, Labels, LabelTemplate, fill_labels
from spectron_migrate.mapping.segments import scalar_text, segment
from spectron_migrate.records import Category, Infer, Json, Memory, Selector, State

OWNER_FIELDS = ("user_id", "agent_id", "app_id", "run_id", "actor_id")
"""Fields that say who owns a memory: two values of one of them never share a scope."""
TEXT_FIELDS = (*OWNER_FIELDS, "role")
TIME_FIELDS = ("created_at", "updated_at", "text_at", "expiration_date")
METADATA = "metadata."
STATES: tuple[State, ...] = ("expired", "deleted", "archived", "replaced")


@dataclass(frozen=True, slots=True)
class Constant:
    """Plain text in a template."""

    text: str
    field: str = ""

    def fill(self, value: object) -> str | None:
        """The text itself."""
        return self.text

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class FieldSegment:
    """`{user_id}`: a field of the memory."""

    field: str

    def fill(self, value: object) -> str | None:
        """The segment of the field's value; None for a value that has no single text."""
        text = scalar_text(value)
        return None if text is None else segment(text)

    def __str__(self) -> str:
        return f"{{{self.field}}}"


@dataclass(frozen=True, slots=True)
class CapturedSegment:
    """`{org}` if the rule says `when: {user_id: "{org}:{user}"}`: a part of a field."""

    field: str
    capture: Capture
    index: int

    def fill(self, value: object) -> str | None:
        """The segment of the captured part; None for a value that does not match the pattern."""
        parts = self.capture.split(value)
        return None if parts is None else segment(parts[self.index])

    def __str__(self) -> str:
        return f"{{{self.capture.names[self.index]}}}"


@dataclass(frozen=True, eq=False)
class LookupTable:
    """A CSV file that gives a value for a field: column `key` has the field's values, column `value` the results."""

    file: str
    key: str
    value: str
    table: Mapping[str, str]

    @cached_property
    def segments(self) -> frozenset[str]:
        """Every segment that the table can give."""
        return frozenset(map(segment, self.table.values()))


@dataclass(frozen=True, slots=True)
class LookupSegment:
    """`{org}` if the rule says `lookup: {file: orgs.csv, key: user_id, value: org}`."""

    field: str
    lookup: LookupTable

    def fill(self, value: object) -> str | None:
        """The segment of the table's value; None if the table has no row for the field's value."""
        text = scalar_text(value)
        found = None if text is None else self.lookup.table.get(text)
        return None if found is None else segment(found)

    def __str__(self) -> str:
        return f"{{{self.lookup.value}}}"


SegmentTemplate = Constant | FieldSegment | CapturedSegment | LookupSegment
"""What fills one segment of a path.

It depends on at most one field of the memory, named by `field`. `str` returns it as written in a template.
"""


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A scope path with templates, such as `org/acme/user/{user_id}`: levels of a word and a segment, root first."""

    levels: tuple[tuple[str, SegmentTemplate], ...]

    def fill(self, values: Mapping[str, object]) -> tuple[str, ...]:
        """The levels (`user/alice`) from the root down to the first one that the values cannot fill."""
        filled: list[str] = []
        for word, template in self.levels:
            found = template.fill(values.get(template.field))
            if found is None:
                break
            filled.append(f"{word}/{found}")
        return tuple(filled)

    @property
    def constant_prefix(self) -> str:
        """What all its paths begin with: `user` of `user/{user_id}`, `org/acme` of `org/acme`."""
        names: list[str] = []
        for word, template in self.levels:
            names.append(word)
            if not isinstance(template, Constant):
                break
            names.append(template.text)
        return "/".join(names)

    def depth_of(self, field: str) -> int | None:
        """The number of levels after which the path belongs to one value of `field` alone; None if it never does.

        That is the level of the field's own segment, or of the last part of a capture whose parts are all used:
        `org/{org}/user/{user}` with `user_id: "{org}:{user}"` has the depth 2.
        """
        captured: dict[Capture, set[int]] = {}
        for depth, (_, template) in enumerate(self.levels, 1):
            if template.field != field:
                continue
            if isinstance(template, FieldSegment):
                return depth
            if isinstance(template, CapturedSegment):
                seen = captured.setdefault(template.capture, set())
                seen.add(template.index)
                if len(seen) == len(template.capture.names):
                    return depth
        return None

    def contains(self, field: str) -> bool:
        """Whether a value of `field`, or a part of it, is written into the path."""
        return any(
            template.field == field and isinstance(template, FieldSegment | CapturedSegment)
            for _, template in self.levels
        )

    def __str__(self) -> str:
        return "/".join(f"{word}/{template}" for word, template in self.levels)


@dataclass(frozen=True)
class Rule:
    """One rule of a mapping: which memories it takes, and where and how they are written."""

    index: int
    """From 0; -1 in the built-in default."""
    label: str
    """How messages name it, with file and line."""
    when: tuple[tuple[str, Condition], ...]
    state: State
    """The state of the memories that it takes: active, unless `when` names another state."""
    clauses: tuple[tuple[PathTemplate, ...], ...]
    """Templates of a selector; empty in a rule that skips."""
    skip: str | None
    """In a rule that skips: the reason under which its memories are counted."""
    category: Category
    infer: Infer
    labels: tuple[LabelTemplate, ...]

    def takes(self, memory: Memory) -> bool:
        """Whether the memory is in the rule's state and meets every condition."""
        if memory.state != self.state:
            return False
        for field, condition in self.when:  # noqa: SIM110 - a generator costs more than the conditions
            if not condition.matches(field_value(memory, field)):
                return False
        return True

    def condition_on(self, field: str) -> Condition | None:
        """The condition on a field, if the rule has one."""
        return dict(self.when).get(field)

    @cached_property
    def fixed(self) -> dict[str, str]:
        """Fields that have the same value in every memory of the rule, because a condition names it."""
        return {
            field: condition.spec
            for field, condition in self.when
            if isinstance(condition, Exact) and condition.number is None
        }

    @cached_property
    def paths(self) -> tuple[PathTemplate, ...]:
        """All paths of all clauses."""
        return tuple(path for clause in self.clauses for path in clause)

    @cached_property
    def user_depths(self) -> tuple[int, ...]:
        """For each path of the only clause, after how many levels it belongs to one user; 0 if it never does.

        Empty if there are several clauses.
        """
        return tuple(path.depth_of("user_id") or 0 for path in self.clauses[0]) if len(self.clauses) == 1 else ()

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields of a memory that the templates read."""
        return tuple(
            dict.fromkeys(template.field for path in self.paths for _, template in path.levels if template.field)
        )

    def fill(self, memory: Memory) -> Selector | str:
        """The selector of a memory that the rule takes, in the rule's order; or why it has none."""
        values = {field: field_value(memory, field) for field in self.fields}
        clauses: list[tuple[str, ...]] = []
        for clause in self.clauses:
            filled = []
            for path in clause:
                levels = path.fill(values)
                if len(levels) < len(path.levels):
                    return f"{self.label}: {_reason_unfilled(path.levels[len(levels)][1])}"
                filled.append("/".join(levels))
            clauses.append(tuple(filled))
        return tuple(clauses)

    def labels_of(self, memory: Memory, *, together: bool = False) -> Labels:
        """The labels of a memory that the rule takes; `together`: it is sent with others in one request."""
        if not self.labels:
            return NO_LABELS
        values = [field_value(memory, each.field) if each.field is not None else None for each in self.labels]
        return fill_labels(self.labels, values, together=together)

    def to_json(self) -> dict[str, Json]:
        """Everything in the rule that changes what is written, for the mapping's fingerprint."""
        tables = {
            str(template): [str(template), template.field, sorted(template.lookup.table.items())]
            for path in self.paths
            for _, template in path.levels
            if isinstance(template, LookupSegment)
        }
        return {
            "when": [[field, condition.spec] for field, condition in self.when],
            "state": self.state,
            "scope": [[str(path) for path in clause] for clause in self.clauses],
            "tables": list(tables.values()),
            "skip": self.skip is not None,
            "category": self.category,
            "infer": self.infer,
            "labels": [str(label) for label in self.labels],
        }


def _reason_unfilled(template: SegmentTemplate) -> str:
    if isinstance(template, LookupSegment):
        return f"{template.lookup.file} has no row for its {template.field}"
    return f"its {template.field} is not a single text or number"


def field_value(memory: Memory, field: str) -> object:
    """A field of a memory; None if it has none. `metadata.a.b` reads nested objects."""
    if not field.startswith(METADATA):
        return getattr(memory, field, None)
    value: object = memory.metadata
    for name in field.removeprefix(METADATA).split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value
