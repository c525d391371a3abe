"""Raw Mem0 files are read in every format."""

from __future__ import annotations

import gzip
import itertools
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.formats.files import FilesReader
from spectron_migrate.mem0.normalise import TEXT_WITHOUT_ID
from spectron_migrate.records import Memory, Skipped
from tests.mem0.conftest import DATA, NOW, sample_rows

ALICE = DATA / "2.2.1-qdrant" / "get_all_alice_show_expired.json"


def read(*paths: Path) -> list[Memory | Skipped]:
    with FilesReader(paths, now=NOW) as reader:
        return list(reader.rows())


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


ROW = {"id": "m1", "memory": "likes tea", "user_id": "alice", "created_at": "2025-01-02T03:04:05+00:00"}


@pytest.mark.parametrize(
    "shape",
    [
        [ROW],
        {"results": [ROW]},
        {"results": [ROW], "relations": [{"source": "a", "relationship": "likes", "target": "tea"}]},
        {"memories": [ROW]},
        {"count": 1, "next": None, "previous": None, "results": [ROW]},
        ROW,
        json.dumps(ROW) + "\n",
        [{"id": "m1", "memory": "likes tea", "userId": "alice", "createdAt": "2025-01-02T03:04:05.000Z"}],
        [{"id": "m1", "payload": {"data": "likes tea", "user_id": "alice", "created_at": ROW["created_at"]}}],
        {
            "version": 1,
            "kind": "mem0_oss_qdrant_export",
            "record_count": 1,
            "records": [
                {
                    **ROW,
                    "source": "python_oss_qdrant",
                    "source_payload": {"data": "likes tea", "user_id": "alice", "created_at": ROW["created_at"]},
                }
            ],
        },
    ],
)
def test_every_format_is_read(tmp_path: Path, shape: Any) -> None:
    [found] = read(write(tmp_path / "file", shape))

    assert isinstance(found, Memory)
    assert "m1" == found.id
    assert "likes tea" == found.memory
    assert "alice" == found.user_id
    assert "2025-01-02T03:04:05.000000Z" == found.created_at


def test_a_mixture_of_files_gives_the_rows_of_all(tmp_path: Path) -> None:
    raw = DATA / "1.0.11-qdrant" / "raw.json"
    zipped = tmp_path / "raw.json.gz"
    zipped.write_bytes(gzip.compress(raw.read_bytes()))

    found = read(ALICE, zipped)

    answers = json.loads(ALICE.read_text("utf-8"))["results"]
    assert [row["id"] for row in answers] + list(sample_rows("1.0.11")) == [row.id for row in found]


def openmemory(tmp_path: Path, *, members: set[str]) -> Path:
    backup = {
        "user": {"id": "u-1", "user_id": "alice", "name": "Alice"},
        "apps": [{"id": "a-1", "name": "cursor"}],
        "categories": [{"id": "c-1", "name": "food"}],
        "memories": [
            {
                "id": "m1",
                "user_id": "u-1",
                "app_id": "a-1",
                "content": "likes tea",
                "metadata": {"k": 1},
                "state": state,
                "created_at": "2025-01-02T03:04:05+00:00",
                "updated_at": "2025-01-02T03:04:05+00:00",
                "category_ids": ["c-1"],
            }
            for state in ("archived",)
        ],
        "status_history": [{"id": "h-1", "memory_id": "m1"}],
    }
    line = {
        "id": "m1",
        "content": "likes tea",
        "metadata": {"k": 1},
        "created_at": "2025-01-02T03:04:05+00:00",
        "updated_at": "2025-01-02T03:04:05+00:00",
        "state": "archived",
        "app": "cursor",
        "categories": ["food"],
    }
    path = tmp_path / "memories_export_alice.zip"
    with zipfile.ZipFile(path, "w") as archive:
        if "memories.json" in members:
            archive.writestr("memories.json", json.dumps(backup, indent=2))
        if "memories.jsonl.gz" in members:
            archive.writestr("memories.jsonl.gz", gzip.compress(json.dumps(line).encode() + b"\n"))
    return path


@pytest.mark.parametrize(
    ("members", "user"),
    [
        ({"memories.json", "memories.jsonl.gz"}, "alice"),
        ({"memories.json"}, "alice"),
        ({"memories.jsonl.gz"}, None),
    ],
)
def test_an_openmemory_backup_is_read_with_names_instead_of_database_ids(
    tmp_path: Path, members: set[str], user: str | None
) -> None:
    [found] = read(openmemory(tmp_path, members=members))

    assert isinstance(found, Memory)
    assert user == found.user_id
    assert "cursor" == found.app_id
    assert ("food",) == found.categories
    assert "archived" == found.state
    assert "likes tea" == found.memory


