"""One law for each way in which a source can be misread, tried on rows and files that nobody chose."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.mapping import load_mapping
from spectron_migrate.mem0.formats.files import FilesReader
from spectron_migrate.mem0.normalise import normalise
from spectron_migrate.mem0.unreadable import UnreadableFields
from spectron_migrate.records import Memory, Skipped
from tests.mem0.conftest import NOW
from tests.support.examples import examples

pytestmark = pytest.mark.slow

BUILT_IN = load_mapping(None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TIMES = st.sampled_from(["2025-03-01T10:00:00Z", "soon", "yesterday at noon", "0001-01-01T00:00:00Z", "2025-13-45", ""])
AT = "2025-03-01T10:00:00.000000Z"
LISTS_AND_OBJECTS = ["categories", "metadata"]
READABLE = ["created_at", "updated_at", "expiration_date", *LISTS_AND_OBJECTS, "state", "lifecycle_state"]


def memory(row: Any) -> Memory:
    result = normalise(row, now=NOW)
    assert isinstance(result, Memory), result
    return result


@settings(max_examples=examples(300), deadline=None)
@given(st.sampled_from(READABLE), JSON | TIMES)
def test_a_value_that_is_there_is_read_or_quoted_with_its_id(name: str, value: Any) -> None:
    """Only nothing, an empty text, list or object, and what languages write for a missing time may be quiet."""
    found = memory({"id": "m-17", "memory": "likes tea", name: value})
    unreadable = UnreadableFields()
    unreadable.add(found)
    notes = unreadable.notes()

    is_state = name in ("state", "lifecycle_state")
    was_read = found.state != "active" or _word(value) == "active" if is_state else bool(getattr(found, name))
    is_absent = value in ("", [], {}) or value is None or (isinstance(value, str) and value.startswith("0001-"))
    if was_read or is_absent:
        assert [] == notes or name in notes[0]
    else:
        assert 1 == len(notes), (value, found)
        assert f"`{name}` of 1 memory" in notes[0]
        assert "m-17" in notes[0]


def _word(value: Any) -> str:
    if isinstance(value, dict) and len(value) == 1:
        [value] = value.values()
    return str(value).strip().lower().rpartition(".")[2]


OWNERS = st.dictionaries(
    st.sampled_from(["user_id", "agent_id", "run_id"]), st.sampled_from(["dana", "ops bot", "r-1"]), min_size=1
)
OWN = st.dictionaries(
    st.sampled_from(["actor_id", "role", "attributed_to", "expiration_date"]),
    st.sampled_from(["assistant", "2099-01-01"]),
)
METADATA = st.dictionaries(st.sampled_from(["topic", "seq", "userName", "tags"]), st.integers() | st.text(max_size=4))
Spelling = Callable[[dict[str, str], dict[str, str], dict[str, Any]], Any]
BASE = {"hash": "9f2c", "created_at": "2025-03-01T10:00:00+00:00", "updated_at": "2025-03-02T10:00:00+00:00"}
TYPESCRIPT = {"created_at": "createdAt", "updated_at": "updatedAt", "attributed_to": "attributedTo"}


def _of_get_all(owners: dict[str, str], own: dict[str, str], more: dict[str, Any]) -> Any:
    return {"id": "m1", "memory": "signs off", **BASE, **owners, **own, "metadata": more or None}


def _of_search(owners: dict[str, str], own: dict[str, str], more: dict[str, Any]) -> Any:
    return {**_of_get_all(owners, own, more), "score": 0.5, "score_details": {"bm25_score": 0}}


def _of_the_admin_listing(owners: dict[str, str], own: dict[str, str], more: dict[str, Any]) -> Any:
    kept = {name: value for name, value in own.items() if name != "expiration_date"}
    expiry = {name: value for name, value in own.items() if name == "expiration_date"}
    ids = {name: owners.get(name) for name in ("user_id", "agent_id", "run_id")}
    metadata = {**more, **kept, "text_lemmatized": "sign off"}
    return {"id": "m1", "memory": "signs off", **BASE, **ids, **expiry, "metadata": metadata}


def _payload(owners: dict[str, str], own: dict[str, str], more: dict[str, Any]) -> dict[str, Any]:
    return {"data": "signs off", "text_lemmatized": "sign off", **BASE, **owners, **own, **more}


def _of_typescript(owners: dict[str, str], own: dict[str, str], more: dict[str, Any]) -> Any:
    payload = {TYPESCRIPT.get(name, name): value for name, value in _payload(owners, own, more).items()}
    payload["textLemmatized"] = payload.pop("text_lemmatized")
    return {"id": "m1", "payload": payload}


SHAPES: list[Spelling] = [
    _of_get_all,
    _of_search,
    _of_the_admin_listing,
    _of_typescript,
    lambda *given: {"id": "m1", "payload": _payload(*given)},
    lambda *given: {"id": "m1", "payload": json.dumps(_payload(*given))},
    lambda *given: {"_id": "m1", "payload": _payload(*given), "embedding": [0.5]},
    lambda *given: {"_id": "m1", "_source": {"metadata": _payload(*given), "vector": [0.5]}},
    lambda *given: {"_id": "made", "_source": {"id": "m1", "payload": _payload(*given)}},
    lambda *given: {"id": "m1", "metadata": _payload(*given)},
    lambda *given: {"id": "m1", **_payload(*given)},
    lambda *given: {"kind": "record", "id": "m1", "source_payload": _payload(*given)},
]


@settings(max_examples=examples(150), deadline=None)
@given(OWNERS, OWN, METADATA)
def test_a_memory_is_the_same_and_goes_to_the_same_scope_from_every_source(
    owners: dict[str, str], own: dict[str, str], more: dict[str, Any]
) -> None:
    wanted = memory(SHAPES[0](owners, own, more))
    names = ("id", "memory", *("user_id", "agent_id", "run_id", "actor_id", "role", "metadata", "hash"))
    names += ("created_at", "updated_at", "text_at", "expiration_date", "state")
    for shape in SHAPES[1:]:
        found = memory(shape(owners, own, more))
        assert {name: getattr(wanted, name) for name in names} == {name: getattr(found, name) for name in names}
        assert wanted.extra.get("attributed_to") == found.extra.get("attributed_to")
        assert BUILT_IN.map_memory(wanted) == BUILT_IN.map_memory(found)


SENTENCE = "dana keeps bees near the mill {}"
OWN_NAMES = ["memory", "data", "payload"]
TEXT_NAMES = ["memory", "data", "text", "content", "fact", "note", "value", "summary", "messages", "payload"]
LIST_NAMES = [
    "results",
    "memories",
    "data",
    "items",
    "records",
    "archive",
    "deleted",
    "old",
    "dana",
    "page",
    "relation",
]


@st.composite
def documents(draw: st.DrawFn) -> tuple[Any, list[str]]:
    """A value with envelopes in envelopes around rows, good ones and others; and every sentence in a row."""
    numbers, sentences = count(), []

    def row(names: list[str]) -> dict[str, Any]:
        sentence = SENTENCE.format(f"#{next(numbers)}#")
        sentences.append(sentence)
        name = draw(st.sampled_from(names))
        value: Any = sentence
        if name == "payload":
            value = {
                draw(st.sampled_from(names[:2] if names is OWN_NAMES else [*OWN_NAMES, "said"])): sentence,
                "user_id": "dana",
            }
        elif name == "messages":
            value = [{"role": "user", "content": sentence}]
        elif name == "memory" and draw(st.integers(0, 5)) == 0:
            value = {"text": sentence}
        ids = (
            {} if draw(st.integers(0, 5)) == 0 else {draw(st.sampled_from(["id", "_id", "memory_id"])): f"m{sentence}"}
        )
        more = {"user_id": "dana"} if draw(st.booleans()) else {}
        return dict(draw(st.permutations(list({**ids, name: value, **more}.items()))))

    def rows(names: list[str]) -> list[Any]:
        return [row(names) for _ in range(draw(st.integers(1, 3)))]

    def envelope(depth: int, names: list[str]) -> Any:
        named: dict[str, Any] = {"status": "ok"} if draw(st.booleans()) else {}
        lists = draw(st.lists(st.sampled_from(LIST_NAMES), min_size=1, max_size=3, unique=True))
        if len(lists) > 1:  # beside rows that are read, only the names of a text say that a list holds memories
            names = OWN_NAMES
        for name in lists:
            named[name] = envelope(depth - 1, names) if depth and draw(st.booleans()) else rows(names)
        return dict(draw(st.permutations(list(named.items()))))

    top = draw(st.sampled_from(["rows", "envelope", "envelopes", "lines"]))
    if top == "rows":
        return rows(TEXT_NAMES), sentences
    if top == "envelopes":
        return [envelope(1, OWN_NAMES) for _ in range(draw(st.integers(1, 2)))], sentences
    if top == "lines":
        return tuple(rows(TEXT_NAMES)), sentences
    return envelope(2, TEXT_NAMES), sentences


@settings(max_examples=examples(300), deadline=None)
@given(documents())
def test_every_sentence_in_a_row_is_in_a_memory_or_the_reading_is_not_complete(document: tuple[Any, list[str]]) -> None:
    from spectron_migrate.errors import InputError

    value, sentences = document
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.json"
        path.write_text("\n".join(map(json.dumps, value)) if isinstance(value, tuple) else json.dumps(value))
        try:
            with FilesReader([path], now=NOW) as reader:
                found = list(reader.rows())
        except InputError:
            return  # refused as a whole
    said = "\n".join(
        json.dumps([row.memory, row.metadata, row.extra]) if isinstance(row, Memory) else "" for row in found
    )
    lost = [sentence for sentence in sentences if sentence not in said]
    if lost:
        assert any(isinstance(row, Skipped) and row.has_content for row in found), (lost, found)


COUNTERS = ["count", "total", "total_count", "size", "num_results", "length", "total_results", "totalCount", "n"]


@settings(max_examples=examples(150), deadline=None)
@given(
    st.integers(1, 30),
    st.lists(st.sampled_from(COUNTERS), max_size=3, unique=True),
    st.sampled_from(["", "meta", "pagination", "response_metadata", "data"]),
    st.sampled_from(["results", "memories", "data", "items"]),
    st.sampled_from([{}, {"has_more": False}, {"next": None, "previous": None}, {"page": 1, "total_pages": 1}]),
)
def test_counters_that_are_the_page_s_own_length_prove_nothing(
    size: int, counters: list[str], place: str, name: str, more: dict[str, Any]
) -> None:
    rows = [{"id": f"m{number}", "memory": f"note {number}", "user_id": "dana"} for number in range(size)]
    said: dict[str, Any] = {**dict.fromkeys(counters, size), **more}
    page: dict[str, Any] = {name: rows, **({place: said} if place and place != name else said)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.json"
        path.write_text(json.dumps(page))
        with FilesReader([path], now=NOW) as reader:
            assert size == sum(isinstance(row, Memory) for row in reader.rows())
            assert not reader.missing()
            assert reader.unproven
            assert reader.native_count() is None
            if size == 20:
                assert any("truncates" in note for note in reader.notes)
