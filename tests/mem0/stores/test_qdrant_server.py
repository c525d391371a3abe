"""A served Qdrant is scrolled whole, also while it is written to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from spectron_migrate.errors import InputError, KeyRefused
from spectron_migrate.mem0.open import open_reader, source_info
from spectron_migrate.mem0.stores import qdrant_server
from spectron_migrate.records import Memory
from tests.mem0.conftest import NOW
from tests.mem0.qdrant_points import uuid
from tests.mem0.standins import KEY, Qdrant, Row, serving

Start = Callable[..., tuple[Qdrant, dict[str, Any]]]


@pytest.fixture
def qdrant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(qdrant_server, "_PAGE", 7)
    with ExitStack() as stack:

        def start(points: dict[str, Row], **config: Any) -> tuple[Qdrant, dict[str, Any]]:
            stand_in = Qdrant(points)
            url = stack.enter_context(serving(stand_in))
            store = {"url": url, "api_key": KEY, "collection_name": "mem0", **config}
            return stand_in, {"oss": {"config": {"vector_store": {"provider": "qdrant", "config": store}}}}

        yield start


def points(count: int) -> dict[str, Row]:
    return {uuid(number): {"data": f"note {number}", "user_id": "alice"} for number in range(count)}


def read(section: dict[str, Any]) -> dict[str, str]:
    with open_reader(section, now=NOW, sleep=lambda seconds: None) as reader:
        found = {row.id: row.memory for row in reader.rows() if isinstance(row, Memory)}
        assert 0 == reader.missing()
        return found


def texts(rows: dict[str, Row]) -> dict[str, str]:
    return {memory_id: payload["data"] for memory_id, payload in rows.items()}


@pytest.mark.parametrize("count", [0, 6, 7, 8, 50])
def test_every_point_is_read_with_questions_that_change_nothing(qdrant: Start, count: int) -> None:
    stand_in, section = qdrant(points(count))

    assert texts(points(count)) == read(section)
    allowed = {"/collections/mem0", "/collections/mem0/points/count", "/collections/mem0/points/scroll"}
    assert allowed >= {path for _, path, _ in stand_in.asked}


def test_points_added_behind_the_cursor_are_read_too(qdrant: Start) -> None:
    stand_in, section = qdrant(points(50))

    def live(number: int) -> None:
        if 5 < number < 12:
            stand_in.points[uuid(number)[:-1] + "x"] = {"data": f"late {number}"}
            stand_in.points.pop(uuid(40 + number % 10), None)

    stand_in.before_answer = live

    given = read(section)

    assert texts(stand_in.points).items() <= given.items()


def test_a_point_that_replaced_another_behind_the_cursor_is_read_although_the_counts_are_equal(qdrant: Start) -> None:
    stand_in, section = qdrant(points(50))
    late = uuid(2)[:-1] + "x"

    def replace(number: int) -> None:
        if number == 5:
            del stand_in.points[uuid(1)]
            stand_in.points[late] = {"data": "late"}

    stand_in.before_answer = replace

    assert "late" == read(section)[late]


@pytest.mark.parametrize("every", [2, 3])
def test_trouble_costs_patience_but_no_row(qdrant: Start, every: int) -> None:
    stand_in, section = qdrant(points(60))
    stand_in.trouble.every = every

    assert texts(points(60)) == read(section)


def test_an_unknown_collection_is_refused_with_those_that_exist(qdrant: Start) -> None:
    _, section = qdrant(points(1), collection_name="memories")

    with pytest.raises(InputError) as error:
        read(section)

    assert error.value.message.startswith("there is no collection memories at http://127.0.0.1:")
    assert "collections there: mem0, other" == error.value.hint


def test_a_wrong_key_is_reported(qdrant: Start) -> None:
    _, section = qdrant(points(1), api_key="wrong")

    with pytest.raises(KeyRefused):
        read(section)


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"url": "https://a.cloud.qdrant.io", "api_key": "k"}, "https://a.cloud.qdrant.io:6333"),
        ({"url": "https://me:secret@a.io:443/qdrant/", "api_key": "k"}, "https://a.io:443/qdrant"),
        ({"host": "localhost", "port": 6333}, "http://localhost:6333"),
        ({"host": "q.example", "port": 6333, "api_key": "k"}, "https://q.example:6333"),
        ({"host": "q.example", "port": 6333, "https": False}, "http://q.example:6333"),
    ],
)
def test_the_address_is_the_one_that_qdrants_client_would_use(config: dict[str, Any], place: str) -> None:
    section = {"oss": {"config": {"vector_store": {"provider": "qdrant", "config": config}}}}

    assert f"qdrant:{place}:mem0" == source_info(section).place
