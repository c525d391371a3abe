"""How a search of Mem0's is read, in the forms of all generations."""

from __future__ import annotations

from typing import Any

import pytest

from spectron_migrate.adapter.mem0_calls import Mem0Calls, SearchRequest


class Older:
    """OSS up to 1.x: ids as keywords, `limit`."""

    def search(
        self,
        query: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        limit: int = 100,
        filters: dict[str, Any] | None = None,
        threshold: float | None = None,
        rerank: bool = True,
    ) -> None: ...

    def get_all(
        self, *, user_id: str | None = None, filters: dict[str, Any] | None = None, limit: int = 100
    ) -> None: ...


class Oldest:
    """So old that ids could be given by position."""

    def search(self, query: str, user_id: str | None = None, agent_id: str | None = None, limit: int = 100) -> None: ...


class Newer:
    """OSS from 2.0 on: ids in `filters`, `top_k`."""

    def search(
        self,
        query: str,
        *,
        top_k: int = 20,
        filters: dict[str, Any] | None = None,
        threshold: float = 0.1,
        rerank: bool = False,
        explain: bool = False,
        reference_date: Any = None,
        show_expired: bool = False,
        **kwargs: Any,
    ) -> None: ...

    def get_all(self, *, filters: dict[str, Any] | None = None, top_k: int = 20, **kwargs: Any) -> None: ...


class Hosted:
    """`MemoryClient` from 2.0 on: options as an object, or keywords."""

    def search(self, query: str, options: Any = None, **kwargs: Any) -> None: ...

    def get_all(self, options: Any = None, **kwargs: Any) -> None: ...


class OldHosted:
    """`MemoryClient` before."""

    def search(self, query: str, version: str = "v1", **kwargs: Any) -> None: ...


class Options:
    """As mem0's typed options answer."""

    def model_dump(self, *, exclude_unset: bool) -> dict[str, Any]:
        return {"filters": {"user_id": "alice"}, "top_k": 4}


def read(client: type, *args: Any, **kwargs: Any) -> SearchRequest | None:
    calls = Mem0Calls(client())
    return calls.read(args, calls.fit("search", args, kwargs))


ALICE = {"user_id": "alice"}


@pytest.mark.parametrize(
    ("client", "args", "kwargs", "top_k"),
    [
        (Older, ("tea",), {"user_id": "alice"}, 100),
        (Older, (), {"query": "tea", "user_id": "alice", "limit": 3}, 3),
        (Older, ("tea",), {"filters": {"user_id": "alice"}, "top_k": 3}, 3),
        (Oldest, ("tea", "alice"), {}, 100),
        (Newer, ("tea",), {"filters": {"user_id": "alice"}}, 20),
        (Newer, ("tea",), {"user_id": "alice", "limit": 3}, 3),
        (Newer, ("tea",), {"filters": {"AND": [{"user_id": "alice"}]}, "top_k": 3}, 3),
        (Newer, ("tea",), {"filters": {"user_id": " alice "}, "rerank": True}, 20),
        (Newer, ("tea",), {"filters": {"user_id": "alice"}, "threshold": 0.1}, 20),
        (Hosted, ("tea",), {"filters": {"user_id": "alice"}, "top_k": 5}, 5),
        (Hosted, ("tea", Options()), {}, 4),
        (OldHosted, ("tea",), {"user_id": "alice", "version": "v2"}, 10),
    ],
)
def test_each_generation_says_the_same(client: type, args: Any, kwargs: Any, top_k: int) -> None:
    assert SearchRequest("tea", ALICE, top_k) == read(client, *args, **kwargs)


@pytest.mark.parametrize(
    ("filters", "beyond"),
    [
        ({"user_id": "alice", "category": "food"}, ("filter category",)),
        ({"user_id": "*"}, ("filter user_id", "no id")),
        ({"user_id": {"in": ["alice", "bob"]}}, ("filter user_id", "no id")),
        ({"OR": [{"user_id": "alice"}, {"user_id": "bob"}]}, ("filter OR", "no id")),
        ({"AND": [{"user_id": "alice"}, {"user_id": "bob"}]}, ("filter user_id twice",)),
        ({"AND": [{"user_id": "alice"}, {"created_at": {"gte": "2025-01-01"}}]}, ("filter created_at",)),
        ({}, ("no id",)),
    ],
)
def test_only_plain_ids_can_become_a_lens(filters: Any, beyond: tuple[str, ...]) -> None:
    asked = read(Newer, "tea", filters=filters)
    assert asked is not None
    assert beyond == asked.beyond


@pytest.mark.parametrize(
    "more", [{"threshold": 0.7}, {"explain": True}, {"reference_date": "2025"}, {"fields": ["id"]}]
)
def test_what_narrows_an_answer_is_named(more: dict[str, Any]) -> None:
    asked = read(Newer, "tea", filters=ALICE, **more)
    assert asked is not None
    assert tuple(more) == asked.beyond


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((7,), {}), (("tea", "too", "many"), {}), (("tea",), {"top_k": 0})]
)
def test_a_call_that_is_none_is_left_to_mem0(args: Any, kwargs: Any) -> None:
    assert read(Newer, *args, **kwargs) is None


def test_calls_of_the_other_generation_are_fitted() -> None:
    newer, older = Mem0Calls(Newer()), Mem0Calls(Older())
    assert {"filters": ALICE, "top_k": 5} == newer.fit("search", ("tea",), {"user_id": "alice", "limit": 5})
    assert {"filters": ALICE} == newer.fit("get_all", (), {"user_id": "alice"})
    assert {"user_id": "alice", "limit": 5} == older.fit("search", ("tea",), {"filters": ALICE, "top_k": 5})
    mixed = {"filters": {"user_id": "alice", "kind": "food"}}
    assert {"user_id": "alice", "filters": {"kind": "food"}} == older.fit("search", ("tea",), mixed)


def test_calls_of_the_own_generation_stay_as_they_are() -> None:
    given = {"filters": {"user_id": "alice", "OR": []}, "threshold": 0.5}
    assert given is Mem0Calls(Newer()).fit("search", ("tea",), given)


class OlderMem0:
    """The signatures of the generation that takes ids as keywords."""

    def add(self, messages: Any, *, user_id: Any = None, agent_id: Any = None, run_id: Any = None) -> Any: ...

    def search(self, query: str, *, user_id: Any = None, agent_id: Any = None, limit: int = 100) -> Any: ...


def test_an_empty_id_is_left_to_mem0_to_make_sense_of() -> None:
    asked = Mem0Calls(OlderMem0()).read(("tea",), {"user_id": "", "agent_id": "bot"})
    assert asked is None or asked.beyond
