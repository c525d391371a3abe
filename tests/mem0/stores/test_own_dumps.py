"""The lines in docs/sources.md that dump a store from the application: their file is read whole, or said not to be."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spectron_migrate.mem0.formats.files import FilesReader
from spectron_migrate.records import Memory
from tests.mem0.conftest import NOW
from tests.mem0.qdrant_points import uuid
from tests.mem0.rows import Row

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[3] / "docs" / "sources.md"
ROWS: dict[str, Row] = {
    uuid(number): {"data": f"note {number}", "user_id": f"user {number % 9}", "hash": "h", "topic": "x"}
    for number in range(2300)
}


def snippets() -> dict[str, str]:
    """The code for each store, by its provider; the first block is what all of them use."""
    chapter = PAGE.read_text("utf-8").partition("## Stores that you dump yourself")[2]
    named = re.findall(r"^\*\*(\w+)\*\*.*?```python\n(.*?)```", chapter, re.DOTALL | re.MULTILINE)
    writes = re.findall(r"```python\n(.*?)```", chapter, re.DOTALL)[0]
    return {provider: f"{writes}\n{code}" for provider, code in named}


def cassandra(held: dict[str, Row], total: int) -> Any:
    def execute(statement: str, timeout: float | None = None) -> Any:
        if "count(*)" in statement:
            return SimpleNamespace(one=lambda: (total,))
        return [SimpleNamespace(id=one, payload=json.dumps(row)) for one, row in held.items()]

    return SimpleNamespace(keyspace="mem0", collection_name="memories", session=SimpleNamespace(execute=execute))


def neptune(held: dict[str, Row], total: int) -> Any:
    def execute_query(query: str, params: dict[str, Any] | None = None) -> Any:
        if "count(n)" in query:
            return [{"total": total}]
        ids = [one for one in sorted(held) if params is not None and one > params["last"]]
        return [{"id": one, "payload": {**held[one], "label": "x"}} for one in ids[:1000]]

    return SimpleNamespace(collection_name="MEM0_VECTOR_mem0", execute_query=execute_query)


def baidu(held: dict[str, Row], total: int) -> Any:
    def select(*, projections: list[str], marker: str | None, limit: int) -> Any:
        ids = [one for one in sorted(held) if marker is None or one > marker]
        rows = [{"id": one, "metadata": held[one]} for one in ids[:limit]]
        return SimpleNamespace(rows=rows, next_marker=ids[:limit][-1], is_truncated=len(ids) > limit)

    table = SimpleNamespace(stats=lambda: SimpleNamespace(row_count=total), select=select)
    return SimpleNamespace(_table=table)


def databricks(held: dict[str, Row], total: int) -> Any:
    def execute_statement(statement: str, warehouse: str) -> Any:
        if "count(*)" in statement:
            return SimpleNamespace(result=SimpleNamespace(data_array=[[str(total)]]))
        last = re.findall(r"memory_id > '(.*?)'", statement)[0]
        rows = [
            [one, row["data"], row["hash"], row["user_id"], None, None, "2025-01-01T00:00:00Z", None, None]
            for one, row in sorted(held.items())
            if one > last
        ]
        return SimpleNamespace(result=SimpleNamespace(data_array=rows[:1000] or None))

    client = SimpleNamespace(statement_execution=SimpleNamespace(execute_statement=execute_statement))
    return SimpleNamespace(fully_qualified_table_name="a.b.c", warehouse_id="w", client=client)


def vertex_ai_vector_search(held: dict[str, Row], total: int) -> Any:
    def read_index_datapoints(*, deployed_index_id: str, ids: list[str]) -> Any:
        return [
            SimpleNamespace(
                datapoint_id=one,
                restricts=[SimpleNamespace(namespace=name, allow_list=[str(value)]) for name, value in row.items()],
            )
            for one, row in held.items()
            if one in ids
        ]

    return SimpleNamespace(
        index=SimpleNamespace(to_dict=lambda: {"indexStats": {"vectorsCount": str(total)}}),
        index_endpoint=SimpleNamespace(read_index_datapoints=read_index_datapoints),
        deployment_index_id="d",
    )


def langchain(held: dict[str, Row], total: int) -> Any:
    def get_by_ids(ids: list[str]) -> Any:
        return [
            SimpleNamespace(id=one, page_content=held[one]["data"], metadata=held[one]) for one in ids if one in held
        ]

    return SimpleNamespace(client=SimpleNamespace(get_by_ids=get_by_ids))


STORES: dict[str, Callable[[dict[str, Row], int], Any]] = {
    each.__name__: each for each in (cassandra, neptune, baidu, databricks, vertex_ai_vector_search, langchain)
}


def dumped(
    provider: str,
    held: dict[str, Row],
    total: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: str | None = None,
) -> Any:
    """What the reader says of the file that the snippet writes: memories, how many are missing, why it is unproven."""
    monkeypatch.chdir(folder)
    history = folder / "elsewhere" / "history.db"
    history.parent.mkdir()
    with closing(sqlite3.connect(history)) as db, db:
        db.execute("CREATE TABLE history (memory_id TEXT)")
        db.executemany("INSERT INTO history VALUES (?)", [(one,) for one in ROWS])
    memory = SimpleNamespace(
        vector_store=STORES[provider](held, total), config=SimpleNamespace(history_db_path=str(history))
    )
    exec(lines or snippets()[provider], {"memory": memory})
    with FilesReader([folder / "mem0.jsonl"], now=NOW) as reader:
        found = {row.id: row.memory for row in reader.rows() if isinstance(row, Memory)}
        return found, reader.missing(), reader.unproven


def test_every_store_that_is_refused_has_its_lines() -> None:
    from spectron_migrate.mem0.stores.unsupported import REASONS

    assert STORES.keys() == snippets().keys()
    assert STORES.keys() <= REASONS.keys()


@pytest.mark.parametrize("provider", STORES)
def test_the_file_that_they_write_is_read_whole_and_proven_by_the_stores_own_count(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, missing, unproven = dumped(provider, ROWS, len(ROWS), tmp_path, monkeypatch)
    assert {one: row["data"] for one, row in ROWS.items()} == found
    assert missing in (None, 0)
    assert (provider == "langchain") == bool(unproven)


def test_the_count_of_the_store_behind_langchain_is_given_in_its_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = snippets()["langchain"].replace("None  # or", f"{len(ROWS) + 3}  # or")
    _, missing, unproven = dumped("langchain", ROWS, 0, tmp_path, monkeypatch, lines)
    assert 3 == missing
    assert "" == unproven


@pytest.mark.parametrize("number", [2, 3, 7, 1001])
def test_a_small_store_is_proven_too(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = dict(list(ROWS.items())[:number])
    found, missing, unproven = dumped("baidu", some, number, tmp_path, monkeypatch)
    assert some.keys() == found.keys()
    assert missing in (None, 0)
    assert "" == unproven


@pytest.mark.parametrize("provider", sorted(STORES.keys() - {"langchain"}))
@pytest.mark.parametrize("number", [1, 2, 3, 1999])
def test_a_row_that_the_listing_left_out_makes_the_file_incomplete_whatever_its_size(
    provider: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = dict(list(ROWS.items())[:number])
    _, missing, _ = dumped(provider, some, number + 1, tmp_path, monkeypatch)
    assert 1 == missing
