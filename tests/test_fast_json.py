"""Rows have one spelling, whichever library wrote or read them."""

from __future__ import annotations

import json
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.fast_json import canonical, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class Colour(Enum):
    RED = 1


def by_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@given(VALUES)
def test_values_have_the_spelling_of_the_standard_library(value: Any) -> None:
    assert by_json(value) == canonical(value)
    assert value == loads(canonical(value))


@pytest.mark.parametrize(
    "value",
    [1e-5, 1e16, -0.0, 2**64, -(2**63) - 1, 10**400, {1: 2, 3: 4}, {"b": (1, 2), "a": "\x00\x7f\u2028é"}, [[[]]]],
)
def test_what_the_libraries_spell_differently_is_spelled_as_before(value: Any) -> None:
    assert by_json(value) == canonical(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), UUID(int=1), datetime(2026, 1, 1), Colour.RED, {1, 2}])
def test_a_value_without_a_form_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical({"a": [value]})


@pytest.mark.parametrize(
    "text", [b"18446744073709551616", b"[1e400]", b'{"a": NaN}', b'"\\ud800"', b"1.0", b"-0", b" 1"]
)
def test_a_text_is_read_as_before(text: bytes) -> None:
    assert repr(json.loads(text)) == repr(loads(text))


@pytest.mark.parametrize("text", [b"", b"{", b"{'a': 1}", b"\xff", b"1 2"])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        loads(text)
