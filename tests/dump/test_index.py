"""The index of a scan: rows that were packed as they came are found, each with the place of its line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.dump.index import NOT_WRITTEN, Batch, SeenIndex, record_digest, text_digest
from tests.support.dumping import memory

IDS = st.text(min_size=1, max_size=4) | st.just("half \ud800")
ROWS = st.dictionaries(IDS, st.none() | st.text(max_size=5), min_size=1, max_size=8)
"""By id the text of a memory; None for a row that is not written."""


@contextmanager
def index(*, compares: bool = True) -> Iterator[SeenIndex]:
    with tempfile.TemporaryDirectory() as folder, closing(SeenIndex(Path(folder) / "seen", compares=compares)) as seen:
        yield seen


def batch_of(rows: dict[str, str | None]) -> Batch:
    batch = Batch()
    for memory_id, text in rows.items():
        if text is None:
            batch.add_unwritten(memory_id)
        else:
            batch.add(memory(memory_id, text), line_of(text))
    return batch


def line_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass") + b"\n"


@given(st.lists(ROWS, max_size=4), st.booleans(), st.booleans())
def test_each_row_is_found_with_the_place_and_the_digests_of_its_line(
    batches: list[dict[str, str | None]], looks_between: bool, compares: bool
) -> None:
    rows = {f"{at} {memory_id}": text for at, batch in enumerate(batches) for memory_id, text in batch.items()}
    file = b""
    with index(compares=compares) as seen:
        for at, batch in enumerate(batches):
            given_rows = batch_of({f"{at} {memory_id}": text for memory_id, text in batch.items()})
            seen.append(given_rows, len(file), 1)
            file += b"".join(given_rows.lines)
            if looks_between:
                assert seen.find("nobody") is None
        assert len(rows) == seen.seen(1)
        assert sum(text is not None for text in rows.values()) == seen.written()
        assert [] == list(seen.repeated())
        found = [seen.find(memory_id) for memory_id in rows]

    assert list(rows) == [row.id for row in found if row is not None]
    for row, text in zip(found, rows.values(), strict=True):
        assert row is not None
        if text is None:
            assert (NOT_WRITTEN, b"", b"") == (row.offset, row.record, row.text)
            continue
        assert file[row.offset :].startswith(line_of(text))
        assert (record_digest(line_of(text)) if compares else b"") == row.record
        assert (text_digest(text) if compares else b"") == row.text


@pytest.mark.parametrize("looks_between", [False, True])
def test_rows_of_several_passes_are_counted_packed_or_not(looks_between: bool) -> None:
    with index() as seen:
        seen.append(batch_of({"a": "tea", "b": None}), 0, 1)
        if looks_between:
            assert seen.find("a") is not None
        seen.append(batch_of({"c": "mate", "d": "rum"}), 4, 2)

        assert (2, 2, 3) == (seen.seen(1), seen.seen(2), seen.written())

        seen.forget_before(2)

        assert (0, 2, 2) == (seen.seen(1), seen.seen(2), seen.written())
        assert [0] == list(seen.dead())
        assert seen.find("a") is None


def test_an_id_that_comes_again_is_found_twice() -> None:
    with index() as seen:
        seen.append(batch_of({"a": "tea", "b": "mate"}), 0, 1)
        seen.append(batch_of({"b": "rum"}), 9, 1)

        assert [["b", "b"]] == [[row.id for row in rows] for rows in seen.repeated()]
        assert [4, 9] == [row.offset for rows in seen.repeated() for row in rows]


@pytest.mark.parametrize("unpacked", [0, 1, 3])
def test_lines_of_another_file_are_beside_their_rows_packed_or_not(unpacked: int) -> None:
    """The first batches are unpacked, the others not, and a line is of no row."""
    texts = [f"text {number}" for number in range(9)]
    with index() as seen:
        for at in range(3):
            rows = {f"m{number}": texts[number] for number in range(3 * at, 3 * at + 3)}
            seen.append(batch_of(rows), 0, 1)
            if at < unpacked:
                assert seen.find("m0") is not None
        lines = [line_of(text) for text in texts[1:]] + [b'{"id": "m0"}\n', b'{"id": "gone"}\n']
        found = [(row and row.id, decoded) for _, row, decoded in seen.beside(lines)]

    assert [(f"m{number}", None) for number in range(1, 9)] == found[:8]
    assert [("m0", {"id": "m0"}), (None, {"id": "gone"})] == found[8:]
