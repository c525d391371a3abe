"""What a page of a listing says about the whole: how many rows there are, and whether more pages follow. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spectron_migrate.records import Json

_TOTALS = (
    *("count", "total", "total_count", "totalCount", "total_memories", "totalMemories", "total_results"),
    *("totalResults", "record_count", "memory_count", "num_memories", "total_items", "totalItems"),
)
_MORE = (
    *("has_more", "hasMore", "has_next", "hasNext", "more", "has_next_page", "hasNextPage", "is_truncated"),
    *("isTruncated", "truncated"),
)
_NEXT = (
    *("next", "next_page", "nextPage", "next_url", "next_cursor", "nextCursor", "next_page_token", "nextPageToken"),
    *("next_token", "nextToken", "NextToken", "continuation_token", "continuationToken", "LastEvaluatedKey"),
)
_PREVIOUS = ("previous", "prev", "previous_page")
OFFSET = "next_page_offset"
"""With this field, Qdrant names the id with which the next page begins."""

_PAGES = (("page", "total_pages"), ("page", "totalPages"), ("page", "pages"), ("current_page", "last_page"))
_AROUND = ("pagination", "paging", "page_info", "pageInfo", "meta", "links", "_links", "page")
"""Objects beside the rows whose counts are those of the rows; whether more follows is looked for in all of them."""


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What the fields beside the rows of a page say about the listing."""

    total: int | None = None
    """How many rows the listing has; None if it does not say, or only a lower bound."""
    more: bool | None = None
    """Whether another page follows; None if it does not say."""
    chain: str = ""
    """The field that says so: pages of one listing have the same."""
    first: bool | None = None
    """Whether this is the first page; None if it does not say."""
    next_id: str | None = None
    """The id with which the next page begins (Qdrant)."""


def page_facts(head: Mapping[str, Json]) -> PageFacts:
    """Read them from the head of a list of rows."""
    parts = [head, *(head[name] for name in _AROUND if isinstance(head.get(name), Mapping))]
    others = (one for name, one in head.items() if name not in _AROUND and isinstance(one, Mapping))
    more = dict(fact for part in (*parts, *others) for fact in _more(part))
    previous = [part[name] for part in parts for name in _PREVIOUS if name in part]
    offsets = [part[OFFSET] for part in parts if part.get(OFFSET) is not None]
    return PageFacts(
        total=next((total for part in parts for total in _totals(part)), None),
        more=any(more.values()) if more else None,
        chain=" ".join(sorted(more)),
        first=not any(previous) if previous else None,
        next_id=str(offsets[0]) if offsets else None,
    )


def _totals(part: Mapping[str, Json]) -> Iterator[int]:
    for name in _TOTALS:
        value: Any = part.get(name)
        if isinstance(value, Mapping) and value.get("relation", "eq") == "eq":  # Elasticsearch
            value = value.get("value")
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            yield value


def _more(part: Mapping[str, Json]) -> Iterator[tuple[str, bool]]:
    for name in _MORE:
        if isinstance(part.get(name), bool):
            yield name, part[name]
    for name in (*_NEXT, OFFSET):
        if name in part:
            yield name, part[name] not in (None, "", False)
    for page, pages in _PAGES:
        if all(isinstance(part.get(name), int) for name in (page, pages)):
            yield pages, part[page] < part[pages]
