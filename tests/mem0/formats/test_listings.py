"""Whether the pages in files are all there is: shown by their totals, refuted, or said not to be provable."""

from __future__ import annotations

import json
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.mem0.formats.files import FilesReader
from tests.mem0.conftest import NOW
from tests.support.examples import examples

pytestmark = pytest.mark.slow


def rows(user: str, *numbers: int) -> list[dict[str, Any]]:
    return [{"id": f"{user}-{number}", "memory": f"note {number}", "user_id": user} for number in numbers]


def completeness(folder: Path, *pages: Any) -> bool | None:
    """As an export would say it: True, False, or None for not provable."""
    paths = []
    for number, page in enumerate(pages):
        paths.append(folder / f"page{number}.json")
        paths[-1].write_text(json.dumps(page))
    with FilesReader(paths, now=NOW) as reader:
        assert list(reader.rows())
        if reader.missing():
            return False
        return None if reader.unproven else True


def page(part: list[dict[str, Any]], total: int | None, *, first: bool, last: bool) -> dict[str, Any]:
    fields = {"next": None if last else "https://mem0/?page=9", "previous": None if first else "https://mem0/?page=1"}
    return {**fields, **({} if total is None else {"count": total}), "results": part}


@st.composite
def paged_listings(draw: st.DrawFn) -> list[tuple[dict[str, Any], int]]:
    """Pages, each with the number of its listing, of one listing for each of some users."""
    pages = []
    has_total = draw(st.booleans())
    for number, user in enumerate(draw(st.lists(st.sampled_from(["dana", "emil", "fay"]), min_size=1, unique=True))):
        total, size = draw(st.integers(2, 9)), draw(st.integers(1, 4))
        all_rows = iter(rows(user, *range(total)))
        parts = []
        while part := list(islice(all_rows, size)):
            parts.append(part)
        for at, part in enumerate(parts):
            whole = page(part, total if has_total else None, first=at == 0, last=at == len(parts) - 1)
            pages.append((whole, number))
    return pages


@settings(max_examples=examples(150), deadline=None)
@given(paged_listings(), st.data())
def test_no_mixture_of_pages_is_complete_while_something_is_missing(
    pages: list[tuple[dict[str, Any], int]], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(pages))
    again = data.draw(st.lists(st.sampled_from(order), max_size=2))
    kept = data.draw(st.lists(st.sampled_from(order), min_size=1, unique_by=lambda one: json.dumps(one)))
    listings = {number for _, number in kept}
    is_missing = {one["results"][0]["id"] for one, number in pages if number in listings} - {
        one["results"][0]["id"] for one, _ in kept
    }
    with tempfile.TemporaryDirectory() as folder:
        found = completeness(Path(folder), *[one for one, _ in [*kept, *(each for each in again if each in kept)]])

    if is_missing:
        assert found is not True
        if all("count" in one for one, _ in kept) and len(listings) == 1:
            assert found is False
    else:
        assert found is not False


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 30), st.integers(1, 9), st.booleans(), st.randoms())
def test_all_pages_of_one_listing_are_complete(size: int, page_size: int, by_user: bool, random: Any) -> None:
    all_rows = [row for number in range(size) for row in rows(f"user{number // 3 if by_user else number}", number)]
    starts = range(0, size, page_size)
    pages = [page(all_rows[at : at + page_size], size, first=at == 0, last=at + page_size >= size) for at in starts]
    random.shuffle(pages)
    with tempfile.TemporaryDirectory() as folder:
        found = completeness(Path(folder), *pages)
    assert found in ((True, None) if len(pages) > 1 else (None,))


