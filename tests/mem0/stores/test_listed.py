"""The reader of every store that can be listed: what it gives, and what it claims about that."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, Literal

import pytest

from spectron_migrate.errors import Incomplete, InputError, MigrateError, Unreachable
from spectron_migrate.mem0.stores.listed import UNREADABLE, ListedReader, ListedStore, Row
from spectron_migrate.records import Memory, Skipped, SourceInfo
from tests.mem0.conftest import NOW

Counts = Literal["exact", "late", "never"]
INFO = SourceInfo(kind="oss", place="made-up:here:mem0", provider="made-up")


class DriverError(Exception):
    """What a driver raises."""


class MadeUp(ListedStore):
    """A store in memory, listed by cursor; `meanwhile` is called before each of its answers."""

    def __init__(self, rows: dict[str, Any], counts: Counts = "exact", *, snapshot: bool = False) -> None:
        super().__init__("mem0", "at here")
        self.rows = rows
        self.counts = counts
        self.snapshot = snapshot
        self.known = True
        self.may_list = True
        self.size = 5
        self.hidden: Callable[[int, str], bool] = lambda listing, key: False
        self.lag: list[int] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.listings = 0
        self.at_last_listing: set[str] = set()

    def exists(self) -> bool:
        return self.known

    def names(self) -> list[str] | None:
        return ["other", "another"] if self.may_list else None

    def count(self) -> int | None:
        self.meanwhile()
        if self.counts == "never":
            return None
        return self.lag.pop(0) if self.lag else len(self.rows)

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        self.listings += 1
        number, held, last = self.listings, dict(self.rows), ""
        self.at_last_listing = set(held)
        if self.snapshot:
            self.held = len(held)
        while True:
            self.meanwhile()
            rows = held if self.snapshot else self.rows
            page = [key for key in sorted(rows) if key > last][: self.size]
            if not page:
                return
            yield [Row(key, key, rows[key] if payload else None) for key in page if not self.hidden(number, key)]
            last = page[-1]

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        self.meanwhile()
        return [Row(key, key, self.rows[key]) for key in keys if key in self.rows]

    def explained(self, error: Exception) -> MigrateError | None:
        return Unreachable("the driver gave up") if isinstance(error, DriverError) else None


def notes(number_of_rows: int) -> dict[str, Any]:
    return {f"m{number:03}": {"data": f"note {number}", "user_id": "alice"} for number in range(number_of_rows)}


def opened(store: ListedStore) -> ListedReader:
    return ListedReader(store, INFO, now=NOW, sleep=lambda seconds: None)


def texts(rows: Iterable[Memory | Skipped]) -> dict[str, str]:
    return {row.id: row.memory for row in rows if isinstance(row, Memory)}


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize("counts", ["exact", "late", "never"])
@pytest.mark.parametrize("rows", [0, 1, 5, 6, 23])
def test_every_row_is_given_and_none_is_missing(counts: Counts, snapshot: bool, rows: int) -> None:
    with opened(MadeUp(notes(rows), counts, snapshot=snapshot)) as reader:
        assert {key: row["data"] for key, row in notes(rows).items()} == texts(reader.rows())
        assert 0 == reader.missing()
        assert "" == reader.unproven


def test_a_row_that_replaced_another_behind_the_cursor_is_given_although_the_counts_are_equal() -> None:
    store = MadeUp(notes(20))

    def replace() -> None:
        if store.listings == 1 and "m000" in store.rows:
            del store.rows["m000"]
            store.rows["l000"] = {"data": "late"}

    with opened(store) as reader:
        rows = reader.rows()
        first = [next(rows) for _ in range(7)]
        store.meanwhile = replace
        found = texts([*first, *rows])

    assert "late" == found["l000"]
    assert store.rows.keys() <= found.keys()


@pytest.mark.parametrize("counts", ["exact", "late", "never"])
@pytest.mark.parametrize("seed", range(25))
def test_whatever_an_application_does_meanwhile_what_was_there_all_the_time_is_given(counts: Counts, seed: int) -> None:
    chance = random.Random(seed)
    store = MadeUp(notes(60), counts)
    store.size = chance.randint(1, 20)
    untouched = set(store.rows)
    steps = chance.randint(0, 60)

    def live() -> None:
        nonlocal steps
        for _ in range(chance.randint(0, 3)):
            if steps <= 0:
                return
            steps -= 1
            key = f"m{chance.randint(0, 99):03}"
            if chance.random() < 0.4:
                untouched.discard(key)
                store.rows.pop(key, None)
            else:
                store.rows[key] = {"data": f"new {steps}"}

    with opened(store) as reader:
        store.meanwhile = live
        found = texts(reader.rows())
        assert 0 == reader.missing()

    assert untouched <= found.keys()
    assert {key for key in store.at_last_listing if key in store.rows} <= found.keys()


def test_an_application_that_never_rests_does_not_keep_a_scan_from_ending() -> None:
    store = MadeUp(notes(10))
    numbers = count(100)

    def add() -> None:
        number = next(numbers)
        store.rows[f"m{number:09}"] = {"data": "one more"}
        store.rows.pop(f"m{number - 7:09}", None)

    with opened(store) as reader:
        store.meanwhile = add
        found = texts(reader.rows())
        assert 0 == reader.missing()

    assert notes(10).keys() <= found.keys()
    assert 21 == store.listings


def test_a_listing_that_is_short_every_time_is_found_by_the_count() -> None:
    store = MadeUp(notes(20))
    store.hidden = lambda listing, key: key == "m007"

    with opened(store) as reader:
        assert 19 == len(list(reader.rows()))
        assert 1 == reader.missing()


def test_a_short_snapshot_is_found_by_its_count() -> None:
    store = MadeUp(notes(20), snapshot=True)
    store.hidden = lambda listing, key: key in ("m007", "m008")

    with opened(store) as reader:
        assert 18 == len(list(reader.rows()))
        assert 2 == reader.missing()


@pytest.mark.parametrize("counts", ["exact", "late"])
def test_a_store_that_reads_as_empty_while_its_count_is_not_is_not_complete(counts: Counts) -> None:
    store = MadeUp(notes(20), counts)
    store.hidden = lambda listing, key: True

    with opened(store) as reader:
        assert [] == list(reader.rows())
        assert 20 == reader.missing()


def test_a_late_count_is_asked_again_until_it_agrees() -> None:
    store = MadeUp(notes(20), "late")

    with opened(store) as reader:
        store.lag = [12, 12, 15, 17]
        list(reader.rows())
        assert 0 == reader.missing()
        assert "" == reader.unproven


@pytest.mark.parametrize("said", [12, 30])
def test_a_late_count_that_never_agrees_proves_nothing(said: int) -> None:
    store = MadeUp(notes(20), "late")

    with opened(store) as reader:
        store.lag = [said] * 100
        assert 20 == len(list(reader.rows()))
        assert 0 == reader.missing()
        assert (
            f"the collection lists 20 rows and counts {said}, which may be late; run it again later" == reader.unproven
        )


def test_without_a_count_two_listings_have_to_agree() -> None:
    store = MadeUp(notes(20), "never")
    store.hidden = lambda listing, key: listing > 1 and key == "m003"

    with opened(store) as reader:
        assert 20 == len(list(reader.rows()))
        assert "two listings of the collection differ in 1 row, which are both there" == reader.unproven


def test_a_second_reading_starts_anew() -> None:
    store = MadeUp(notes(20))

    with opened(store) as reader:
        store.hidden = lambda listing, key: key == "m003"
        list(reader.rows())
        assert 1 == reader.missing()
        store.hidden = lambda listing, key: False
        assert 20 == len(list(reader.rows()))
        assert 0 == reader.missing()


def test_rows_in_a_shape_that_mem0_never_wrote_are_named() -> None:
    rows = {
        "json": json.dumps({"data": "tea"}),
        "no-json": "{'data': 'tea'}",
        "deep": "[" * 100_000,
        "list": ["tea"],
        "nothing": None,
        "no-text": {"user_id": "alice"},
        "entity": {"data": "Alice", "entityType": "person", "linkedMemoryIds": ["m1"]},
    }
    with opened(MadeUp(rows)) as reader:
        found = list(reader.rows())

    assert {"json": "tea"} == texts(found)
    skipped = {row.id: (row.reason, row.has_content) for row in found if isinstance(row, Skipped)}
    assert {"no-json", "deep"} == {one for one, reason in skipped.items() if reason == (UNREADABLE, True)}
    assert {"list", "nothing", "no-text"} == {one for one, (reason, _) in skipped.items() if reason == "no text field"}
    assert "a row of Mem0's entity store, not a memory" == skipped["entity"][0]


@pytest.mark.parametrize("may_list", [True, False])
def test_an_unknown_collection_is_refused_with_those_that_exist(may_list: bool) -> None:
    store = MadeUp({})
    store.known, store.may_list = False, may_list

    with pytest.raises(InputError) as error:
        opened(store)

    assert "there is no collection mem0 at here" == error.value.message
    unlisted = "check the name; this key may not list the collections that there are"
    assert ("collections there: another, other" if may_list else unlisted) == error.value.hint


def test_an_error_of_the_driver_becomes_one_of_ours_wherever_it_happens() -> None:
    store = MadeUp(notes(20))
    reader = opened(store)

    def fail() -> None:
        raise DriverError

    rows = reader.rows()
    next(rows)
    store.meanwhile = fail
    with pytest.raises(Unreachable, match="the driver gave up"):
        list(rows)
    with pytest.raises(Unreachable):
        reader.native_count()
    assert reader.missing() is None


@pytest.mark.parametrize("size", [0, 5])
def test_a_store_that_gives_the_same_pages_for_ever_is_not_read_for_ever(size: int) -> None:
    store = MadeUp(notes(size))
    asked = count()

    def pages(*, payload: bool) -> Iterator[list[Row]]:
        while next(asked) < 10_000:
            yield [Row(key, key, store.rows[key] if payload else None) for key in store.rows]

    store.pages = pages  # type: ignore[method-assign]
    with pytest.raises(Incomplete, match="does not end"):
        list(ListedReader(store, INFO, now=NOW).rows())
    assert next(asked) < 2000


def test_a_page_that_comes_again_now_and_then_ends_nothing() -> None:
    store = MadeUp(notes(40))
    read = store.pages

    def pages(*, payload: bool) -> Iterator[list[Row]]:
        for page in read(payload=payload):
            yield from [page] * 50

    store.pages = pages  # type: ignore[method-assign]
    assert 40 == len({row.id for row in ListedReader(store, INFO, now=NOW).rows()})
