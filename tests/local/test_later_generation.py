"""Answers that differ between the generations of the API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from spectron_migrate.local.engine import ContractReading
from tests.local.support import SlowExtractor, Spectron, spectron

ALICE = "user/alice"


@pytest.fixture
def later() -> Iterator[Spectron]:
    """A server of the later generation."""
    with spectron(api="0.2.1") as server:
        server.register(ALICE)
        yield server


def walk(server: Spectron, path: str, name: str, **query: Any) -> tuple[list[Any], int]:
    """All rows of a list, and the number of pages."""
    rows, pages = [], 0
    while True:
        answer = server.ok("GET", path, **query)
        rows += answer[name]
        pages += 1
        if not answer["page"]["hasMore"]:
            assert "nextCursor" not in answer["page"]
            return rows, pages
        query["cursor"] = answer["page"]["nextCursor"]


@pytest.mark.parametrize(
    ("path", "name"),
    [("/scopes", "scopes"), ("/keys", "keys"), ("/principals", "principals"), ("/entities", "entities")],
)
def test_lists_have_envelopes_and_cursors_to_the_same_rows(later: Spectron, path: str, name: str) -> None:
    later.remember("Lives in Berlin", ALICE)
    later.ok("POST", "/keys", {"name": "second"})

    whole, _ = walk(later, path, name)
    paged, pages = walk(later, path, name, limit=1)

    assert whole == paged
    assert len(whole) == pages >= 2


def test_turns_have_a_cursor_and_a_total_on_request(later: Spectron) -> None:
    messages = [{"role": "user", "content": f"message {number}"} for number in range(5)]
    session = later.ok("POST", "/facts/batch", {"messages": messages, "infer": "none"})["sessionId"]
    path = f"/sessions/{session}/turns"

    turns, pages = walk(later, path, "turns", limit=2)

    assert [message["content"] for message in messages] == [turn["content"] for turn in turns]
    assert 3 == pages
    assert 5 == later.ok("GET", path, limit=1, count="true")["page"]["totalSize"]
    assert "totalSize" not in later.ok("GET", path)["page"]


@pytest.mark.parametrize("cursor", ["x", "YWZ0ZXI6", "b3RoZXI6MQ==", "é"])
def test_an_invalid_cursor_is_400(later: Spectron, cursor: str) -> None:
    assert 400 == later.call("GET", "/scopes", cursor=cursor).status


def test_a_short_page_of_scopes_is_not_the_last() -> None:
    grants = {"memory:read": ["user/z/*"]}
    with spectron(api="0.2.1", principals={"z": {"key": "sk-z", "grants": grants}}) as later:
        later.register(*(f"user/{letter}" for letter in "abcz"))
        headers = {"authorization": "Bearer sk-z"}

        first = later.ok("GET", "/scopes", limit=2, headers=headers)
        rows, _ = walk(later, "/scopes", "scopes", limit=2, headers=headers)

    assert ([], True) == (first["scopes"], first["page"]["hasMore"])
    assert ["user/z/"] == [row["path"] for row in rows]


def test_hits_have_a_time_and_name_their_fact_or_turn(later: Spectron) -> None:
    made = later.remember("Lives in Berlin", ALICE, observed_at="2024-01-01T00:00:00Z")

    answer = later.ok("POST", "/query", {"query": "Berlin"})

    hits = {hit["source"]: hit for hit in answer["hits"]}
    assert [] == answer["contextHits"]
    assert "2024-01-01T00:00:00.000000Z" == hits["attribute"]["occurredAt"]
    assert {"kind": "attribute", "entityType": "person", "name": "user", "key": "lives_in"} == hits["attribute"][
        "resource"
    ]
    turn = {"kind": "session", "sessionId": made["sessionId"], "turnId": made["turnId"], "position": 1}
    assert turn == hits["memory_chunk"]["resource"]


def test_a_passage_may_name_its_session_without_its_turn() -> None:
    with spectron(api="0.2.1", reading=ContractReading(hits_name_turn=False)) as server:
        server.register(ALICE)
        made = server.remember("Likes chess", ALICE, infer="none")

        hits = server.ok("POST", "/query", {"query": "chess"})["hits"]

    assert [(made["sessionId"], None)] == [(hit["resource"]["sessionId"], hit["resource"]["turnId"]) for hit in hits]


def test_extraction_profile_and_state_have_new_fields_beside_the_old(later: Spectron) -> None:
    made = later.remember("Lives in Berlin and likes tea", ALICE)

    profile, state = later.ok("GET", "/profile"), later.ok("GET", "/state", limit=1)

    assert [] == made["extraction"]["actions"]
    assert {"key": "lives_in", "value": "Berlin", "entity": "user", "entityType": "person"} in profile["selfFacts"]
    assert {"entities": True, "attributes": True, "relations": False} == {
        name: state["truncated"][name] for name in ("entities", "attributes", "relations")
    }


def test_errors_have_a_message_and_problem_details(later: Spectron) -> None:
    answer = later.call("POST", "/facts", {})

    assert "application/problem+json" == answer.headers["content-type"]
    assert {"message", "type", "title", "status", "detail", "instance"} == set(answer.body)
    assert (400, "Bad Request") == (answer.body["status"], answer.body["title"])
    assert answer.body["message"] == answer.body["detail"]
    assert 403 == later.call("DELETE", "/scopes", path="/").status


def test_too_many_requests_in_flight_are_503_with_retry_after_and_not_begun() -> None:
    extractor = SlowExtractor()
    with spectron(api="0.2.1", extractor=extractor, max_in_flight=1) as later:

        async def overlap() -> tuple[Any, Any]:
            first = asyncio.create_task(later.exchange("POST", "/facts", {"text": "one"}))
            await extractor.began.wait()
            second = await later.exchange("POST", "/facts", {"text": "two"})
            extractor.let_go.set()
            return await first, second

        first, second = later.loop.run_until_complete(overlap())

        assert (200, 503) == (first.status, second.status)
        assert "1" == second.headers["retry-after"]
        assert ["one"] == later.passages("one two")


def test_addressees_are_validated_only_with_extraction(later: Spectron) -> None:
    nine = [f"Name{number}" for number in range(9)]

    assert 400 == later.call("POST", "/facts", {"text": "x", "addressees": nine}).status
    later.checked = False  # the document allows no more than eight in any mode
    assert 200 == later.call("POST", "/facts", {"text": "x", "addressees": nine, "infer": "none"}).status