@pytest.mark.parametrize(
    "pages",
    [
        [page(rows(user, *range(20)), 40, first=True, last=False) for user in ("dana", "emil")],
        [{"total": 4, "results": rows("dana", 1, 2)}, {"total": 4, "results": rows("emil", 1, 2)}],
        [{"next": "https://mem0/?page=2", "results": rows("dana", 1)}],
        [{"has_more": True, "data": rows("dana", 1)}],
        [{"pagination": {"page": 1, "total_pages": 3}, "memories": rows("dana", 1)}],
        [{"results": rows("dana", 1), "response_metadata": {"next_cursor": "abc"}}],
        [{"edges": [{"node": rows("dana", 1)[0]}], "pageInfo": {"hasNextPage": True, "endCursor": "x"}}],
        [{"IsTruncated": True, "isTruncated": True, "vectors": rows("dana", 1)}],
        [{"next": None, "previous": "https://mem0/?page=1", "results": rows("dana", 3)}],
        [
            {"next": "https://mem0/?page=3", "previous": "https://mem0/?page=1", "results": rows("dana", 3)},
            {"next": None, "previous": "https://mem0/?page=2", "results": rows("dana", 4)},
        ],
        [{"hits": {"total": {"value": 3, "relation": "eq"}, "hits": rows("dana", 1)}}],
        [{"result": {"points": rows("dana", 1), "next_page_offset": "dana-2"}}],
        [
            {"result": {"points": rows("dana", 1), "next_page_offset": "dana-2"}},
            {"result": {"points": rows("dana", 3), "next_page_offset": None}},
        ],
        [page(rows("dana", 1, 2), 4, first=True, last=False)] * 2,
        [page(rows("dana", 1, 1, 2), 3, first=True, last=True)],
        [{"has_more": "true", "results": rows("dana", 1)}],
        [{"has_more": 1, "total": 1, "results": rows("dana", 1)}],
        [{"remaining": 12, "results": rows("dana", 1)}],
        [{"content": rows("dana", 1), "number": 0, "totalPages": 3}],
        [{"content": rows("dana", 1), "last": False}],
        [{"value": rows("dana", 1), "@odata.nextLink": "https://mem0/?page=2"}],
        [{"value": rows("dana", 1), "@odata.count": 2}],
        [{"page": number, "total_pages": 3, "results": rows("dana", number)} for number in (1, 3)],
        [{"page": 4, "page_size": 100, "results": rows("dana", 1)}],
        [{"offset": 100, "limit": 100, "results": rows("dana", 1)}],
        [{"offset": at, "limit": 1, "results": rows("dana", at)} for at in (0, 2)],
        [{"hits": {"total": {"value": 10_000, "relation": "gte"}, "hits": rows("dana", 1)}}],
        [{"_shards": {"total": 2, "failed": 1}, "hits": {"hits": rows("dana", 1)}}],
        [{"timed_out": True, "hits": {"total": {"value": 1, "relation": "eq"}, "hits": rows("dana", 1)}}],
        [{"data": {"Get": {"Mem0": rows("dana", 1)}}, "errors": [{"message": "a shard is down"}]}],
        [[*rows("dana", 1), {"total": 5}]],
        [[{"exported_at": "2025-03-01", "total": 5}, *rows("dana", 1)]],
        [[*rows("dana", 1), {"has_more": True}]],
    ],
    ids=str,
)
def test_pages_with_something_missing_are_not_complete(tmp_path: Path, pages: list[Any]) -> None:
    assert completeness(tmp_path, *pages) is False


@pytest.mark.parametrize(
    "pages",
    [
        [rows("dana", 1, 2)],
        [{"results": rows("dana", 1)}],
        [{"count": 2, "results": rows("dana", 1, 2)}],
        [{"next": None, "previous": None, "results": rows("dana", 1)}],
        [{"results": rows("dana", 1), "usage": {"count": 900, "total": 7}}],
        [page(rows("dana", 1, 2), 2, first=True, last=True)],
        [{"hits": {"total": {"value": 1, "relation": "gte"}, "hits": rows("dana", 1)}}],
        [
            {"result": {"points": rows("dana", 1), "next_page_offset": "emil-1"}},
            {"result": {"points": rows("emil", 1), "next_page_offset": None}},
        ],
        [{"count": 1, "results": rows("dana", 1)}, {"count": 1, "results": rows("emil", 1)}],
        [{"offset": at, "limit": 1, "results": rows("dana", at)} for at in (0, 1)],
        [{"offset": at, "limit": 1, "results": rows(user, at)} for at in (0, 1) for user in ("dana", "emil")],
        [{"page": number, "results": rows("dana", number)} for number in (0, 1, 2)],
        [{"errors": [], "error": None, "_shards": {"failed": 0}, "timed_out": False, "results": rows("dana", 1)}],
        [[*rows("dana", 1, 2), {"total": 2, "has_more": False}]],
        [[{"total": 1}, *rows("dana", 1), {"total": 2}, *rows("emil", 1, 2)]],
    ],
    ids=str,
)
def test_a_counter_that_may_be_of_its_own_rows_proves_nothing(tmp_path: Path, pages: list[Any]) -> None:
    assert completeness(tmp_path, *pages) is None


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(2, 12), st.integers(1, 4), st.sampled_from(["offset", "page", "both"]), st.integers(0, 1), st.data())
def test_pages_that_say_where_they_are_are_not_complete_while_one_before_another_is_missing(
    size: int, page_size: int, place: str, first_number: int, data: st.DataObject
) -> None:
    pages = []
    for number, at in enumerate(range(0, size, page_size)):
        places = {"offset": at, "limit": page_size, "page": number + first_number}
        named = {name: value for name, value in places.items() if place in ("both", name) or name == "limit"}
        pages.append({**named, "results": rows("dana", *range(at, min(size, at + page_size)))})
    kept = data.draw(st.lists(st.sampled_from(range(len(pages))), min_size=1, unique=True))
    with tempfile.TemporaryDirectory() as folder:
        found = completeness(Path(folder), *[pages[number] for number in kept])

    numbers = {number + first_number for number in kept}
    could_be_all = numbers == set(range(min(numbers), max(numbers) + 1)) and min(numbers) <= 1
    assert found is not True
    if set(kept) == set(range(len(kept))):
        assert found is None
    elif place != "page" or not could_be_all:
        assert found is False


