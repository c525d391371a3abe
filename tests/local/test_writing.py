"""Sessions, turns, and what /facts and /facts/batch store."""

from __future__ import annotations

from typing import Any

import pytest

from tests.local.support import Spectron, spectron

ALICE = "org/acme/user/alice"


def test_registering_makes_the_missing_ancestors(local: Spectron) -> None:
    """And registering again is no error."""
    local.register(ALICE, ALICE)

    paths = [node["path"] for node in local.ok("GET", "/scopes")]

    assert ["org/", "org/acme/", "org/acme/user/", "org/acme/user/alice/"] == paths


@pytest.mark.parametrize("call", ["/facts", "/facts/batch", "/sessions"])
def test_a_write_to_an_unregistered_scope_is_refused(local: Spectron, call: str) -> None:
    """400, and nothing is stored."""
    body = {"text": "x", "messages": [{"role": "user", "content": "x"}], "scopes": [[ALICE]]}
    wanted = {"/facts": ["text", "scopes"], "/facts/batch": ["messages", "scopes"], "/sessions": ["scopes"]}

    answer = local.call("POST", call, {name: body[name] for name in wanted[call]})

    assert 400 == answer.status
    assert "not registered" in answer.body["message"]
    assert [] == local.recall("x")


def test_a_tombstoned_scope_takes_no_new_writes_and_keeps_what_it_has(local: Spectron) -> None:
    """Until it is registered again."""
    local.register(ALICE)
    local.remember("Alice plays the violin", ALICE)

    local.ok("DELETE", "/scopes", path=ALICE)
    refused = local.call("POST", "/facts", {"text": "x", "scopes": [[ALICE]]})
    (node,) = [one for one in local.ok("GET", "/scopes") if one["path"] == ALICE + "/"]

    assert 400 == refused.status
    assert node["tombstonedAt"] is not None
    assert ["Alice plays the violin"] == local.passages("violin")
    local.register(ALICE)
    local.remember("x", ALICE)


def test_a_session_echoes_its_scopes_in_canonical_form(local: Spectron) -> None:
    """So that a client can compare them."""
    local.register(ALICE, "team/a")

    session = local.ok("POST", "/sessions", {"scopes": [[ALICE, "team/a"]], "metadata": {"run": 7}})

    assert [["org/acme/user/alice/", "team/a/"]] == session["scopes"]


@pytest.mark.parametrize("body", [None, {}])
def test_a_session_needs_no_body(local: Spectron, body: Any) -> None:
    """It is then in the caller's whole write region."""
    assert [["/"]] == local.ok("POST", "/sessions", body)["scopes"]


def test_turns_are_listed_word_for_word_in_order_of_arrival(local: Spectron) -> None:
    """Page by page, each once."""
    session = local.ok("POST", "/sessions", {})["id"]
    texts = [f"  turn {number}\u0000 🙂\n" for number in range(7)]
    for text in texts:
        local.remember(text, session_id=session, role="assistant", infer="none")

    pages = [
        local.ok("GET", f"/sessions/{session}/turns", limit=3, offset=offset)["turns"] for offset in range(0, 9, 3)
    ]

    turns = [turn for page in pages for turn in page]
    assert texts == [turn["content"] for turn in turns]
    assert list(range(1, 8)) == [turn["seq"] for turn in turns]
    assert {"assistant"} == {turn["role"] for turn in turns}
    assert [3, 3, 1] == [len(page) for page in pages]


def test_a_page_of_turns_has_100_and_at_most_500(local: Spectron) -> None:
    """More is cut down, not refused."""
    messages = [{"role": "user", "content": f"message {number}"} for number in range(501)]
    session = local.ok("POST", "/facts/batch", {"messages": messages, "infer": "none"})["sessionId"]

    assert 100 == len(local.ok("GET", f"/sessions/{session}/turns")["turns"])
    assert 500 == len(local.ok("GET", f"/sessions/{session}/turns", limit=10_000)["turns"])