def test_relations_beside_the_rows_are_kept(tmp_path: Path) -> None:
    relation = {"source": "alice", "relationship": "likes", "target": "tea"}
    path = write(tmp_path / "a.json", {"results": [ROW], "relations": [relation]})

    with FilesReader([path, ALICE], now=NOW) as reader:
        rows = list(reader.rows())
        assert [relation] == list(reader.relations())
    assert 1 + len(json.loads(ALICE.read_text("utf-8"))["results"]) == len(rows)


def test_rows_that_are_not_memories_are_identified_by_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", f'{json.dumps(ROW)}\n{{"memory": "no id"}}\n{{"id": "m2"}}\n')

    found = read(path)

    assert [Skipped(f"{path}:2", TEXT_WITHOUT_ID, has_content=True), Skipped("m2", "no text field")] == found[1:]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [{"id": 1, "x": 1}, {"id": 2}],
            "is JSON, but not a dump of Mem0: line 1 is an object with id, x: a text is missing",
        ),
        ([1, 2], "is JSON, but not a dump of Mem0: line 1 is not an object"),
        ({"openapi": "3.0"}, "is JSON, but not a dump of Mem0: line 1 is an object with openapi"),
        ("null", ", line 1 is JSON, but not a dump of Mem0: a value that is no object and no list"),
        ('[{"id": "m1", "memory": "cut', ", line 1 is truncated"),
    ],
)
def test_json_that_is_no_dump_of_mem0_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    path = write(tmp_path / "file.json", value)

    with pytest.raises(InputError) as error:
        read(path)

    assert f"{path}{'' if message.startswith(',') else ' '}{message}" == error.value.message


HISTORY = {"id": "h1", "memory_id": "m1", "event": "ADD"}
TOLD: list[tuple[Any, str]] = [
    ([{**HISTORY, "old_memory": None, "new_memory": "likes tea"}], "this is Mem0's history"),
    ([{**HISTORY, "previous_value": None, "new_value": "likes tea"}], "this is Mem0's history"),
    ({"content": [{"type": "text", "text": '{"results": []}'}]}, "'.content[].text' FILE"),
    ({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "[]"}]}}, "'.result.content[].text'"),
    ({"error": "no credentials were given"}, "an error that a server answered"),
    ({"detail": "Invalid token."}, "an error that a server answered"),
    ({"memories": [{"text": "likes tea", "topic": "drinks"}]}, "memories without ids"),
]


@pytest.mark.parametrize(("value", "hint"), TOLD, ids=str)
def test_what_mem0_writes_that_is_no_memory_is_told_by_what_it_is(tmp_path: Path, value: Any, hint: str) -> None:
    with pytest.raises(InputError) as error:
        read(write(tmp_path / "file.json", value))

    assert hint in (error.value.hint or "")


def test_an_empty_listing_is_one(tmp_path: Path) -> None:
    assert [] == read(write(tmp_path / "file.json", {"results": []}))


def test_all_missing_files_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "empty.json").touch()

    with pytest.raises(InputError) as error:
        FilesReader([tmp_path / "a", tmp_path / "b", tmp_path, tmp_path / "empty.json"], now=NOW)

    assert error.value.message.startswith("4 problems:")


@pytest.mark.parametrize("cut", [30, 60])
def test_a_damaged_archive_is_reported(tmp_path: Path, cut: int) -> None:
    whole = gzip.compress(json.dumps([ROW] * 50).encode())
    path = tmp_path / "a.json.gz"
    path.write_bytes(whole[:cut])

    with pytest.raises(InputError) as error:
        read(path)

    assert str(path) in error.value.message


def test_a_truncated_zip_is_reported(tmp_path: Path) -> None:
    path = openmemory(tmp_path, members={"memories.json"})
    path.write_bytes(path.read_bytes()[:-30])

    with pytest.raises(InputError) as error:
        read(path)

    assert f"{path} is a damaged archive: File is not a zip file" == error.value.message


def test_pages_that_announce_more_rows_than_they_hold_are_incomplete(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{at}.json", {"count": 3, "next": "…", "results": [{**ROW, "id": f"m{at}"}]}) for at in (1, 2)
    ]
    with FilesReader(paths, now=NOW) as reader:
        assert 2 == len(list(reader.rows()))
        assert 1 == reader.missing()


@pytest.mark.parametrize(("rows", "suspects"), [(19, 0), (20, 1), (100, 1), (101, 0)])
def test_a_listing_as_long_as_mem0s_limit_is_noted(tmp_path: Path, rows: int, suspects: int) -> None:
    path = write(tmp_path / "a.json", {"results": [{**ROW, "id": str(at)} for at in range(rows)]})
    with FilesReader([path], now=NOW) as reader:
        assert rows == len(list(reader.rows()))
        assert suspects == len(reader.notes)


def test_reading_twice_yields_the_same_rows() -> None:
    with FilesReader([ALICE], now=NOW) as reader:
        assert all(left == right for left, right in itertools.zip_longest(reader.rows(), list(reader.rows())))
