"""Any row of any Mem0 becomes a memory or is skipped with a reason; nothing raises, nothing is invented."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.mem0.normalise import (
    ENTITY_ROW,
    NO_ID,
    NO_TEXT,
    NOT_AN_OBJECT,
    ODD_OWNER,
    TEXT_WITHOUT_ID,
    UNKNOWN_TEXT,
    normalise,
)
from spectron_migrate.records import Memory, Skipped
from tests.mem0.conftest import DATA, NOW, VERSIONS, sample_rows

pytestmark = pytest.mark.slow

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        *("id", "memory", "data", "text", "content", "metadata", "hash", "role", "state", "categories", "extra"),
        *("user_id", "userId", "agent_id", "run_id", "session_id", "app_id", "payload", "source_payload", "score"),
        *("created_at", "createdAt", "updated_at", "expiration_date", "lifecycle_state", "replaced_by"),
        *("entity_type", "linked_memory_ids", "text_at_source", "as_given"),
    ]
)
ROWS = st.dictionaries(NAMES | st.text(max_size=5), JSON, max_size=10)


def memory(row: Any) -> Memory:
    result = normalise(row, now=NOW)
    assert isinstance(result, Memory), result
    return result


def point(**payload: Any) -> dict[str, Any]:
    return {"id": "m1", "payload": {"data": "likes tea", **payload}}


def item(**values: Any) -> dict[str, Any]:
    return {"id": "m1", "memory": "likes tea", **values}


def check_fields(result: Memory) -> None:
    """The fields are of the types that `Memory` says: a dump is written without another look at them."""
    assert result.id
    assert isinstance(result.memory, str)
    for name, value in result.to_json().items():
        if name not in ("metadata", "extra", "categories", "history_row"):
            assert value is None or isinstance(value, str), name
    assert result.history_row is None or isinstance(result.history_row, int)


@given(JSON | ROWS)
def test_nothing_raises_and_every_result_is_well_formed(row: Any) -> None:
    result = normalise(row, now=NOW)

    if isinstance(result, Skipped):
        assert result.reason
        return
    check_fields(result)
    assert result.text_at in (result.created_at, result.updated_at)


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=6), st.text())
def test_every_value_of_a_payload_is_in_the_memory(metadata: dict[str, Any], text: str) -> None:
    result = normalise({"id": "m1", "payload": {**metadata, "data": text}}, now=NOW)

    if isinstance(result, Skipped):
        assert ENTITY_ROW == result.reason
        return
    assert text == result.memory
    known = {field.name for field in fields(Memory)} | {"data", "attributed_to", "text_lemmatized"}
    known |= {name.split("_")[0] + "".join(word.title() for word in name.split("_")[1:]) for name in known}
    left = {name: value for name, value in metadata.items() if name not in known}
    assert {**left, **result.metadata} == dict(result.metadata)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_payloads_of_every_version_are_read_completely(version: str) -> None:
    for memory_id, payload in sample_rows(version).items():
        result = memory({"id": memory_id, "payload": payload})

        again: dict[str, Any] = {
            **result.metadata,
            **{name: value for name, value in result.extra.items() if name != "as_given"},
            "data": result.memory,
            "hash": result.hash,
            "user_id": result.user_id,
            "agent_id": result.agent_id,
            "run_id": result.run_id,
            "actor_id": result.actor_id,
            "role": result.role,
            "expiration_date": result.expiration_date,
        }
        times = {"created_at", "updated_at"}
        assert {name: value for name, value in payload.items() if name not in times} == {
            name: again[name] for name in payload if name not in times
        }
        assert {name for name in again if again[name] is not None} <= set(payload)
        assert result.created_at is not None


def test_a_row_of_get_all_and_its_payload_are_the_same_memory() -> None:
    payloads = sample_rows("2.2.1")
    answers = json.loads((DATA / "2.2.1-qdrant" / "get_all_alice_show_expired.json").read_text("utf-8"))["results"]
    assert answers
    for answer in answers:
        of_answer = memory(answer)
        of_payload = memory({"id": answer["id"], "payload": payloads[answer["id"]]})
        result = of_payload.to_json() | {"extra": {}}
        assert result == of_answer.to_json() | {"extra": {}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, NOT_AN_OBJECT),
        ([], NOT_AN_OBJECT),
        ({}, NO_ID),
        ({"memory": "no id"}, TEXT_WITHOUT_ID),
        ({"id": "", "memory": "empty id"}, TEXT_WITHOUT_ID),
        ({"id": "m1"}, NO_TEXT),
        ({"id": "m1", "memory": None}, NO_TEXT),
        (point(data=None), NO_TEXT),
        (point(data=None, content="somebody's metadata"), NO_TEXT),
        (point(entity_type="person", linked_memory_ids=["m2"]), ENTITY_ROW),
        (point(entity_type="person", linkedMemoryIds=["m2"]), ENTITY_ROW),
        (point(entityType="person", linkedMemoryIds=["m2"]), ENTITY_ROW),
    ],
)
def test_a_row_that_is_not_a_memory_is_skipped_with_the_reason(row: Any, reason: str) -> None:
    result = normalise(row, now=NOW)

    assert isinstance(result, Skipped)
    assert reason == result.reason


def test_metadata_may_be_named_like_the_entity_store() -> None:
    assert {"entity_type": "person"} == memory(point(entity_type="person")).metadata


@pytest.mark.parametrize("text", ["", " ", "\x00\x1b[31m", "\ud800 half", "x" * 1_000_000, "line\nline\u2028"])
def test_a_text_is_kept_to_the_letter(text: str) -> None:
    assert text == memory(point(data=text)).memory
    assert text == memory(item(memory=text)).memory


def test_ids_that_differ_in_case_or_dashes_alone_are_two_memories() -> None:
    """Most stores compare ids as text, so both rows can exist there, and Mem0 finds neither by the other's id."""
    given = "5C1F0A51-0001-4000-8000-00000000000A"
    for spelled in (given, given.lower(), given.replace("-", ""), f"{{{given}}}"):
        assert spelled == memory({"id": spelled, "memory": "likes tea"}).id


