"""Sessions, turns, and what /facts and /facts/batch store."""

from __future__ import annotations

from typing import Any

import pytest

from tests.local.support import Spectron, spectron

ALICE = "org/acme/user/alice"


@pytest.mark.every_generation
def test_registering_creates_missing_ancestors_and_can_be_repeated(local: Spectron) -> None:
    local.register(ALICE, ALICE)

    paths = [node["path"] for node in local.rows("/scopes")]

    assert ["org/", "org/acme/", "org/acme/user/", "org/acme/user/alice/"] == paths


@pytest.mark.parametrize("call", ["/facts", "/facts/batch", "/sessions"])
def test_a_write_to_an_unregistered_scope_is_400_and_stores_nothing(local: Spectron, call: str) -> None:
    body = {"text": "x", "messages": [{"role": "user", "content": "x"}], "scopes": [[ALICE]]}
    wanted = {"/facts": ["text", "scopes"], "/facts/batch": ["messages", "scopes"], "/sessions": ["scopes"]}

    answer = local.call("POST", call, {name: body[name] for name in wanted[call]})

    assert 400 == answer.status
    assert "not registered" in answer.body["message"]
    assert [] == local.recall("x")


@pytest.mark.every_generation
def test_a_tombstoned_scope_keeps_its_content_and_refuses_writes_until_it_is_registered_again(local: Spectron) -> None:
    local.register(ALICE)
    local.remember("Alice plays the violin", ALICE)

    local.ok("DELETE", "/scopes", path=ALICE)
    refused = local.call("POST", "/facts", {"text": "x", "scopes": [[ALICE]]})
    (node,) = [one for one in local.rows("/scopes") if one["path"] == ALICE + "/"]

    assert 400 == refused.status
    assert node["tombstonedAt"] is not None
    assert ["Alice plays the violin"] == local.passages("violin")
    local.register(ALICE)
    local.remember("x", ALICE)


@pytest.mark.every_generation
def test_a_session_echoes_its_scopes_in_canonical_form(local: Spectron) -> None:
    local.register(ALICE, "team/a")

    session = local.ok("POST", "/sessions", {"scopes": [[ALICE, "team/a"]], "metadata": {"run": 7}})

    assert [["org/acme/user/alice/", "team/a/"]] == session["scopes"]


@pytest.mark.parametrize("body", [None, {}])
def test_a_session_without_a_body_is_in_the_callers_whole_region(local: Spectron, body: Any) -> None:
    assert [["/"]] == local.ok("POST", "/sessions", body)["scopes"]


@pytest.mark.every_generation
def test_turns_are_listed_verbatim_in_order_of_arrival_each_once(local: Spectron) -> None:
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


def test_a_page_has_100_turns_by_default_and_at_most_500(local: Spectron) -> None:
    messages = [{"role": "user", "content": f"message {number}"} for number in range(501)]
    session = local.ok("POST", "/facts/batch", {"messages": messages, "infer": "none"})["sessionId"]

    assert 100 == len(local.ok("GET", f"/sessions/{session}/turns")["turns"])
    assert 500 == len(local.ok("GET", f"/sessions/{session}/turns", limit=10_000)["turns"])


@pytest.mark.parametrize("query", [{"limit": "x"}, {"limit": "-1"}, {"offset": "1.5"}])
def test_an_invalid_limit_is_400(local: Spectron, query: dict[str, str]) -> None:
    session = local.ok("POST", "/sessions", {})["id"]

    assert 400 == local.call("GET", f"/sessions/{session}/turns", **query).status


@pytest.mark.every_generation
def test_deleting_a_session_removes_its_turns_and_passages_and_keeps_its_facts(local: Spectron) -> None:
    session = local.ok("POST", "/sessions", {})["id"]
    local.remember("Lives in Berlin", session_id=session)

    local.ok("DELETE", f"/sessions/{session}")

    assert 404 == local.call("GET", f"/sessions/{session}/turns").status
    assert 404 == local.call("DELETE", f"/sessions/{session}").status
    assert 403 == local.call("POST", "/facts", {"text": "x", "session_id": session}).status
    assert [] == local.passages("Berlin", includeDuplicates=True)
    assert [("Berlin", True)] == local.history("lives_in")


