"""What Spectron made of texts is read from servers of every generation, each told apart by its answers alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from spectron_migrate.local.engine import API_VERSIONS
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.graph import Graph
from spectron_migrate.spectron.wire import Wire
from tests.support import contract
from tests.support.here import server_here

T = TypeVar("T")


@dataclass
class Told:
    """A running server, and every request that it was sent as it is published."""

    server: RunningServer
    api: str
    wrong: list[str]

    def read(self, work: Callable[[SpectronApi], Awaitable[T]]) -> T:
        async def run() -> T:
            async with SpectronApi(self.server.base_url, self.server.context, api_key=self.server.api_key) as api:
                return await work(api)

        return asyncio.run(run())

    def write(self, *texts: str, label: str = "mem0_id=m1") -> None:
        async def run(api: SpectronApi) -> None:
            await api.register_scope("user/alice")
            opened = await api.create_session((("user/alice",),))
            for text in texts:
                body: dict[str, Any] = {"text": text, "session_id": opened.id, "labels": [label]}
                assert 200 == (await api.exchange("POST", "/facts", body)).status

        self.read(run)


@pytest.fixture(params=API_VERSIONS)
def told(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """Requests are checked against the document of the server's own generation, but for the probe that tells it."""
    wrong: list[str] = []
    call = Wire.call

    async def checked(self: Wire, method: str, path: str, **named: Any) -> Any:
        if path != "/local/uncertainty":
            wrong.extend(contract.problems_in(request.param, method, f"/api/v1{path}", named.get("content")))
        return await call(self, method, path, **named)

    monkeypatch.setattr(Wire, "call", checked)
    with server_here(tmp_path, api=request.param) as server:
        yield Told(server, request.param, wrong)
    assert [] == wrong


def test_a_generation_is_told_by_what_the_server_answers(told: Told) -> None:
    assert told.api == told.read(lambda api: api.generation())


def test_the_history_has_every_value_of_every_key(told: Told) -> None:
    told.write("Lives in Berlin and drives a tram", "Lives in Rome")

    history = told.read(lambda api: Graph(api).history("person", "user"))

    assert history.is_complete
    values = {value.value: value for value in history.values}
    assert {"Berlin", "Rome", "a tram"} == set(values)
    assert values["Rome"].id == values["Berlin"].superseded_by
    assert (False, True) == (values["Berlin"].live, values["Rome"].live)


def test_labels_scope_and_turn_of_a_fact_are_read_where_they_are_shown(told: Told) -> None:
    told.write("Lives in Berlin")

    history = told.read(lambda api: Graph(api).history("person", "user"))

    (value,) = history.values
    assert value.turn is not None
    if told.api == "0.3.0":
        assert ("mem0_id=m1",) == value.labels
        assert (("user/alice",),) == value.scopes
        assert "person/user" == value.entity
    else:
        assert None is value.labels
        assert None is value.scopes


@pytest.mark.slow
def test_a_bounded_entity_is_walked_for_the_rest_of_its_keys(tmp_path: Path) -> None:
    with server_here(tmp_path) as server:
        told = Told(server, "0.3.0", [])
        told.write(*(f"Speaks language{number}. Enjoys hobby{number}." for number in range(260)))

        keys = told.read(lambda api: Graph(api).keys("person", "user"))

    assert 520 == len(keys) == len(set(keys))


def test_what_is_uncertain_is_listed_with_its_labels(tmp_path: Path) -> None:
    with server_here(tmp_path) as server:
        told = Told(server, "0.3.0", [])
        told.write("Lives in Berlin")
        told.write("Maybe lives in Rome", label="mem0_id=m2")

        async def listed(api: SpectronApi) -> list[Any]:
            return [each async for each in Graph(api).uncertainties()]

        (uncertain,) = told.read(listed)

    assert ("person/user", "lives_in", ("mem0_id=m2",)) == (uncertain.entity, uncertain.key, uncertain.labels)
    assert (("user/alice",),) == uncertain.scopes
