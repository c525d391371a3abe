"""Listings are read to their end, and always come to one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from spectron_migrate.errors import Unreachable
from spectron_migrate.spectron.api import SpectronApi
from tests.support.proxy import serving

Answer = Callable[[Mapping[str, str]], Any]
MOST_REQUESTS = 60


async def _nap(_: float) -> None:
    await asyncio.sleep(0)


def list_scopes(answer: Answer) -> tuple[list[str], int]:
    """The paths that are read from a server that answers so, and the number of requests that it took."""
    requests = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal requests
        requests += 1
        # A client that asks for ever gets an answer that ends it.
        body = answer(Request(scope).query_params) if requests <= MOST_REQUESTS else "enough"
        await JSONResponse(body)(scope, receive, send)

    async def read(endpoint: str) -> list[str]:
        async with SpectronApi(endpoint, "c", api_key="k", timeout_s=5, sleep=_nap) as api:
            return [node.path for node in await api.scopes()]

    with serving(app) as endpoint:
        return asyncio.run(read(endpoint)), requests


def rows(count: int) -> list[dict[str, Any]]:
    return [{"path": f"user/{number:04d}/", "createdAt": "2026-01-01T00:00:00Z"} for number in range(count)]


def page_of(given: list[dict[str, Any]], asked: Mapping[str, str], *, default: int, most: int) -> list[dict[str, Any]]:
    offset = int(asked.get("offset", 0))
    return given[offset : offset + min(most, int(asked.get("limit", default)))]


BARE: dict[str, Callable[[list[dict[str, Any]]], Answer]] = {
    "limit and offset": lambda given: lambda asked: page_of(given, asked, default=100, most=1000),
    "at most 100 a page": lambda given: lambda asked: page_of(given, asked, default=100, most=100),
    "no offset": lambda given: lambda asked: given[: int(asked.get("limit", len(given)))],
    "neither": lambda given: lambda asked: given,
    "offset only": lambda given: lambda asked: given[int(asked.get("offset", 0)) :],
}


@pytest.mark.parametrize("reading", sorted(BARE))
@pytest.mark.parametrize("count", [0, 1, 99, 100, 499, 500, 501, 700, 1000, 1300])
@pytest.mark.parametrize("field", [None, "scopes"])
def test_a_list_without_a_cursor_is_read_whole(reading: str, count: int, field: str | None) -> None:
    answer = BARE[reading](rows(count))
    paths, _ = list_scopes(lambda asked: answer(asked) if field is None else {field: answer(asked)})
    assert [f"user/{number:04d}" for number in range(count)] == paths


def test_a_cursor_beside_has_more_false_ends_the_listing() -> None:
    paths, requests = list_scopes(lambda _: {"scopes": rows(3), "page": {"hasMore": False, "nextCursor": "again"}})
    assert 3 == len(paths)
    assert 1 == requests


@pytest.mark.parametrize("has_more", [0, "false", "False"])
def test_a_false_of_another_type_ends_the_listing_too(has_more: Any) -> None:
    numbers = iter(range(10_000))
    paths, requests = list_scopes(
        lambda _: {"scopes": rows(3), "page": {"hasMore": has_more, "nextCursor": f"c{next(numbers)}"}}
    )
    assert 3 == len(paths)
    assert 1 == requests


@pytest.mark.parametrize("has_more", [True, 1, "true", None])
@pytest.mark.parametrize("first", [0, 7, "7"])
@pytest.mark.parametrize("beside", [False, True])
def test_a_cursor_is_followed_whatever_its_type_and_wherever_it_stands(has_more: Any, first: Any, beside: bool) -> None:
    """A server that gives 100 rows a page, whatever the limit, and knows no offset."""

    def by_cursor(asked: Mapping[str, str]) -> Any:
        at = int(asked["cursor"]) - int(first) + 1 if "cursor" in asked else 0
        more = {"hasMore": has_more, "nextCursor": type(first)(int(first) + at)} if at < 2 else {"hasMore": False}
        listed = {"scopes": rows(250)[at * 100 : at * 100 + 100]}
        return {**listed, **more} if beside else {**listed, "page": more}

    paths, requests = list_scopes(by_cursor)
    assert 250 == len(paths)
    assert 3 == requests


def test_a_cursor_that_cannot_be_sent_back_is_no_whole_listing() -> None:
    with pytest.raises(Unreachable, match="no text"):
        list_scopes(lambda _: {"scopes": rows(3), "page": {"hasMore": True, "nextCursor": {"after": "user/0002"}}})


@pytest.mark.parametrize("page", [{"nextCursor": "same"}, {"nextCursor": "same", "hasMore": None}])
def test_the_same_cursor_twice_ends_the_listing(page: dict[str, Any]) -> None:
    paths, requests = list_scopes(lambda asked: {"scopes": [] if "cursor" in asked else rows(3), "page": page})
    assert 3 == len(paths)
    assert 2 == requests


def test_cursors_in_a_circle_end_the_listing() -> None:
    def circle(asked: Mapping[str, str]) -> Any:
        at = int(asked.get("cursor", 0))
        return {"scopes": rows(3 + at), "page": {"nextCursor": str((at + 1) % 3)}}

    paths, requests = list_scopes(circle)
    assert 5 == len(paths)
    assert 4 >= requests


def test_the_same_cursor_with_more_to_come_is_no_whole_listing() -> None:
    with pytest.raises(Unreachable, match="same cursor"):
        list_scopes(lambda _: {"scopes": rows(3), "page": {"nextCursor": "same", "hasMore": True}})


def test_more_to_come_without_a_cursor_is_asked_for_by_offset() -> None:
    def without_cursor(asked: Mapping[str, str]) -> Any:
        at = int(asked.get("offset", 0))
        return {"scopes": rows(7)[at : at + 3], "page": {"hasMore": at + 3 < 7, "nextCursor": None}}

    paths, requests = list_scopes(without_cursor)
    assert [f"user/{number:04d}" for number in range(7)] == paths
    assert 3 == requests


def test_more_to_come_that_no_offset_shows_is_no_whole_listing() -> None:
    with pytest.raises(Unreachable, match="without a cursor"):
        list_scopes(lambda _: {"scopes": rows(3), "page": {"hasMore": True}})


def test_new_cursors_without_rows_are_followed_only_for_so_long() -> None:
    numbers = iter(range(10_000))
    with pytest.raises(Unreachable, match="no end"):
        list_scopes(lambda _: {"scopes": rows(3), "page": {"nextCursor": f"c{next(numbers)}", "hasMore": True}})


def test_a_page_without_rows_is_not_the_last_one() -> None:
    def sparse(asked: Mapping[str, str]) -> Any:
        at = int(asked.get("cursor", 0))
        page = {"nextCursor": str(at + 1), "hasMore": True} if at < 9 else {"hasMore": False}
        return {"scopes": rows(1) if at == 9 else [], "page": page}

    paths, requests = list_scopes(sparse)
    assert ["user/0000"] == paths
    assert 10 == requests