@pytest.mark.parametrize("query", [{"limit": "x"}, {"limit": "-1"}, {"offset": "1.5"}])
def test_a_limit_that_is_no_number_is_422(local: Spectron, query: dict[str, str]) -> None:
    """As declared for that call."""
    session = local.ok("POST", "/sessions", {})["id"]

    assert 422 == local.call("GET", f"/sessions/{session}/turns", **query).status


def test_deleting_a_session_removes_its_turns_and_passages(local: Spectron) -> None:
    """Really: they are nowhere any more. What was drawn from them stays."""
    session = local.ok("POST", "/sessions", {})["id"]
    local.remember("Lives in Berlin", session_id=session)

    local.ok("DELETE", f"/sessions/{session}")

    assert 404 == local.call("GET", f"/sessions/{session}/turns").status
    assert 404 == local.call("DELETE", f"/sessions/{session}").status
    assert 403 == local.call("POST", "/facts", {"text": "x", "session_id": session}).status
    assert [] == local.passages("Berlin", includeDuplicates=True)
    assert [("Berlin", True)] == local.history("lives_in")


def test_an_unknown_session_is_403_to_write_and_404_to_read(local: Spectron) -> None:
    """A write does not say whether it exists; for its context the document declares 400 alone."""
    assert 403 == local.call("POST", "/facts", {"text": "x", "session_id": "sess_none"}).status
    assert 404 == local.call("GET", "/sessions/sess_none/turns").status
    assert 400 == local.call("POST", "/sessions/sess_none/context", {"query": "x"}).status


def test_none_stores_the_text_alone(local: Spectron) -> None:
    """Turn and passage, and no fact."""
    made = local.remember("Lives in Berlin", infer="none")

    assert {"mode", "sessionId", "turnId", "chunkId"} == set(made)
    assert [{"id": made["chunkId"], "text": "Lives in Berlin", "source": "memory_chunk"}] == [
        {name: hit[name] for name in ("id", "text", "source")} for hit in local.recall("Berlin")
    ]
    assert [] == local.ok("GET", "/entities")["entities"]


def test_full_draws_facts_and_names_them(local: Spectron) -> None:
    """The answer has the ids of all it wrote."""
    made = local.remember("Lives in Berlin")

    extraction = made["extraction"]
    (attribute,) = extraction["attributes"]
    assert made["turnId"] == extraction["turnId"]
    assert ("lives_in", "Berlin") == (attribute["key"], attribute["value"])
    assert {"user", "Berlin"} == {entity["name"] for entity in extraction["entities"]}
    assert {attribute["id"], made["chunkId"]} == {hit["id"] for hit in local.recall("where does the user live")}


def test_without_extraction_full_stores_the_text_and_answers_an_empty_extraction() -> None:
    """The trap of a Context whose setting is off: 200, and no facts."""
    with spectron(extraction=False) as local:
        made = local.remember("Lives in Berlin")

        assert [] == made["extraction"]["attributes"]
        assert ["Lives in Berlin"] == local.passages("Berlin")


def test_preview_tells_and_stores_nothing(local: Spectron) -> None:
    """No session, no turn, no fact."""
    shown = local.remember("Lives in Berlin", infer="preview")

    assert shown["preview"] is True
    assert "Berlin" == shown["extraction"]["attributes"][0]["value"]
    assert [] == local.recall("Berlin")
    assert [] == local.ok("GET", "/entities")["entities"]
    assert 0 == local.ok("POST", "/fsck", {})["total"]


def test_triples_become_attributes_and_relations(local: Spectron) -> None:
    """Types outside the closed set become `other`."""
    bob = {"type": "Person", "name": "Bob"}
    local.ok(
        "POST",
        "/facts",
        {
            "infer": "triples",
            "triples": [
                {"entity": bob, "key": "role", "value": "admin"},
                {"entity": bob, "key": "owns", "target": {"type": "spaceship", "name": "Rosinante"}},
            ],
        },
    )

    entity = local.ok("GET", "/entities/person/bob")
    assert [("role", "admin")] == [(row["key"], row["value"]) for row in entity["attributes"]]
    assert [("entity:person/Bob", "owns", "entity:other/Rosinante")] == [
        (row["subject"], row["label"], row["object"]) for row in entity["relations"]
    ]