@pytest.mark.parametrize("name", ["user_id", "agent_id", "run_id"])
@pytest.mark.parametrize("given", [" alice ", "anna maria", "auth0|42", "Zoë", "*", "0042"])
def test_ids_stay_the_exact_strings_they_are(name: str, given: str) -> None:
    assert given == getattr(memory(point(**{name: given})), name)
    assert given == getattr(memory(item(**{name: given})), name)


@pytest.mark.parametrize(
    ("given", "expected"), [(42, "42"), (-1, "-1"), (4.5, "4.5"), (1e22, "1" + "0" * 22), (True, "true")]
)
def test_a_number_as_id_becomes_its_digits_and_the_original_is_kept(given: Any, expected: str) -> None:
    row = memory(point(user_id=given))

    assert expected == row.user_id
    assert {"user_id": given} == row.extra["as_given"]


@pytest.mark.parametrize("inner", [{"text": "likes tea"}, {"content": "likes tea", "lang": "en"}])
def test_a_text_inside_an_object_is_the_text(inner: dict[str, str]) -> None:
    row = memory(item(memory=inner))

    assert "likes tea" == row.memory
    assert {"memory": inner} == row.extra["as_given"]


def test_an_empty_text_is_no_id_and_kept() -> None:
    row = memory(point(user_id=""))

    assert row.user_id is None
    assert {"user_id": ""} == row.extra["as_given"]


@pytest.mark.parametrize("name", ["user_id", "agent_id", "run_id"])
@pytest.mark.parametrize("given", [["a"], ["a", "b"], {"in": ["a"]}])
def test_a_memory_whose_owner_cannot_be_read_is_not_given_to_its_other_owners(name: str, given: Any) -> None:
    others = {"user_id": "alice", "agent_id": "bot", "run_id": "r1"}
    for row in (point(**{**others, name: given}), {"id": "m1", "memory": "likes tea", **others, name: given}):
        assert Skipped("m1", f"{ODD_OWNER}: {name}", has_content=True) == normalise(row, now=NOW)


