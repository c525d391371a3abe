"""Lines of a dump, and the privacy of its files."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectron_migrate.dump.files import json_line
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.errors import InputError, LedgerLocked
from spectron_migrate.records import Memory, Skipped
from tests.support.dumping import SOURCE, START, memory, scan

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
