"""Reads calls in the form of any generation of Mem0: what they ask for, and whether Spectron could answer (pure).

The signature of the wrapped client shows how to read a call: ids as keywords or in `filters`, `limit` or `top_k`,
positional or not, options as keywords or as an object. Only plain equality of ids can become a lens. Anything else that
narrows a search is named in `beyond`; such a search is answered by Mem0 and counted.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

ENTITIES = ("user_id", "agent_id", "run_id", "app_id")
PLATFORM_TOP_K = 10
USUAL_THRESHOLD = 0.1
"""Mem0's own default. Scores of the two systems are not comparable, so a search with a higher one goes to Mem0."""
_ID_TYPES = (str, int)
_LENGTHS = ("top_k", "limit")
_WITHOUT_EFFECT = frozenset({"rerank", "version", "output_format", "api_version", "async_mode", "enable_graph"})
"""Options about ranking and about the form of answers. Spectron ranks in its own way, and the form is kept anyway."""
_READ = ("search", "get_all", "add", "update", "delete")
"""Methods whose signatures are read."""
_MOST_NAME = 48


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One search."""

    query: str
    ids: Mapping[str, str]
    top_k: int
    beyond: tuple[str, ...] = ()
    """What it asks for beyond plain ids, which Spectron cannot answer."""


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """A signature, read once, because binding with `inspect` would take longer than the rest of an adapter's call."""

    names: frozenset[str]
    by_position: tuple[str, ...]
    defaults: Mapping[str, Any]
    required: frozenset[str]
    takes_any: bool
    """Whether it takes any keyword."""

    @classmethod
    def of(cls, signature: inspect.Signature) -> _Form:
        kinds = inspect.Parameter
        each = [one for one in signature.parameters.values() if one.kind is not kinds.VAR_KEYWORD]
        return cls(
            names=frozenset(one.name for one in each),
            by_position=tuple(one.name for one in each if one.kind is kinds.POSITIONAL_OR_KEYWORD),
            defaults={one.name: one.default for one in each if one.default is not kinds.empty},
            required=frozenset(one.name for one in each if one.default is kinds.empty),
            takes_any=len(each) < len(signature.parameters),
        )

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The arguments by name, with defaults and the fields of `options`; None if the client would refuse them."""
        if not _is_call(self, len(args), tuple(kwargs)):
            return None
        given = {**self.defaults, **dict(zip(self.by_position, args, strict=False)), **kwargs}
        options = given.pop("options", None)
        return given if options is None else {**given, **_options(options)}


@lru_cache(maxsize=1024)
def _is_call(form: _Form, count: int, keywords: tuple[str, ...]) -> bool:
    """Whether it takes this number of positional arguments and these keywords.

    Cached, because an application has few kinds.
    """
    placed = form.by_position[:count]
    given = {*form.defaults, *placed, *keywords}
    if len(placed) < count or {*placed} & {*keywords}:
        return False
    return form.required <= given and (form.takes_any or given <= form.names)


class Mem0Calls:
    """How the wrapped client is called."""

    def __init__(self, client: Any) -> None:
        """Read the signatures once."""
        self._forms = {name: _form(getattr(client, name, None)) for name in _READ}
        search = self._forms["search"]
        names = search.names if search is not None else frozenset()
        self.ids_are_keywords = "user_id" in names
        """The generation that takes ids as keywords, and `limit`."""
        self.ids_are_filters = not self.ids_are_keywords and bool(names & {"top_k", "options"})
        """The generation that takes ids in `filters`, and `top_k`."""
        self._answers_with_list = "version" in names and "options" not in names
        """The oldest hosted client answered with a list."""

    def trimmed(self, ids: dict[str, str]) -> dict[str, str]:
        """Ids as this generation takes them."""
        return {name: value.strip() for name, value in ids.items()} if self.ids_are_filters else ids

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> SearchRequest | None:
        """What a search asks for, with fitted keywords; None for an invalid call, which Mem0 itself should refuse."""
        given = self._given("search", args, kwargs)
        if given is None or not isinstance(given.get("query"), str):
            return None
        ids, beyond = _plain_ids({name: given.pop(name) for name in ENTITIES if given.get(name) is not None})
        filters = given.pop("filters", None)
        if isinstance(filters, Mapping):
            more, narrower = _plain_ids(filters)
            beyond += narrower + [
                f"filter {name} twice" for name, value in more.items() if ids.get(name, value) != value
            ]
            ids = {**more, **ids}
        elif filters:
            beyond.append("filters")
        ids = self.trimmed(ids)
        length = next((given[name] for name in _LENGTHS if given.get(name) is not None), PLATFORM_TOP_K)
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            return None
        beyond += [name for name, value in given.items() if self._narrows(name, value)]
        beyond += [] if ids else ["no id"]
        return SearchRequest(given["query"], ids, length, tuple(_named(each) for each in beyond))

    def named(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name; only the keywords if the client would refuse it."""
        form = self._forms.get(method)
        given = form.bind(args, kwargs) if form is not None else None
        return dict(kwargs) if given is None else given

    def learn(self, answer: Any) -> None:
        """Remember the form in which Mem0 answers searches."""
        self._answers_with_list = isinstance(answer, list)

    def shaped(self, found: Any) -> Any:
        """An answer in the form that the application is used to: the results alone, or in a mapping."""
        return found["results"] if self._answers_with_list else found

    def fit(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keywords as this client's generation takes them, converted if they have the other generation's form."""
        if self._forms.get(method) is None or args[1:]:
            return kwargs
        if self.ids_are_filters and any(name in kwargs for name in ENTITIES):
            return _to_filters(kwargs)
        if self.ids_are_keywords and isinstance(kwargs.get("filters"), Mapping):
            return _to_keywords(kwargs)
        return kwargs

    def _given(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        form = self._forms.get(method)
        return {"query": args[0] if args else None, **kwargs} if form is None else form.bind(args, kwargs)

    def _narrows(self, name: str, value: Any) -> bool:
        if name == "query" or name in _LENGTHS or name in _WITHOUT_EFFECT or value is None or value is False:
            return False
        form = self._forms["search"]
        if name == "threshold" and isinstance(value, int | float) and value <= USUAL_THRESHOLD:
            return False
        return form is None or name not in form.defaults or form.defaults[name] != value


def owners_of(kwargs: Mapping[str, Any]) -> dict[str, str]:
    """The ids that a call names, as keywords or in its filters; one of each kind."""
    filters = kwargs.get("filters")
    ids = _plain_ids(filters)[0] if isinstance(filters, dict) else {}
    for name in ENTITIES:
        if name in kwargs and isinstance(value := kwargs[name], _ID_TYPES):
            ids[name] = str(value)
    return ids


def is_id(value: Any) -> bool:
    """Whether every generation of Mem0 takes this as an id. One generation drops an empty id, another refuses it."""
    return isinstance(value, _ID_TYPES) and not isinstance(value, bool) and str(value).strip() != ""


def _plain_ids(filters: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The ids that a filter asks for by plain equality, and what else it asks for."""
    ids: dict[str, str] = {}
    beyond: list[str] = []
    for name, value in filters.items():
        if name in ENTITIES and is_id(value) and value != "*":
            ids[name] = str(value)
        elif name == "AND" and isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
            for each in value:
                more, narrower = _plain_ids(each)
                beyond += narrower + [f"filter {one} twice" for one in more if more[one] != ids.get(one, more[one])]
                ids.update(more)
        else:
            beyond.append(f"filter {name}")
    return ids, beyond


def _options(value: Any) -> dict[str, Any]:
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dict(dump(exclude_unset=True))
    return dict(value) if isinstance(value, Mapping) else {}


def _to_filters(kwargs: dict[str, Any]) -> dict[str, Any]:
    ids = {name: kwargs[name] for name in ENTITIES if kwargs.get(name) is not None}
    fitted = {name: value for name, value in kwargs.items() if name not in ENTITIES and name != "limit"}
    if "limit" in kwargs:
        fitted.setdefault("top_k", kwargs["limit"])
    return {**fitted, "filters": {**(kwargs.get("filters") or {}), **ids}}


def _to_keywords(kwargs: dict[str, Any]) -> dict[str, Any]:
    ids = {name: kwargs["filters"][name] for name in ENTITIES[:3] if name in kwargs["filters"]}
    filters = {name: value for name, value in kwargs["filters"].items() if name not in ids}
    fitted = {name: value for name, value in kwargs.items() if name not in ("filters", "top_k")}
    if "top_k" in kwargs:
        fitted.setdefault("limit", kwargs["top_k"])
    return {**fitted, **ids, **({"filters": filters} if filters else {})}


def _form(method: Any) -> _Form | None:
    try:
        signature = inspect.signature(method) if method is not None else None
    except (TypeError, ValueError):
        return None
    return None if signature is None else _Form.of(signature)


def _named(name: str) -> str:
    """The name as counts show it. Most names come from an application's code, but some could contain data."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:_MOST_NAME]