def test_a_batch_is_one_session_with_a_turn_a_message(local: Spectron) -> None:
    """One extraction in total, or one a message."""
    messages = [
        {"role": "user", "content": "I live in Berlin", "ts": "2024-01-01T00:00:00Z"},
        {"role": "assistant", "content": "Noted"},
        {"role": "user", "content": "I work at Siemens"},
    ]

    whole = local.ok("POST", "/facts/batch", {"messages": messages})
    each = local.ok("POST", "/facts/batch", {"messages": messages, "extract": "per_message"})
    none = local.ok("POST", "/facts/batch", {"messages": messages, "infer": "none"})

    assert 3 == len(whole["turnIds"])
    assert ["Berlin", "Siemens"] == [row["value"] for row in whole["extractions"][0]["attributes"]]
    assert 1 == len(whole["extractions"])
    assert each["turnIds"] == [extraction["turnId"] for extraction in each["extractions"]]
    assert [] == none["extractions"]
    turns = local.ok("GET", f"/sessions/{none['sessionId']}/turns")["turns"]
    assert [message["content"] for message in messages] == [turn["content"] for turn in turns]


def test_a_batch_is_stored_whole_or_not_at_all(local: Spectron) -> None:
    """One bad message, and nothing of it is there."""
    session = local.ok("POST", "/sessions", {})["id"]
    messages = [{"role": "user", "content": "good"}, {"role": "user", "content": " "}]

    answer = local.call("POST", "/facts/batch", {"messages": messages, "session_id": session})

    assert 400 == answer.status
    assert "messages[1].content" in answer.body["message"]
    assert [] == local.ok("GET", f"/sessions/{session}/turns")["turns"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": " "},
        {"text": 5},
        {"text": "x", "infer": "some"},
        {"text": "x", "memory_category": "episodic"},
        {"text": "x", "role": "robot"},
        {"text": "x", "observed_at": "yesterday"},
        {"text": "x", "observed_at": "2024-13-01T00:00:00Z"},
        {"text": "x", "labels": ["no equals sign"]},
        {"text": "x", "labels": ["_reserved=1"]},
        {"text": "x", "scopes": [["Not A Path"]]},
        {"text": "x", "scopes": "not-registered"},
        {"infer": "triples"},
        {"infer": "triples", "triples": [{"entity": {"type": "person", "name": "Bob"}, "key": "role"}]},
        [],
        b"{",
        b'{"text": NaN}',
        b'{"text": "\\ud800"}',
        b'{"text": "\xff"}',
        b"[" * 100_000,
    ],
)
def test_a_bad_fact_is_400_and_stores_nothing(local: Spectron, body: Any) -> None:
    """With a message that says which field."""
    answer = local.call("POST", "/facts", body)

    assert 400 == answer.status
    assert answer.body["message"]
    assert 0 == local.ok("POST", "/fsck", {})["total"]


def test_too_many_labels_are_409(local: Spectron) -> None:
    """Another 409 than those of a key."""
    answer = local.call("POST", "/facts", {"text": "x", "labels": [f"k{number}=v" for number in range(65)]})

    assert 409 == answer.status
    assert "labels" in answer.body["message"]


def test_a_long_text_is_split_into_passages_that_are_all_found(local: Spectron) -> None:
    """`chunkId` names the first."""
    sentences = [f"Sentence number {number} speaks of topic{number}." for number in range(200)]

    made = local.remember(" ".join(sentences), infer="none")

    hits = local.recall("topic0", mode="bm25")
    assert made["chunkId"] == hits[0]["id"]
    assert all(any(f"topic{number}." in text for text in local.passages(f"topic{number}")) for number in (0, 99, 199))


def test_a_text_without_a_single_letter_is_stored_too(local: Spectron) -> None:
    """It has no known word: nothing is near to it, and nothing breaks."""
    session = local.remember("🙂🙂", infer="none")["sessionId"]

    assert ["🙂🙂"] == [turn["content"] for turn in local.ok("GET", f"/sessions/{session}/turns")["turns"]]
    assert 200 == local.call("POST", "/query", {"query": "🙂"}).status
