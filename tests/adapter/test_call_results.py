"""What a call left in Mem0, read from its arguments and its answer."""

from __future__ import annotations

from typing import Any

import pytest

from spectron_migrate.adapter.call_results import messages_of, results_of
from spectron_migrate.state.call_log import CallResult
from tests.adapter.drains import BOTH, WITH_TOOLS, added


@pytest.mark.parametrize(
    ("method", "given", "answer", "expected"),
    [
        ("add", {"user_id": "u"}, {"results": []}, []),
        ("add", {"user_id": "u"}, {"results": [{"id": "m", "memory": "x", "event": "NONE"}]}, []),
        ("add", {"user_id": "u"}, {"results": [{"event_id": "e", "status": "PENDING"}]}, None),
        ("add", {"user_id": "u"}, {"message": "ok"}, None),
        ("add", {}, [{"id": "m", "event": "DELETE", "memory": "x"}], [CallResult("DELETE", "m")]),
        ("add", {}, [{"id": "m", "event": "UPDATE", "memory": "x"}], [CallResult("UPDATE", "m", "x")]),
        ("update", {"memory_id": "m", "data": "x"}, {}, [CallResult("UPDATE", "m", "x")]),
        ("update", {"memory_id": "m", "metadata": {}}, {}, []),
        ("delete", {"memory_id": "m"}, {}, [CallResult("DELETE", "m")]),
        ("delete_all", {"user_id": "u"}, {}, None),
    ],
)
def test_an_answer_says_what_was_stored_or_nothing(method: str, given: Any, answer: Any, expected: Any) -> None:
    assert expected == results_of(method, given, answer)


def test_a_message_comes_before_what_mem0_made_of_it_and_is_named_by_it() -> None:
    message, one, two = messages_of("add", {"messages": BOTH, "user_id": "ada"}, added("moved", "cat")) or []
    assert "MESSAGE" == message.event
    assert BOTH == message.text
    assert "ada" == (message.record or {})["user_id"]
    assert [("ADD", "m0", "moved"), ("ADD", "m1", "cat")] == [
        (each.event, each.mem0_id, each.text) for each in (one, two)
    ]
    assert [message.mem0_id] * 2 == [(each.record or {})["message"] for each in (one, two)]


def test_a_conversation_is_one_message_without_its_instructions() -> None:
    conversation = [
        {"role": "system", "content": "You are kind"},
        {"role": "user", "content": "I moved"},
        {"role": "assistant", "content": "Where to?"},
    ]
    message = (messages_of("add", {"messages": conversation, "user_id": "ada"}, added("moved")) or [])[0]
    assert "user: I moved\nassistant: Where to?" == message.text


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"messages": BOTH, "infer": False}, added(BOTH)),
        ({"messages": BOTH, "memory_type": "procedural_memory"}, added("moved")),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, added("a cat")),
        ({"messages": [{"role": "system", "content": "You are kind"}]}, added("kind")),
        ({"messages": "Forget my cat"}, added("cat", event="DELETE")),
    ],
    ids=["as it is", "procedural", "an image", "instructions alone", "a deletion"],
)
def test_where_there_is_no_message_to_write_the_memories_are_captured(given: dict[str, Any], answer: Any) -> None:
    results = messages_of("add", {"user_id": "ada", **given}, answer) or []
    assert [row["event"] for row in answer["results"]] == [each.event for each in results]
    assert all("message" not in (each.record or {}) for each in results)


@pytest.mark.parametrize("answer", [added(), {"results": [{"event": "NONE", "id": "m1", "memory": "x"}]}])
def test_of_what_mem0_made_nothing_is_kept_nothing(answer: Any) -> None:
    assert [] == messages_of("add", {"messages": "Hm", "user_id": "ada"}, answer)


@pytest.mark.parametrize("answer", [{"results": [{"event_id": "e1", "status": "PENDING"}]}, "queued", None])
def test_an_answer_that_names_no_memory_is_unknown(answer: Any) -> None:
    assert messages_of("add", {"messages": BOTH, "user_id": "ada"}, answer) is None


@pytest.mark.parametrize(
    "given",
    [
        {"user_id": " alice "},
        {"user_id": "", "agent_id": "bot"},
        {"user_id": True},
        {"agent_id": "bot", "metadata": {"user_id": "bob"}},
        {"user_id": "alice", "metadata": {"run_id": "r"}},
    ],
)
def test_whose_memory_is_not_guessed_from_ids_that_mem0_reads_in_its_own_way(given: dict[str, Any]) -> None:
    """One generation trims ids, another takes empty ones for none, or ids from the metadata: reading Mem0 tells."""
    answer = {"results": [{"id": "m", "memory": "x", "event": "ADD"}]}
    assert results_of("add", given, answer) is None


def test_what_a_tool_answered_nobody_said() -> None:
    (message, _) = messages_of("add", {"messages": WITH_TOOLS, "user_id": "ada"}, added("Has 3 euros")) or []
    assert "user: What is my balance?\nassistant: You have 3 euros" == message.text
