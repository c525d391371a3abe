"""Conditions on one field of a memory: present, exact, true or false, a glob, a comparison, a capture."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from operator import ge, gt, le, lt

from spectron_migrate.mapping.segments import scalar_text

_ORDER: dict[str, Callable[[float, float], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge}
_COMPARISON = re.compile(r"(<=|>=|<|>)\s*(.*)", re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,2})?")
_CAPTURE = re.compile(r"\{([^{}]*)\}")
CAPTURE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Present:
    """`"*"`: the field has a value, whatever it is."""

    spec: str = "*"

    def matches(self, value: object) -> bool:
        """Whether there is a value."""
        return value is not None


@dataclass(frozen=True, slots=True)
class Exact:
    """The field equals this; a number equals every spelling of itself: `1.0` matches 1."""

    spec: str
    number: float | None = None

    def matches(self, value: object) -> bool:
        """Whether the value, or any entry of a list, equals it."""
        if isinstance(value, list | tuple):
            return any(self.matches(item) for item in value if not isinstance(item, list | tuple))
        if self.number is not None and isinstance(value, int | float) and not isinstance(value, bool):
            return value == self.number
        return isinstance(value, str | int | float) and scalar_text(value) == self.spec


@dataclass(frozen=True, slots=True)
class Boolean:
    """The field is JSON `true` or `false`."""

    spec: bool

    def matches(self, value: object) -> bool:
        """Whether the value is this boolean; the words "true" and "false" are text and never match."""
        return value is self.spec


@dataclass(frozen=True, slots=True)
class Glob:
    """`*` stands for any text, `?` for one character; no other character is special."""

    spec: str

    def matches(self, value: object) -> bool:
        """Whether the text of the value, or of any entry of a list, matches."""
        if isinstance(value, list | tuple):
            return any(self.matches(item) for item in value if not isinstance(item, list | tuple))
        text = scalar_text(value)
        return text is not None and _glob(self.spec).match(text) is not None


@lru_cache(maxsize=256)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))


@dataclass(frozen=True, slots=True)
class Comparison:
    """`< 2025-01-01`, `>= 3`: compares times with times and numbers with numbers; nothing else matches."""

    spec: str
    sign: str
    limit: float
    is_time: bool

    def matches(self, value: object) -> bool:
        """Whether the comparison holds; a time without a zone is UTC, a date is its first moment."""
        measured = _seconds(value) if self.is_time else _number(value)
        return measured is not None and _ORDER[self.sign](measured, self.limit)


@dataclass(frozen=True, slots=True)
class Capture:
    """`{org}:{user}`: splits an id at fixed text, so that two different ids never have the same parts.

    Two captures that split at the same text are equal, whatever they name the parts.
    """

    spec: str = field(compare=False)
    names: tuple[str, ...] = field(compare=False)
    between: tuple[str, ...]
    """The fixed text before, between and after the captured parts: one more than names."""

    def matches(self, value: object) -> bool:
        """Whether the value can be split so that no part is empty."""
        return self.split(value) is not None

    def split(self, value: object) -> tuple[str, ...] | None:
        """The captured parts, each but the last as short as possible; None if the value does not match."""
        text = scalar_text(value)
        first, *inner, last = self.between
        if text is None or not text.startswith(first):
            return None
        rest = text[len(first) :]
        found: list[str] = []
        for fixed in inner:
            at = rest.find(fixed, 1)
            if at < 0:
                return None
            found.append(rest[:at])
            rest = rest[at + len(fixed) :]
        if not rest.endswith(last) or len(rest) <= len(last):
            return None
        return (*found, rest[: len(rest) - len(last)])


Condition = Present | Exact | Boolean | Glob | Comparison | Capture


def parse_condition(value: str | float | bool | None, raw: str) -> Condition:
    """The condition for a value in `when`; raises ValueError with the reason if the value is invalid."""
    if isinstance(value, bool):
        return Boolean(value)
    if isinstance(value, int | float):
        return Exact(raw, float(value))
    if not isinstance(value, str) or value == "":
        raise ValueError('is empty; `"*"` means present')
    if value == "*":
        return Present()
    if compared := _COMPARISON.fullmatch(value):
        return _comparison(value, compared[1], compared[2].strip())
    if "{" in value or "}" in value:
        return _capture(value)
    return Glob(value) if "*" in value or "?" in value else Exact(value)


def _comparison(spec: str, sign: str, operand: str) -> Comparison:
    number = _number(operand)
    if number is not None:
        return Comparison(spec, sign, number, is_time=False)
    moment = _seconds(operand)
    if moment is None:
        raise ValueError("compares with neither a number nor a time such as 2025-01-31")
    return Comparison(spec, sign, moment, is_time=True)


def _capture(spec: str) -> Capture:
    names = tuple(_CAPTURE.findall(spec))
    between = tuple(_CAPTURE.split(spec)[::2])
    if any("{" in fixed or "}" in fixed for fixed in between):
        raise ValueError("has an unmatched brace")
    for name in names:
        if not CAPTURE_NAME.fullmatch(name):
            raise ValueError("has a name that is not made of letters, digits and `_`")
    if len(set(names)) < len(names):
        raise ValueError("uses one name twice")
    if "" in between[1:-1]:
        raise ValueError("has two names with no text between them")
    if any("*" in fixed or "?" in fixed for fixed in between):
        raise ValueError("mixes names with `*` or `?`, so two ids could become one scope")
    return Capture(spec, names, between)


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return None
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else None


def _seconds(value: object) -> float | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
