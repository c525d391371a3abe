"""Queries to ask both systems: read from a file, or generated from the memories."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from spectron_migrate.errors import InputError
from spectron_migrate.keywords import WordFrequencies
from spectron_migrate.records import Json
from spectron_migrate.verify.options import Query
from spectron_migrate.verify.questions import question_about
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace

if TYPE_CHECKING:
    from spectron_migrate.settings.strict_yaml import Node

_FIELDS = ("query", "user_id", "agent_id", "run_id", "expect")
_SUFFIXES = (".txt", ".jsonl", ".csv", ".yaml", ".yml")
_Row = tuple[str, Mapping[str, Json] | str]
"""The place of a query (`file:line`) and its content."""


def load_queries(path: Path, *, user_id: str | None = None) -> tuple[Query, ...]:
    """Queries of a `.txt` (one a line, with `user_id`), `.jsonl`, `.csv` or `.yaml` file.

    `user_id` is the default for queries without an id. Raises InputError naming the file and every bad line.
    """
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path} is not a file of queries", hint=f"known suffixes: {', '.join(_SUFFIXES)}")
    problems: list[str] = []
    queries: list[Query] = []
    for where, row in _rows(path):
        query = _query(row, user_id)
        if isinstance(query, str):
            problems.append(f"{where}: {query}")
        else:
            queries.append(query)
    if problems:
        raise InputError.of_all(
            problems, hint="a query needs `query` and `user_id` or `agent_id`; `expect` is optional"
        )
    if not queries:
        raise InputError(f"{path} has no query", hint="without --queries they are generated from the memories")
    return tuple(queries)


def generate_queries(work: Workspace, n: int, rng: Random) -> tuple[Query, ...]:
    """Up to `n` known-item queries, stratified by owner; the same seed gives the same queries."""
    queries: list[Query] = []
    frequencies: dict[int, WordFrequencies] = {}
    for owner, share in _shares(work.owner_counts(), n, rng):
        for fact in work.drawn_of(owner, share):
            if fact.scope not in frequencies:
                frequencies.clear()  # owners come one after the other, so one scope at a time is enough
                frequencies[fact.scope] = WordFrequencies(work.texts_of(fact.scope))
            memories = work.texts_in(fact.mem0_id)  # the question about a message uses the words of its memories
            known = rng.choice(memories) if memories else fact.text
            text = question_about(known, frequencies[fact.scope], rng)
            if text is not None:
                queries.append(_known_item(text, fact))
    return tuple(queries)


def _shares(owners: list[tuple[str, int]], n: int, rng: Random) -> list[tuple[str, int]]:
    """How many queries each owner gets: as evenly as the number of memories allows, the remainder at random."""
    remaining = {owner: count for owner, count in owners if owner}
    shares = dict.fromkeys(remaining, 0)
    while n > 0 and remaining:
        if n < len(remaining):
            for owner in rng.sample(sorted(remaining), n):
                shares[owner] += 1
            break
        each = n // len(remaining)
        for owner in sorted(remaining):
            given = min(each, remaining[owner])
            shares[owner] += given
            n -= given
            remaining[owner] -= given
        remaining = {owner: count for owner, count in remaining.items() if count}
    return [(owner, share) for owner, share in sorted(shares.items()) if share]


def _known_item(text: str, fact: StoredMemory) -> Query:
    """A query for this memory with its owner's filter: the user, else the agent, else the run."""
    owners = fact.owners
    if "user_id" in owners:
        return Query(text, user_id=owners["user_id"], target=fact.mem0_id)
    if "agent_id" in owners:
        return Query(text, agent_id=owners["agent_id"], target=fact.mem0_id)
    return Query(text, run_id=owners.get("run_id"), target=fact.mem0_id)


def _query(row: Mapping[str, Json] | str, user_id: str | None) -> Query | str:
    """The query, or a problem with it in words."""
    if isinstance(row, str):
        row = {"query": row}
    unknown = sorted(set(map(str, row)) - set(_FIELDS))
    if unknown:
        return f"unknown field {unknown[0]}"
    text = row.get("query")
    if not isinstance(text, str) or not text.strip():
        return "`query` is missing or empty"
    ids: dict[str, str] = {}
    for name in ("user_id", "agent_id", "run_id"):
        value = row.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            return f"{name} is not a string"
        ids[name] = str(value)
    if not ids and not user_id:
        return "it has none of user_id, agent_id and run_id"
    expect = row.get("expect") or []
    expect = expect.split() if isinstance(expect, str) else expect
    if not isinstance(expect, list) or not all(isinstance(each, str) for each in expect):
        return "expect is not a list of memory ids"
    if not ids and user_id is not None:
        ids = {"user_id": user_id}
    return Query(text.strip(), **ids, expect=tuple(expect))


def _rows(path: Path) -> Iterator[_Row]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8", hint="save the file as UTF-8") from error
    match path.suffix:
        case ".txt":
            lines = enumerate(text.split("\n"), 1)
            return ((f"{path}:{number}", line.strip()) for number, line in lines if line.strip())
        case ".jsonl":
            return _json_lines(path, text)
        case ".csv":
            return _csv_rows(path, text)
    return _yaml_rows(path)


def _json_lines(path: Path, text: str) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: not a JSON object", hint='such as {"query": "…", "user_id": "…"}')
        yield f"{path}:{number}", row


def _csv_rows(path: Path, text: str) -> Iterator[_Row]:
    reader = csv.DictReader(text.splitlines())
    if "query" not in (reader.fieldnames or []):
        raise InputError(f"{path}:1: there is no column `query`", hint=f"columns: {', '.join(_FIELDS)}")
    for row in reader:
        extra = row.pop(None, None)  # values without a column
        if extra:
            raise InputError(f"{path}:{reader.line_num}: more values than columns")
        yield f"{path}:{reader.line_num}", row


def _yaml_rows(path: Path) -> Iterator[_Row]:
    from spectron_migrate.settings.strict_yaml import read_yaml

    root = read_yaml(path)
    if isinstance(root.value, Mapping) and set(root.value) == {"queries"}:
        root = root.value["queries"]
    if not isinstance(root.value, tuple):
        raise InputError(f"{root.where}: expected a list of queries, found {root.kind}")
    for node in root.value:
        row = _plain(node)
        if not isinstance(row, (dict, str)):
            raise InputError(f"{node.where}: expected a string or a mapping, found {node.kind}")
        yield node.where, row


def _plain(node: Node) -> Json:
    """A node as JSON; a number stays as it was written, because it can be an id."""
    if isinstance(node.value, Mapping):
        return {key: _plain(value) for key, value in node.value.items()}
    if isinstance(node.value, tuple):
        return [_plain(value) for value in node.value]
    return node.value if isinstance(node.value, bool) or node.value is None else node.raw or str(node.value)