def test_metadata_named_like_fields_of_an_answer_stays_metadata() -> None:
    named = {
        "id": 7,
        "memory": "m",
        "text": "t",
        "content": "c",
        "metadata": {"a": 1},
        "state": "deleted",
        "app_id": "a",
    }

    result = memory(point(**named))

    assert "m1" == result.id
    assert "likes tea" == result.memory
    assert "active" == result.state
    assert result.app_id is None
    assert named == result.metadata


def test_camel_case_fields_are_read_as_the_same_fields() -> None:
    camel = memory(
        {
            "id": "m1",
            "payload": {
                "data": "likes tea",
                "userId": "alice",
                "agentId": "bot",
                "runId": "r1",
                "createdAt": "2025-01-02T03:04:05.678Z",
                "updatedAt": "2025-01-03T03:04:05.678Z",
                "textLemmatized": "like tea",
                "attributedTo": "user",
            },
        }
    )

    assert "alice" == camel.user_id
    assert "bot" == camel.agent_id
    assert "r1" == camel.run_id
    assert "2025-01-02T03:04:05.678000Z" == camel.created_at
    assert "2025-01-03T03:04:05.678000Z" == camel.updated_at
    assert {"text_lemmatized": "like tea", "attributed_to": "user"} == camel.extra
    assert {} == camel.metadata


def test_with_both_spellings_the_second_stays_metadata() -> None:
    result = memory(point(created_at="2025-01-02T00:00:00+00:00", createdAt="mine"))

    assert "2025-01-02T00:00:00.000000Z" == result.created_at
    assert {"createdAt": "mine"} == result.metadata


def test_camel_case_metadata_keeps_its_names() -> None:
    metadata = {"appId": "a", "sessionId": "s", "replacedBy": "m2", "lifecycleState": "archived"}

    result = memory(point(**metadata))

    assert metadata == result.metadata
    assert "active" == result.state
    assert result.run_id is None


def test_a_platform_item_is_read_completely() -> None:
    result = memory(
        {
            "id": "m1",
            "memory": "likes tea",
            "user_id": "alice",
            "agent_id": None,
            "app_id": "shop",
            "session_id": "s1",
            "metadata": {"k": 1},
            "categories": ["food", "drinks"],
            "structured_attributes": {"day": 3},
            "replaced_by": None,
            "synthesized": False,
            "expiration_date": "2099-01-01",
            "created_at": "2025-01-02T03:04:05.678901-08:00",
            "updated_at": "2025-02-02T03:04:05-08:00",
        }
    )

    assert "shop" == result.app_id
    assert "s1" == result.run_id
    assert ("food", "drinks") == result.categories
    assert "2025-01-02T11:04:05.678901Z" == result.created_at
    assert "2025-02-02T11:04:05.000000Z" == result.updated_at
    assert "2099-01-01" == result.expiration_date
    assert "active" == result.state
    assert "updated_at" == result.text_at_source
    assert {"structured_attributes": {"day": 3}, "synthesized": False} == result.extra


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({}, "active"),
        ({"state": "active"}, "active"),
        ({"state": "paused"}, "archived"),
        ({"state": "archived"}, "archived"),
        ({"state": "deleted"}, "deleted"),
        ({"lifecycle_state": "archived"}, "archived"),
        ({"lifecycleState": "expired"}, "expired"),
        ({"replaced_by": "m2"}, "replaced"),
        ({"deleted_at": "2025-01-01T00:00:00Z"}, "deleted"),
        ({"expiration_date": "2020-01-01"}, "expired"),
        ({"expiration_date": "2026-11-23"}, "active"),
        ({"expiration_date": "2026-11-22"}, "expired"),
        ({"expiration_date": "2026-11-22T23:59:59Z"}, "expired"),
        ({"expiration_date": "2026-11-23T00:00:01Z"}, "active"),
        ({"expiration_date": "next summer"}, "active"),
        ({"state": "something new"}, "active"),
    ],
)
def test_the_state_is_that_of_mem0_now(values: dict[str, Any], state: str) -> None:
    assert state == memory(item(**values)).state