@pytest.mark.every_generation
def test_an_unknown_session_is_403_to_write_and_404_to_read(local: Spectron) -> None:
    assert 403 == local.call("POST", "/facts", {"text": "x", "session_id": "sess_none"}).status
    assert 404 == local.call("GET", "/sessions/sess_none/turns").status
    assert 400 == local.call("POST", "/sessions/sess_none/context", {"query": "x"}).status


@pytest.mark.every_generation
def test_infer_none_stores_turn_and_passage_without_facts(local: Spectron) -> None:
    made = local.remember("Lives in Berlin", infer="none")

    assert {"mode", "sessionId", "turnId", "chunkId"} == set(made)
    assert [{"id": made["chunkId"], "text": "Lives in Berlin", "source": "memory_chunk"}] == [
        {name: hit[name] for name in ("id", "text", "source")} for hit in local.recall("Berlin")
    ]
    assert [] == local.ok("GET", "/entities")["entities"]


@pytest.mark.every_generation
def test_infer_full_answers_with_the_ids_of_all_it_stored(local: Spectron) -> None:
    made = local.remember("Lives in Berlin")

    extraction = made["extraction"]
    (attribute,) = extraction["attributes"]
    assert made["turnId"] == extraction["turnId"]
    assert ("lives_in", "Berlin") == (attribute["key"], attribute["value"])
    assert {"user", "Berlin"} == {entity["name"] for entity in extraction["entities"]}
    assert {attribute["id"], made["chunkId"]} == {hit["id"] for hit in local.recall("where does the user live")}


def test_without_extraction_infer_full_answers_200_with_an_empty_extraction() -> None:
    with spectron(extraction=False) as local:
        made = local.remember("Lives in Berlin")

        assert [] == made["extraction"]["attributes"]
        assert ["Lives in Berlin"] == local.passages("Berlin")


@pytest.mark.every_generation
def test_a_preview_stores_nothing(local: Spectron) -> None:
    shown = local.remember("Lives in Berlin", infer="preview")

    assert shown["preview"] is True
    assert "Berlin" == shown["extraction"]["attributes"][0]["value"]
    assert [] == local.recall("Berlin")
    assert [] == local.ok("GET", "/entities")["entities"]
    assert 0 == local.ok("POST", "/fsck", {})["total"]


@pytest.mark.every_generation
def test_triples_become_attributes_and_relations(local: Spectron) -> None:
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


@pytest.mark.every_generation
def test_a_batch_stores_one_turn_per_message_and_extracts_once_or_per_message(local: Spectron) -> None:
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


def test_a_batch_with_a_bad_message_stores_nothing(local: Spectron) -> None:
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
        {"infer": "triples", "triples": [{"entity": {"type": "person", "name": "Bob"}, "key": "role"}, 5]},
        [],
        b"{",
        b'{"text": NaN}',
        b'{"text": "\\ud800"}',
        b'{"text": "\xff"}',
        b"[" * 100_000,
    ],
)
def test_a_bad_fact_is_400_and_stores_nothing(local: Spectron, body: Any) -> None:
    answer = local.call("POST", "/facts", body)

    assert 400 == answer.status
    assert answer.body["message"]
    assert 0 == local.ok("POST", "/fsck", {})["total"]


def test_too_many_labels_are_409(local: Spectron) -> None:
    answer = local.call("POST", "/facts", {"text": "x", "labels": [f"k{number}=v" for number in range(65)]})

    assert 409 == answer.status
    assert "labels" in answer.body["message"]


def test_a_long_text_is_split_into_passages_that_are_all_found(local: Spectron) -> None:
    sentences = [f"Sentence number {number} speaks of topic{number}." for number in range(200)]

    made = local.remember(" ".join(sentences), infer="none")

    hits = local.recall("topic0", mode="bm25")
    assert made["chunkId"] == hits[0]["id"]
    assert all(any(f"topic{number}." in text for text in local.passages(f"topic{number}")) for number in (0, 99, 199))


def test_a_text_without_a_single_letter_is_stored_too(local: Spectron) -> None:
    session = local.remember("🙂🙂", infer="none")["sessionId"]

    assert ["🙂🙂"] == [turn["content"] for turn in local.ok("GET", f"/sessions/{session}/turns")["turns"]]
    assert 200 == local.call("POST", "/query", {"query": "🙂"}).status
