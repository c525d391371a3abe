"""Rows come out of JSON of any size and shape one at a time, and damage is found with its line."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.formats import json_stream
from spectron_migrate.mem0.formats.json_stream import read_items

pytestmark = pytest.mark.slow

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["id", "memory", "x", "é"]), VALUES, max_size=3), max_size=6)
SHAPES = {
    "list": lambda rows, **how: json.dumps(rows, **how),
    "results": lambda rows, **how: json.dumps({"count": 3, "results": rows, "relations": [{"r": 1}]}, **how),
    "memories": lambda rows, **how: json.dumps({"user": {"id": "u"}, "memories": rows, "after": [1]}, **how),
    "records": lambda rows, **how: json.dumps({"kind": "k", "records": rows}, **how),
    "lines": lambda rows, **how: "\n".join(json.dumps(row, **how) for row in rows),
    "pages": lambda rows, **how: "\n".join(json.dumps({"results": [row]}, **how) for row in rows),
    "mixture": lambda rows, **how: "\n".join(
        json.dumps([row] if at % 2 else row, **how) for at, row in enumerate(rows)
    ),
}


def rows_of(text: str | bytes, name: str = "file.json") -> list[Any]:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return [item.value for item in read_items(lambda: io.BytesIO(data), name) if item.kind == "row"]


@given(ROWS, st.sampled_from(sorted(SHAPES)), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_every_format_yields_its_rows_whatever_the_size_of_a_read(
    rows: list[Any], shape: str, chunk: int, indent: int | None, ascii_only: bool
) -> None:
    text = SHAPES[shape](rows, indent=indent, ensure_ascii=ascii_only) or "[]"

    with mock.patch.object(json_stream, "_CHUNK", chunk):
        assert rows == rows_of(text)


@given(ROWS.filter(bool), st.sampled_from(sorted(SHAPES)), st.integers(1, 40), st.data())
def test_a_file_truncated_anywhere_is_never_taken_for_a_complete_one(
    rows: list[Any], shape: str, chunk: int, data: st.DataObject
) -> None:
    text = SHAPES[shape](rows)
    cut = data.draw(st.integers(0, len(text) - 1))

    with mock.patch.object(json_stream, "_CHUNK", chunk):
        try:
            found = rows_of(text[:cut])
        except InputError:
            return
    assert shape in ("lines", "pages", "mixture")  # there every line is whole by itself
    assert found == rows[: len(found)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": 1},\n {"id": 2', "file.json, line 2 is truncated"),
        ('[{"id": 1},\n {"id": "abc', "file.json, line 2 is truncated"),
        ('[{"id": 1},\n {"id" 2}]', "file.json, line 2 is not JSON: Expecting ':' delimiter"),
        ("[\n1 2]", "file.json, line 2 is not JSON: ']' expected, '2' found"),
        ("\n\nhello", "file.json, line 3 is not JSON: Expecting value"),
        ("3", "file.json, line 1 is JSON, but not a dump of Mem0"),
        ("null", "file.json, line 1 is JSON, but not a dump of Mem0"),
        ('"text"', "file.json, line 1 is JSON, but not a dump of Mem0"),
        ("[]\n,", "file.json, line 2 is not JSON: a comma with nothing after it"),
        ('{"id": 1},\n{"id": 2},\n', "file.json, line 1 is not JSON: a comma with nothing after it"),
        ("id,memory\n1,tea", "file.json, line 1 is not JSON: Expecting value"),
        ("[" * 100_000, "file.json, line 1 holds a value that cannot be read"),
        ("[1" + "0" * 5000 + "]", "file.json, line 1 holds a value that cannot be read"),
    ],
)
@pytest.mark.parametrize("chunk", [3, 1 << 18])
def test_damage_is_reported_with_its_line(text: str, message: str, chunk: int) -> None:
    with mock.patch.object(json_stream, "_CHUNK", chunk), pytest.raises(InputError) as error:
        rows_of(text)

    assert error.value.message.startswith(message)


def test_bytes_that_are_not_text_are_reported() -> None:
    with pytest.raises(InputError) as error:
        rows_of(b'[{"id": "\xff\xfe\xfd"}]')

    assert "is not text" in error.value.message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_marks_at_the_beginning_are_understood(encoding: str) -> None:
    assert [{"id": "Zoë"}] == rows_of('[{"id": "Zoë"}]'.encode(encoding))


def test_raw_control_characters_and_half_surrogates_are_data() -> None:
    assert [{"a": "\x00\n\t\x1b"}, {"a": "\ud800"}] == rows_of('[{"a": "\x00\n\t\x1b"}, {"a": "\\ud800"}]')


def test_fields_beside_the_rows_come_with_them() -> None:
    text = json.dumps({"user": {"id": "u"}, "memories": [{"id": "m"}], "count": 1})

    for chunk in (2, 1 << 18):
        with mock.patch.object(json_stream, "_CHUNK", chunk):
            row, envelope = list(read_items(lambda: io.BytesIO(text.encode()), "f"))
        assert row.head is not None
        assert {"id": "u"} == row.head["user"]
        assert "envelope" == envelope.kind
        assert {"user": {"id": "u"}, "count": 1} == envelope.value


def big_file(rows: int, shape: str) -> bytes:
    lines = [json.dumps({"id": str(at), "memory": "x" * 300}) for at in range(rows)]
    text = {
        "list": lambda: f"[{','.join(lines)}]",
        "envelope": lambda: f'{{"count": 1, "results": [{",".join(lines)}]}}',
        "lines": lambda: "\n".join(lines),
    }[shape]()
    return text.encode()


@pytest.mark.parametrize("shape", ["list", "envelope", "lines"])
def test_memory_does_not_grow_with_the_file(shape: str) -> None:
    def peak(rows: int) -> int:
        data = big_file(rows, shape)
        tracemalloc.start()
        assert rows == sum(1 for item in read_items(lambda: io.BytesIO(data), "f") if item.kind == "row")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(16_000) < 1.2 * peak(4_000)


@pytest.mark.parametrize("name", ["memory", "id", "user_id", "payload", "data", "metadata", "hash"])
@pytest.mark.parametrize("chunk", [4, 1 << 18])
def test_a_field_that_a_row_has_twice_is_refused_with_its_line(name: str, chunk: int) -> None:
    """A decoder keeps the last one: a text, an owner or an id would be lost without a word."""
    text = f'[{{"id": "m0", "memory": "a"}},\n {{"id": "m1", "memory": "b", "{name}": 1, "{name}": 2}}]'

    with mock.patch.object(json_stream, "_CHUNK", chunk), pytest.raises(InputError) as refused:
        list(read_items(lambda: io.BytesIO(text.encode()), "file"))

    assert "file, line 2 " in refused.value.message
    assert f"{name!r} twice" in refused.value.message


@pytest.mark.parametrize("chunk", [4, 1 << 18])
def test_two_lists_of_one_name_are_both_read_and_equal_or_unknown_fields_may_be_repeated(chunk: int) -> None:
    row = '{"id": "m%d", "memory": "a", "memory": "a", "color": 1, "color": 2}'
    text = f'{{"results": [{row % 1}], "count": 1, "results": [{row % 2}]}}'

    with mock.patch.object(json_stream, "_CHUNK", chunk):
        items = list(read_items(lambda: io.BytesIO(text.encode()), "file"))

    assert ["m1", "m2"] == [item.value["id"] for item in items if item.kind == "row"]


@pytest.mark.parametrize("chunk", [3, 1 << 18])
def test_a_name_that_stands_twice_drops_no_rows(chunk: int) -> None:
    first, second = {"id": "m1", "memory": "likes tea"}, {"id": "m2", "memory": "has a cat"}
    text = f'{{"alice": [{json.dumps(first)}], "bob": [], "alice": [{json.dumps(second)}]}}'

    with mock.patch.object(json_stream, "_CHUNK", chunk):
        assert [first, second] == rows_of(text)
    with pytest.raises(InputError, match="'notes' twice"):
        rows_of('[{"id": "m1", "memory": "likes tea", "notes": ["a"], "notes": ["b"]}]')


@pytest.mark.parametrize("chunk", [3, 1 << 18])
@pytest.mark.parametrize("depth", [1, 7, 20, 60])
def test_rows_are_found_however_deep_they_are(depth: int, chunk: int) -> None:
    row = {"id": "m1", "memory": "likes tea"}
    value: Any = {"results": [row]}
    for _ in range(depth):
        value = {"inner": value}

    with mock.patch.object(json_stream, "_CHUNK", chunk):
        assert [row] == rows_of(json.dumps(value))


@pytest.mark.parametrize("depth", [7, 20, 60, 80])
def test_rows_beside_rows_are_read_or_named_however_deep_they_are(depth: int) -> None:
    value: Any = [{"id": "m2", "memory": "has a cat"}]
    for _ in range(depth):
        value = {"inner": value}
    text = json.dumps({"results": [{"id": "m1", "memory": "likes tea"}], "other": value})

    kinds = [item.kind for item in read_items(lambda: io.BytesIO(text.encode()), "file.json")]

    assert ["row", "envelope", "left_out"] == kinds
