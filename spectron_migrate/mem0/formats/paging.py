"""Reads what a page says about its whole listing: how many rows there are, and whether more pages follow. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from spectron_migrate.records import Json

_TOTALS = (
    *("count", "total", "total_count", "totalCount", "total_memories", "totalMemories", "total_results"),
    *("totalResults", "record_count", "memory_count", "num_memories", "total_items", "totalItems", "total_elements"),
    *("totalElements", "total_hits", "totalHits", "recordsTotal", "@odata.count", "odata.count"),
)
_MORE = (
    *("has_more", "hasMore", "has_next", "hasNext", "more", "has_next_page", "hasNextPage", "is_truncated"),
    *("isTruncated", "truncated"),
)
_NEXT = (
    *("next", "next_page", "nextPage", "next_url", "next_cursor", "nextCursor", "next_page_token", "nextPageToken"),
    *("next_token", "nextToken", "NextToken", "continuation_token", "continuationToken", "LastEvaluatedKey"),
    *("next_link", "nextLink", "@odata.nextLink", "odata.nextLink", "nextUri", "nextRecordsUrl"),
)
_LEFT = ("remaining", "remaining_count", "remainingCount", "rows_left")
"""Fields that say how many rows follow."""

_PREVIOUS = ("previous", "prev", "previous_page")
OFFSET = "next_page_offset"
"""With this field, Qdrant names the id with which the next page begins."""

_PAGES = (("page", "total_pages"), ("page", "totalPages"), ("page", "pages"), ("current_page", "last_page"))
_PAGES_FROM_0 = ("number", "totalPages")
_PAGE_NUMBERS = ("page", "page_number", "pageNumber", "current_page", "currentPage")
_OFFSETS = ("offset", "skip", "from", "startAt")
_LIMITS = ("limit", "page_size", "pageSize", "per_page", "perPage", "top_k", "topK", "take", "maxResults")
_CUT_SHORT = (
    *("timed_out", "timedOut", "terminated_early", "partial", "is_partial", "isPartial", "partial_results"),
    *("partialResults", "incomplete", "incomplete_results", "incompleteResults"),
)
_ERRORS = ("errors", "error", "failures")
_YES = (True, "true", "True", 1)
_NO = (False, "false", "False", 0)
_AROUND = ("pagination", "paging", "page_info", "pageInfo", "meta", "links", "_links", "page")
"""Objects beside the rows whose counts are those of the rows. In each of them is looked up whether more rows follow."""


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What the fields beside the rows of a page say about the listing."""

    total: int | None = None
    """How many rows the listing has; None if it does not say, or says only a lower bound."""
    more: bool | None = None
    """Whether another page follows; None if it does not say."""
    chain: str = ""
    """The field that says so, which is the same on all pages of a listing."""
    first: bool | None = None
    """Whether this is the first page; None if it does not say."""
    next_id: str | None = None
    """The id with which the next page begins (Qdrant)."""
    is_lower_bound: bool = False
    """Whether the listing may have more rows than `total` (Elasticsearch counts to 10,000)."""
    offset: int | None = None
    """Rows before this page; None if it does not say."""
    number: int | None = None
    """Number of this page, from 0 or 1; None if it does not say."""
    limit: int | None = None
    """The most rows that were asked for."""
    failure: str = ""
    """The field that says that rows are missing: a shard that failed, a time-out, errors beside the rows."""

    @property
    def announces(self) -> bool:
        """Whether it says anything about the whole."""
        return not (self.total is None and self.more is None and self.offset is None and self.number is None) or bool(
            self.failure
        )


def page_facts(head: Mapping[str, Json]) -> PageFacts:
    """Read them from the head of a list of rows."""
    parts = [head, *(head[name] for name in _AROUND if isinstance(head.get(name), Mapping))]
    others = (one for name, one in head.items() if name not in _AROUND and isinstance(one, Mapping))
    more = dict(fact for part in (*parts, *others) for fact in _more(part))
    previous = [part[name] for part in parts for name in _PREVIOUS if name in part]
    next_ids = [part[OFFSET] for part in parts if part.get(OFFSET) is not None]
    total, is_lower_bound = next((total for part in parts for total in _totals(part)), (None, False))
    offset, number = _first_number(parts, _OFFSETS), _first_number(parts, _PAGE_NUMBERS)
    places = [name for name, place in (("offset", offset), ("number", number)) if place is not None]
    return PageFacts(
        total=total,
        more=any(more.values()) if more else None,
        chain=" ".join(sorted([*more, *places])),
        first=not any(previous) if previous else None,
        next_id=str(next_ids[0]) if next_ids else None,
        is_lower_bound=is_lower_bound,
        offset=offset,
        number=number,
        limit=_first_number(parts, _LIMITS),
        failure=_failure(head),
    )


def _first_number(parts: Iterable[Mapping[str, Json]], names: Iterable[str]) -> int | None:
    """The first whole number under one of the names."""
    return next(
        (part[name] for part in parts for name in names if type(part.get(name)) is int and part[name] >= 0), None
    )


def _failure(head: Mapping[str, Json]) -> str:
    """The field that says that rows are lacking; empty if none does."""
    shards = head.get("_shards")
    if isinstance(shards, Mapping) and (shards.get("failed") or shards.get("failures")):
        return "_shards"
    cut_short = (name for name in _CUT_SHORT if head.get(name) in _YES)
    errors = (name for name in _ERRORS if head.get(name) not in (None, False, "", 0, [], {}))
    return next(chain(cut_short, errors), "")


def _totals(part: Mapping[str, Json]) -> Iterator[tuple[int, bool]]:
    """Totals, each with whether the listing may have more."""
    for name in _TOTALS:
        value: Any = part.get(name)
        is_lower_bound = False
        if isinstance(value, Mapping):  # Elasticsearch
            is_lower_bound = value.get("relation", "eq") != "eq"
            value = value.get("value")
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if type(value) is int and value >= 0:
            yield value, is_lower_bound


def _more(part: Mapping[str, Json]) -> Iterator[tuple[str, bool]]:
    for name in _MORE:
        if part.get(name) in (*_YES, *_NO):
            yield name, part[name] in _YES
    for name in _LEFT:
        if type(part.get(name)) is int:
            yield name, part[name] > 0
    if isinstance(part.get("last"), bool):  # Spring
        yield "last", not part["last"]
    for name in (*_NEXT, OFFSET):
        if name in part:
            yield name, part[name] not in (None, "", False)
    for page, pages in _PAGES:
        if all(isinstance(part.get(name), int) for name in (page, pages)):
            yield pages, part[page] < part[pages]
    page, pages = _PAGES_FROM_0
    if all(isinstance(part.get(name), int) for name in _PAGES_FROM_0):
        yield pages, part[page] + 1 < part[pages]
