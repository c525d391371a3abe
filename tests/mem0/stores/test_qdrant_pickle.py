"""A stored point is read alike whether its pickle is cut short to be read faster or not."""

from __future__ import annotations

import pickle
import random
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client.http.models import PointStruct

from spectron_migrate.mem0.stores import qdrant_pickle
from spectron_migrate.mem0.stores.qdrant_pickle import UnexpectedClass, read_point
from tests.mem0.qdrant_points import point, uuid

pytestmark = pytest.mark.slow

TIME = datetime(2026, 1, 1, tzinfo=UTC)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.just(TIME)
    | st.just(UUID(int=1)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
    max_leaves=10,
)
PAYLOADS = st.dictionaries(st.text() | st.sampled_from(["id", "vector", "payload", "PointStruct"]), VALUES)
FLOATS = st.lists(st.floats(allow_nan=False), max_size=5)
VECTORS = FLOATS | st.dictionaries(st.sampled_from(["", "text"]), FLOATS) | st.just([0.5] * 2500)


def stored(vector: Any, payload: dict[str, Any]) -> bytes:
    made = PointStruct.model_construct(id=uuid(1), vector=vector, payload=payload)
    return pickle.dumps(made)


@given(VECTORS, PAYLOADS)
def test_any_payload_is_read_as_it_was_stored(vector: Any, payload: dict[str, Any]) -> None:
    assert (uuid(1), payload) == read_point(stored(vector, payload))


def test_values_that_are_one_object_are_read_each_in_its_place() -> None:
    shared = {"when": TIME, "name": "PointStruct", "list": [1]}
    payload = {"first": shared, "second": [shared, TIME, "id"], "data": "text", "again": "text"}
    assert (uuid(1), payload) == read_point(stored([0.5], payload))


def test_the_vector_of_the_usual_point_is_left_out() -> None:
    """Otherwise the tests here would compare a thing with itself."""
    assert len(qdrant_pickle._without_vector(point(uuid(1), [0.5] * 1536, data="likes tea"))) < 1000


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_point_ends_as_it_would_if_it_were_read_whole(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(qdrant_pickle, "_SMALL", 0)
    whole = stored([0.5] * 20, {"data": "likes tea", "when": TIME, "user_id": "alice", "tags": ["id", "alice"]})
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(dice.choice([1, 1, 2, 5])):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        blob = bytes(damaged[: dice.choice([len(damaged), dice.randrange(len(damaged))])])
        found = outcome(blob)
        with monkeypatch.context() as patched:
            patched.setattr(qdrant_pickle, "_without_vector", lambda blob: blob)
            assert outcome(blob) == found


def outcome(blob: bytes) -> Any:
    try:
        return re.sub("0x[0-9a-f]+", "", repr(read_point(blob)))
    except (ValueError, UnexpectedClass) as error:
        return type(error)


class Malicious:
    def __reduce__(self) -> Any:
        return print, ("this must not be run",)


def test_a_class_in_a_payload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnexpectedClass, match="print"):
        read_point(stored([0.5], {"data": "likes tea", "more": Malicious()}))
    assert "" == capsys.readouterr().out