@pytest.mark.parametrize(
    ("given", "expected", "kept"),
    [
        ("2025-01-02T03:04:05.678901+00:00", "2025-01-02T03:04:05.678901Z", False),
        ("2025-01-02T03:04:05.678901-08:00", "2025-01-02T11:04:05.678901Z", False),
        ("2025-01-02T03:04:05Z", "2025-01-02T03:04:05.000000Z", False),
        ("2025-01-02 03:04:05+05:30", "2025-01-01T21:34:05.000000Z", False),
        ("2025-01-02T03:04:05", "2025-01-02T03:04:05.000000Z", True),
        ("2025-01-02", "2025-01-02T00:00:00.000000Z", True),
        ("2025-01-02T03:04:05.123456789Z", "2025-01-02T03:04:05.123456Z", True),
        (1735787045, "2025-01-02T03:04:05.000000Z", True),
        (1735787045.5, "2025-01-02T03:04:05.500000Z", True),
        (1735787045678, "2025-01-02T03:04:05.678000Z", True),
        (1735787045678901, "2025-01-02T03:04:05.678901Z", True),
        ("1735787045", "2025-01-02T03:04:05.000000Z", True),
        (0, "1970-01-01T00:00:00.000000Z", True),
        ("yesterday", None, True),
        ("", None, True),
        (True, None, True),
        ([2025], None, True),
        pytest.param(10**400, None, True, id="huge"),
        ("0001-01-01T00:00:00+05:00", None, True),
        (None, None, False),
    ],
)
def test_a_time_is_converted_to_utc_and_an_assumption_keeps_the_original(
    given: Any, expected: str | None, kept: bool
) -> None:
    row = memory(point(created_at=given))

    assert expected == row.created_at
    assert kept == ("as_given" in row.extra)
    if kept:
        assert given == row.extra["as_given"]["created_at"]


def test_the_servers_list_of_everything_is_read_with_role_and_metadata_apart() -> None:
    rows = json.loads((DATA / "server-2.2.1" / "get_memories_all_admin.json").read_text("utf-8"))["results"]
    scoped = json.loads((DATA / "server-2.2.1" / "get_memories_alice.json").read_text("utf-8"))["results"]
    everybody = {row["id"]: memory(row) for row in rows}

    for row in scoped:
        result, same = memory(row), everybody[row["id"]]
        assert result.to_json() | {"extra": {}} == same.to_json() | {"extra": {}}


def test_a_line_of_a_dump_is_read_back_unchanged() -> None:
    result = memory(point(user_id=42, topic="tea"))

    assert result == normalise(json.loads(json.dumps(result.to_json())), now=NOW)


@pytest.mark.parametrize("name", [field.name for field in fields(Memory) if field.name not in ("metadata", "extra")])
def test_what_looks_like_a_line_of_a_dump_and_has_a_value_of_another_type_is_a_row(name: str) -> None:
    for odd in (1e16, ["x"], {"x": 1.5}, True):
        result = normalise(memory(point(user_id="dana")).to_json() | {name: odd}, now=NOW)

        if isinstance(result, Memory):
            check_fields(result)


def test_unknown_fields_of_an_item_are_kept_but_not_those_of_one_answer() -> None:
    result = memory(item(score=0.5, score_details={"a": 1}, owner="o", as_given="theirs", user_id=1))

    assert {"owner": "o", "as_given": {"user_id": 1, "as_given": "theirs"}} == result.extra