def notes(path: Path, value: Any) -> list[str]:
    path.write_text(json.dumps(value))
    with FilesReader([path], now=NOW) as reader:
        list(reader.rows())
    return reader.notes


def test_what_leaves_completeness_open_is_noted(tmp_path: Path) -> None:
    found = rows("dana", 1, 2)
    scored = [{**row, "score": 0.5} for row in found]
    of_nobody = [{"id": row["id"], "memory": row["memory"]} for row in found]

    assert [] == notes(tmp_path / "a.json", found)
    [full] = notes(tmp_path / "a.json", {"results": found, "limit": 2})
    assert "as many rows as its limit, 2" in full
    [full_page] = notes(tmp_path / "a.json", {"results": found, "offset": 0, "limit": 2})
    assert "as many rows as its limit" in full_page
    [searched] = notes(tmp_path / "a.json", scored)
    assert "each memory has a score" in searched
    assert [] == notes(tmp_path / "a.json", [*scored, *rows("dana", 3)])
    [nobody] = notes(tmp_path / "a.json", of_nobody)
    assert "no owner (user_id, agent_id, app_id, run_id) is named by 2 memories" in nobody
    assert [] == notes(tmp_path / "a.json", [*of_nobody, *rows("dana", 3)])


def test_totals_met_by_different_ids_prove_completeness_for_the_users_they_name(tmp_path: Path) -> None:
    dana = [page(rows("dana", 1, 2), 3, first=True, last=False), page(rows("dana", 3), 3, first=False, last=True)]
    emil = [page(rows("emil", 1, 2), 3, first=True, last=False), page(rows("emil", 3), 3, first=False, last=True)]

    assert completeness(tmp_path, *dana, *emil) is True
    assert completeness(tmp_path, *dana, *emil, rows("fay", 1)) is None


def test_a_page_that_was_saved_twice_is_named(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps({"results": rows("dana", 1, 2)}))

    with FilesReader([tmp_path / "a.json", tmp_path / "b.json"], now=NOW) as reader:
        list(reader.rows())

    [note] = reader.notes
    assert "repeats" in note
    assert f"{tmp_path / 'a.json'}" in note


@pytest.mark.parametrize("size", [20, 100, 200, 1000])
@pytest.mark.parametrize("shape", ["list", "lines", "results"])
def test_as_many_rows_of_one_owner_as_mem0_truncates_to_are_noted(tmp_path: Path, size: int, shape: str) -> None:
    found = [*rows("dana", *range(size)), *rows("emil", 1)]
    text = {
        "list": json.dumps(found),
        "lines": "\n".join(map(json.dumps, found)),
        "results": json.dumps({"results": found}),
    }[shape]
    (tmp_path / "a.json").write_text(text)

    with FilesReader([tmp_path / "a.json"], now=NOW) as reader:
        list(reader.rows())

    [note] = reader.notes
    assert f"user dana ({size:,})" in note
