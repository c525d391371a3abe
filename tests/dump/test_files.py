"""Lines of a dump, and the privacy of its files."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectron_migrate.dump import files
from spectron_migrate.dump.files import LineFile, json_line, memory_line
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.errors import InputError, LedgerLocked
from spectron_migrate.records import Memory, Skipped
from tests.support.dumping import SOURCE, START, memory, scan

pytestmark = pytest.mark.slow

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(st.characters(), max_size=5), JSON), st.text(st.characters()))
def test_a_line_keeps_any_memory_and_is_one_line(metadata: dict[str, Any], text: str) -> None:
    line = json_line(memory("m", text, metadata=metadata).to_json())

    assert b"\n" not in line[:-1]
    assert memory("m", text, metadata=metadata) == Memory.from_json(json.loads(line))


ODD = st.sampled_from([datetime(2026, 1, 1, tzinfo=UTC), b"bytes", 2**70, "\ud800", {"b": {2: 1}, "a": (1.5,)}, {1}])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.text(max_size=5), JSON | ODD),
    st.none() | st.text(st.characters()),
    st.none() | st.text() | st.integers() | st.floats() | ODD,
)
def test_the_line_of_a_memory_is_that_of_its_fields(metadata: dict[str, Any], role: str | None, odd: Any) -> None:
    given_one = memory("m1", metadata=metadata, role=role, categories=("a", "b"), extra={"as_given": {"role": odd}})
    with_time = given_one.to_json() | {"text_at": "t", "history_row": 3, "text_at_source": "history"}

    assert json_line(given_one.to_json()) == memory_line(given_one, None)
    assert json_line(with_time) == memory_line(given_one, ("t", 3))


def test_a_value_that_json_has_no_form_for_is_written_as_text() -> None:
    value = {"a": float("nan"), "b": datetime(2025, 1, 1, tzinfo=UTC), 3: {2, 1}, "d": b"\xff", "e": (1,)}

    told = json.loads(json_line(value))

    assert {"a": "nan", "b": "2025-01-01T00:00:00+00:00", "3": [1, 2], "d": "/w==", "e": [1]} == told


def test_files_are_private(tmp_path: Path) -> None:
    scan(tmp_path / "dump", [memory("m1"), Skipped("m2", "no text field")])

    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "dump").iterdir()}
    assert {"0o600"} == set(modes.values())
    assert {".gitignore", ".lock", "manifest.json", "memories.jsonl", "skipped.jsonl"} == set(modes)
    assert "0o700" == oct((tmp_path / "dump").stat().st_mode & 0o777)
    assert "*\n" == (tmp_path / "dump" / ".gitignore").read_text()


def test_a_directory_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("print()")

    with pytest.raises(InputError, match="holds other files"):
        scan(tmp_path, [memory("m1")])

    assert ["main.py"] == os.listdir(tmp_path)


def test_only_one_export_writes_a_dump_at_a_time(tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "dump", SOURCE, START), pytest.raises(LedgerLocked):
        scan(tmp_path / "dump", [memory("m1")])
    scan(tmp_path / "dump", [memory("m1")])


def test_large_pieces_are_whole_and_in_order_wherever_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SYNC_EACH", 1 << 20)
    lines = [bytes([65 + number % 26]) * (1000 * number) + b"\n" for number in range(60)]
    file = LineFile(tmp_path / "lines")
    for begin in range(0, 60, 7):
        file.write_all([*lines[begin : begin + 7], b""])
        file.write(b"short\n")
    written = [line for begin in range(0, 60, 7) for line in [*lines[begin : begin + 7], b"short\n"]]
    assert written == list(file.lines())
    assert written[-2] == file.line_at(sum(map(len, written[:-2])))
    found = file.checksum()
    file.finish()
    data = (tmp_path / "lines").read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data), len(written)) == (found.sha256, found.size, found.lines)


def test_what_fails_beside_is_raised_where_the_file_is_used_next(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines")

    def refuse(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    file._write = refuse  # type: ignore[method-assign]
    file.write_all([b"x" * 1_000_000])
    with pytest.raises(OSError, match="No space left"):
        file.checksum()
    with pytest.raises(OSError, match="No space left"):
        file.finish()
    file.discard()
    assert [] == list(tmp_path.iterdir())
