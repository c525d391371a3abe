"""Parses and validates request bodies: raw bytes -> frozen values, or a 400 that names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from spectron_migrate.local.errors import ApiError, bad_request
from spectron_migrate.local.rows import Category, Kind
from spectron_migrate.local.scopes import BadScope, Selector, parse_selector
from spectron_migrate.local.times import read_time

ROLES = ("user", "assistant", "system", "tool")
INFER_MODES = ("full", "triples", "preview", "none")
EXTRACT_MODES = ("whole_conversation", "per_message")
QUERY_MODES = ("hybrid", "vector", "bm25", "graph")
MAX_HITS = 50
MAX_LABELS = 64
"""At most this many labels per write; more answer 409."""
MAX_ADDRESSEES = 8
NEVER_NULL = frozenset(
    (
        "addressees",
        "dryRun",
        "extract",
        "infer",
        "k",
        "labels",
        "lens",
        "messages",
        "purge",
        "query",
        "scopes",
        "triples",
    )
)
"""Optional fields that must not be null; the published document lets every other optional field be null."""
_FAMILIES: dict[str, Kind] = {"facts": "attribute", "passages": "memory_chunk"}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


class Body:
    """A JSON object with typed access to its fields; unknown fields are ignored."""

    def __init__(self, fields: Any) -> None:
        """Raises ApiError 400 if `fields` is not an object."""
        if not isinstance(fields, dict):
            raise bad_request("the body must be a JSON object")
        self._fields: Mapping[str, Any] = fields

    @classmethod
    def read(cls, raw: bytes, *, optional: bool = False) -> Body:
        """Parse a request body; with `optional`, an empty body is an empty object. Raises ApiError 400."""
        if optional and not raw.strip():
            return cls({})
        try:
            fields = _DECODER.decode(raw.decode())
            if b"\\u" in raw:  # an escape may be a lone surrogate, which cannot be stored
                json.dumps(fields, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise bad_request("the body is not valid JSON") from error
        return cls(fields)

    def text(self, name: str) -> str | None:
        """A string, or None if absent or null."""
        value = self._get(name)
        if value is not None and not isinstance(value, str):
            raise bad_request(f"{name} must be a string")
        return value

    def required(self, name: str) -> str:
        """A string that is not blank."""
        value = self.text(name)
        if value is None or not value.strip():
            raise bad_request(f"{name} is required")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """One of the allowed strings."""
        value = self.text(name)
        if value is None:
            return default
        if value not in allowed:
            raise bad_request(f"{name} must be one of {', '.join(allowed)}")
        return value

    def flag(self, name: str) -> bool:
        """A boolean; false if absent."""
        value = self._get(name)
        if value is not None and not isinstance(value, bool):
            raise bad_request(f"{name} must be true or false")
        return bool(value)

    def count(self, name: str, default: int, most: int) -> int:
        """A whole number from 0 to `most`."""
        value = self._get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise bad_request(f"{name} must be a whole number from 0 to {most}")
        return value

    def number(self, name: str, default: float) -> float:
        """A number, integer or not."""
        value = self._get(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise bad_request(f"{name} must be a number")
        return float(value)

    def time(self, name: str) -> str | None:
        """An RFC 3339 time in the store's format."""
        value = self.text(name)
        if value is None:
            return None
        try:
            return read_time(value)
        except ValueError as error:
            raise bad_request(f"{name} must be an RFC 3339 time") from error

    def strings(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty if absent."""
        value = self._get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise bad_request(f"{name} must be a list of strings")
        return tuple(value)

    def selector(self, name: str, *, patterns: bool = False) -> Selector:
        """A selector; empty if absent."""
        try:
            return parse_selector(self._get(name), patterns=patterns)
        except BadScope as error:
            raise bad_request(str(error)) from error

    def objects(self, name: str) -> list[Body]:
        """A list of objects; empty if absent."""
        value = self._get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise bad_request(f"{name} must be a list")
        return [Body(one) for one in value]

    def object(self, name: str) -> Body | None:
        """An object, or None if absent or null."""
        value = self._get(name)
        return None if value is None else Body(value)

    def names(self) -> list[str]:
        """Names of the fields."""
        return list(self._fields)

    def any(self, name: str) -> Any:
        """The raw value; None if absent."""
        return self._get(name)

    def _get(self, name: str) -> Any:
        """The raw value; None if absent or if it is an allowed null."""
        value = self._fields.get(name)
        if value is None and name in self._fields and name in NEVER_NULL:
            raise bad_request(f"{name} must not be null")
        return value


@dataclass(frozen=True, slots=True)
class Message:
    """One message to store."""

    role: str
    content: str
    said_at: str | None = None


@dataclass(frozen=True, slots=True)
class Triple:
    """A fact that the caller gives: an attribute (`value`), a relation (`target`), or an entity alone (neither)."""

    type: str
    name: str
    key: str
    value: str | None
    target: tuple[str, str] | None
    category: Category | None
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Write:
    """A request of `/facts` or `/facts/batch`."""

    messages: tuple[Message, ...]
    infer: str
    session: str | None
    scopes: Selector
    labels: tuple[str, ...]
    category: Category | None = None
    observed_at: str | None = None
    triples: tuple[Triple, ...] = ()
    is_batch: bool = False
    whole_conversation: bool = False


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """A request of `/query` or `/context`."""

    query: str
    k: int
    mode: str
    lens: Selector
    labels: tuple[str, ...]
    kinds: frozenset[Kind]
    duplicates: bool
    as_of: str | None
    at_instant: str | None
    valid_from: str | None
    valid_until: str | None
    located: bool


def read_fact(body: Body, *, families: bool) -> Write:
    """The body of `/facts`.

    Args:
        body: the request.
        families: whether triples are of the four families of 0.3.0.

    Raises:
        ApiError: 400, or 422 for a bad entry of the four families.
    """
    infer = body.choice("infer", INFER_MODES, "full")
    read = _entry if families else _triple
    triples = tuple(read(one) for one in body.objects("triples"))
    role = body.choice("role", ROLES, "user")
    if infer == "triples":
        if not triples:
            raise bad_request("triples is required when infer is triples")
        messages: tuple[Message, ...] = ()
    else:
        messages = (Message(role, body.required("text")),)
    if infer in ("full", "preview"):
        _addressees(body)
    return Write(
        messages=messages,
        infer=infer,
        session=body.text("session_id"),
        scopes=body.selector("scopes") or body.selector("scope"),
        labels=_labels(body),
        category=_category(body),
        observed_at=body.time("observed_at"),
        triples=triples if infer == "triples" else (),
    )


def read_batch(body: Body) -> Write:
    """The body of `/facts/batch`. Raises ApiError 400."""
    infer = body.choice("infer", INFER_MODES, "full")
    if infer not in ("full", "none"):
        raise bad_request("infer must be full or none in a batch")
    messages = tuple(_message(number, one) for number, one in enumerate(body.objects("messages")))
    if not messages:
        raise bad_request("messages is empty")
    return Write(
        messages=messages,
        infer=infer,
        session=body.text("session_id"),
        scopes=body.selector("scopes") or body.selector("scope"),
        labels=_labels(body),
        is_batch=True,
        whole_conversation=body.choice("extract", EXTRACT_MODES, EXTRACT_MODES[0]) == "whole_conversation",
    )


def read_query(body: Body) -> QueryRequest:
    """The body of `/query`, or of `/context`, which has fewer fields. Raises ApiError 400."""
    k = body.count("k", 10, 2**31 - 1)
    if k > MAX_HITS:
        raise bad_request(f"k must be at most {MAX_HITS}")
    families = body.strings("include") or tuple(_FAMILIES)
    for family in families:
        if family not in _FAMILIES:
            raise bad_request(f"include must be of {', '.join(_FAMILIES)}")
    body.choice("scopeView", ("strict", "merged", "crossTeam"), "strict")
    return QueryRequest(
        query=body.required("query"),
        k=k,
        mode=body.choice("mode", QUERY_MODES, "hybrid"),
        lens=body.selector("lens", patterns=True),
        labels=body.strings("labels"),
        kinds=frozenset(_FAMILIES[family] for family in families),
        duplicates=body.flag("includeDuplicates"),
        as_of=body.time("asOf"),
        at_instant=body.time("atInstant"),
        valid_from=body.time("validFrom"),
        valid_until=body.time("validUntil"),
        located=body.object("location") is not None,
    )


def _message(number: int, body: Body) -> Message:
    content = body.text("content")
    if content is None or not content.strip():
        raise bad_request(f"messages[{number}].content is required")
    role = body.text("role")
    if role not in ROLES:
        raise bad_request(f"messages[{number}].role must be one of {', '.join(ROLES)}")
    return Message(role, content, body.time("ts"))


def _triple(body: Body) -> Triple:
    entity, target, value = body.object("entity"), body.object("target"), body.text("value")
    if entity is None:
        raise bad_request("a triple needs an entity")
    if value is None and target is None:
        raise bad_request("a triple needs a value or a target")
    return Triple(
        type=entity.required("type"),
        name=entity.required("name"),
        key=body.required("key"),
        value=value,
        target=None if target is None else (target.required("type"), target.required("name")),
        category=_category(body),
    )


def _entry(body: Body) -> Triple:
    """An entry of 0.3.0: attribute, relation or entity; raises ApiError 422 where it is none, 501 for an action."""
    try:
        entity, target = body.object("entity"), body.object("target")
        if entity is None:
            raise bad_request("a triple needs an entity")
        given = [name for name in ("value", "target", "verb") if body.any(name) is not None]
        if len(given) > 1:
            raise bad_request(f"a triple has one of value, target and verb, not {' and '.join(given)}")
        times = [name for name in ("occurred_at", "temporal_hint") if body.any(name) is not None]
        bounds = [name for name in ("valid_from", "valid_until") if body.any(name) is not None]
        confidence = body.number("confidence", 1.0)
        if len(times) > 1 or (bounds and given != ["target"]) or ("valid_from" in bounds and times):
            raise bad_request(f"a triple cannot have {' and '.join(times + bounds)}")
        if not 0 <= confidence <= 1 or (body.any("confidence") is not None and "target" in given):
            raise bad_request("confidence is from 0 to 1, and of attributes and actions only")
        for name in ("occurred_at", *bounds):
            body.time(name)
        triple = Triple(
            type=entity.required("type"),
            name=entity.required("name"),
            key=body.required("key") if given in (["value"], ["target"]) else "",
            value=body.required("value") if given == ["value"] else None,
            target=None if target is None else (target.required("type"), target.required("name")),
            category=_category(body),
            confidence=confidence,
        )
        if given == ["verb"] and (body.any("key") is not None or not body.required("verb")):
            raise bad_request("an action has a verb and no key")
    except ApiError as error:
        raise ApiError(422, error.message) from error
    if given == ["verb"]:
        raise ApiError(501, "the local Spectron keeps no actions")
    return triple


def _category(body: Body) -> Category | None:
    value = body.text("memory_category")
    if value is not None and value not in get_args(Category):
        raise bad_request(f"memory_category must be one of {', '.join(get_args(Category))}")
    return cast("Category | None", value)


def _addressees(body: Body) -> None:
    """Validated only: the rules ignore addressees."""
    names = body.strings("addressees")
    if len(names) > MAX_ADDRESSEES or any(not 0 < len(name) <= 128 or len(name.split()) > 8 for name in names):
        raise bad_request(f"addressees must be at most {MAX_ADDRESSEES} names of at most 128 characters and 8 words")


def _labels(body: Body) -> tuple[str, ...]:
    labels = body.strings("labels")
    for label in labels:
        key, equals, _ = label.partition("=")
        if not equals or not key.strip():
            raise bad_request("a label has the form key=value")
        if key.startswith("_"):
            raise bad_request("label keys that start with _ are reserved")
    if len(set(labels)) > MAX_LABELS:
        raise ApiError(409, f"a write carries at most {MAX_LABELS} labels")
    return tuple(dict.fromkeys(labels))
