"""Queries from files, refused with file and line if they are malformed; and queries generated from the memories."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.reporter import NullReporter
from spectron_migrate.verify.expected import index_receipts, record_expectations
from spectron_migrate.verify.options import Query, VerifyOptions
from spectron_migrate.verify.queries import generate_queries, load_queries
from spectron_migrate.verify.workspace import Workspace
from tests.support.spectron import memory, replay, write_raw

TWO = (Query("where does she live?", user_id="anna"), Query("tea?", user_id="7", agent_id="chef", expect=("m1", "m2")))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "q.jsonl",
            '{"query": "where does she live?", "user_id": "anna"}\n\n'
            '{"query": "tea?", "user_id": 7, "agent_id": "chef", "expect": ["m1", "m2"]}\n',
        ),
        ("q.csv", "query,user_id,agent_id,expect\nwhere does she live?,anna,,\ntea?,7,chef,m1 m2\n"),
        (
            "q.yaml",
            "- {query: 'where does she live?', user_id: anna}\n"
            "- query: tea?\n  user_id: 7\n  agent_id: chef\n  expect: [m1, m2]\n",
        ),
        (
            "q.yml",
            "queries:\n- {query: 'where does she live?', user_id: anna}\n"
            "- {query: 'tea?', user_id: 7, agent_id: chef, expect: m1 m2}\n",
        ),
    ],
)
def test_every_format_gives_the_same_queries(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert TWO == load_queries(path)


def test_lines_of_a_text_file_are_queries_of_the_given_user(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_text("\ufeffwhere does she live?\n\n  tea?  \n", encoding="utf-8")
    expected = (Query("where does she live?", user_id="anna"), Query("tea?", user_id="anna"))
    assert expected == load_queries(path, user_id="anna")


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("q.txt", "tea?\n", "q.txt:1: it has none of user_id"),
        ("q.jsonl", '{"query": "tea?", "user_id": "a"}\n{"query": \n', "q.jsonl:2: not JSON"),
        ("q.jsonl", '["tea?"]\n', "q.jsonl:1: not a JSON object"),
        ("q.jsonl", '{"query": "tea?", "user": "a"}\n', "q.jsonl:1: unknown field user"),
        ("q.jsonl", '{"query": " ", "user_id": "a"}\n', "q.jsonl:1: `query` is missing or empty"),
        ("q.jsonl", '{"query": "tea?", "user_id": ["a"]}\n', "q.jsonl:1: user_id is not a string"),
        ("q.jsonl", '{"query": "tea?", "user_id": "a", "expect": [1]}\n', "q.jsonl:1: expect is not a list"),
        ("q.csv", "text,user_id\ntea?,anna\n", "q.csv:1: there is no column `query`"),
        ("q.csv", "query,user_id\ntea?,anna,more\n", "q.csv:2: more values than columns"),
        ("q.yaml", "query: tea?\n", "q.yaml:1: expected a list of queries"),
        ("q.yaml", "- tea?\n- [1]\n", "q.yaml:2: expected a string or a mapping"),
        ("q.jsonl", "\n", "has no query"),
        ("q.xlsx", "", "is not a file of queries"),
    ],
)
def test_a_bad_file_is_refused_by_file_and_line(tmp_path: Path, name: str, text: str, part: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        load_queries(path)
    assert part in refused.value.message


def test_all_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "a"}\n{"query": "b", "user_id": "u"}\n{"user_id": "u"}\n')
    with pytest.raises(InputError) as refused:
        load_queries(path)
    assert all(part in refused.value.message for part in ("2 problems", "q.jsonl:1", "q.jsonl:3"))


def test_a_missing_or_undecodable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_queries(tmp_path / "none.jsonl")
    (tmp_path / "q.txt").write_bytes(b"tea?\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"q\.txt:2: not UTF-8"):
        load_queries(tmp_path / "q.txt", user_id="anna")


@pytest.fixture
def work(spectron: RunningServer, user: str, tmp_path: Path) -> Iterator[Workspace]:
    """Three users with 1, 3 and 20 memories."""
    rows = [
        memory(number, f"{user}{name}", f"Told about topic{name}{number} on day{number}")
        for name, count in (("a", 1), ("b", 3), ("c", 20))
        for number in range(count)
    ]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        work = Workspace.open(tmp_path / "verify.db", ledger, about="x", not_before="", now="2025")
        index_receipts(work, seed=0, reporter=NullReporter())
        record_expectations(work, None, load_mapping(None), VerifyOptions(), reporter=NullReporter())
        yield work


@pytest.mark.parametrize(("n", "shares"), [(2, 2), (9, 9), (24, 24), (500, 24)])
def test_queries_are_spread_over_users_and_use_each_memory_once(work: Workspace, n: int, shares: int) -> None:
    queries = generate_queries(work, n, random.Random(5))
    assert shares == len(queries) == len({query.target for query in queries})
    counts = sorted([query.owner for query in queries].count(owner) for owner in {query.owner for query in queries})
    assert {2: [1, 1], 9: [1, 3, 5], 24: [1, 3, 20], 500: [1, 3, 20]}[n] == counts
    assert queries == generate_queries(work, n, random.Random(5))
    work.close(finished=True)