WORDY = [
    {"id": "m1", "fact": "likes tea", "user_id": "alice"},
    {"id": "m1", "payload": {"fact": {"value": "likes tea"}}},
    {"error": "rate limit reached", "status": 429},
    {"detail": ["Not found."], "message": "no memory here"},
    "likes tea",
    {"id": "m1", "note": "お茶が好きです"},
]
QUIET = [
    {"id": "m1"},
    {"id": "m1", "memory": None, "note": "words beside an empty text"},
    {"id": "m1", "payload": {"data": None, "note": "words beside an empty text"}},
    {"id": "m1", "status": "deleted", "created_at": "2025-01-02 03:04:05 UTC", "at": "Sun, 01 Mar 2026 10:00:00 GMT"},
    {"status": "ok", "version": "2.0", "embedding": ["a b"]},
    5,
    None,
]


@pytest.mark.parametrize("row", WORDY, ids=str)
def test_a_row_of_a_file_with_words_in_an_unknown_field_is_missed(row: Any) -> None:
    result = normalise(row, now=NOW)

    assert isinstance(result, Skipped)
    assert result.has_content
    if isinstance(row, dict):
        assert result.reason.startswith(UNKNOWN_TEXT)


@pytest.mark.parametrize("row", QUIET, ids=str)
def test_a_row_without_any_text_is_skipped_quietly(row: Any) -> None:
    result = normalise(row, now=NOW)

    assert isinstance(result, Skipped)
    assert not result.has_content


LISTED: list[dict[str, Any]] = [
    {"actor_id": "ops-bot", "role": "assistant", "attributed_to": "assistant"},
    {"actor_id": "ops-bot", "agent_id": "helper"},
    {"role": "user", "run_id": "r1"},
]


@pytest.mark.parametrize("own", LISTED, ids=str)
@pytest.mark.parametrize("has_lemmas", [True, False])
def test_a_memory_has_one_shape_whichever_listing_it_came_from(own: dict[str, Any], has_lemmas: bool) -> None:
    """The server's listing of all memories puts into the metadata what its listing of one owner has beside it."""
    at = {"created_at": "2025-01-02T03:04:05+00:00", "updated_at": "2025-01-02T03:04:05+00:00"}
    base = {"id": "m1", "memory": "signs off", "hash": "h", **at, "user_id": "team"}
    ids = {"user_id": "team", "agent_id": own.get("agent_id"), "run_id": own.get("run_id")}
    lemmas = {"text_lemmatized": "sign off"} if has_lemmas else {}
    kept = {name: value for name, value in own.items() if name not in ("agent_id", "run_id")}

    of_one_owner = memory({**base, **own, "metadata": {"topic": "work"}})
    of_all = memory({**base, **ids, "metadata": {**lemmas, **kept, "topic": "work"}})
    in_the_store = memory({"id": "m1", "payload": {"data": "signs off", **base, **own, **lemmas, "topic": "work"}})

    for found in (of_all, in_the_store):
        for name in ("user_id", "agent_id", "run_id", "actor_id", "role", "hash", "metadata", "text_at"):
            if found is in_the_store and name == "metadata":
                continue
            assert getattr(of_one_owner, name) == getattr(found, name), name


@given(st.lists(st.text(alphabet="abc, ", min_size=1, max_size=4).map(str.strip).filter(bool), max_size=3))
def test_categories_are_read_as_a_list_a_text_of_json_objects_and_names_with_commas(names: list[str]) -> None:
    plain = [name for name in names if "," not in name]
    for spelled in (plain, json.dumps(plain), [{"name": name} for name in plain], ", ".join(plain)):
        assert tuple(plain) == memory(item(categories=spelled)).categories


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3))
def test_metadata_is_read_as_an_object_and_as_a_text_of_json(metadata: dict[str, Any]) -> None:
    metadata = {f"k{name}": value for name, value in metadata.items()}
    for spelled in (metadata, json.dumps(metadata), json.dumps(metadata, indent=1)):
        assert metadata == memory(item(metadata=spelled)).metadata
