"""The questions: read from a file, or made of the memories themselves."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from spectron_migrate.errors import InputError
from spectron_migrate.records import Json
from spectron_migrate.verify.keywords import WordFrequencies, question_about
from spectron_migrate.verify.options import Query
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace

if TYPE_CHECKING:
    from spectron_migrate.settings.yaml_lines import Node

_FIELDS = ("query", "user_id", "agent_id", "run_id", "expect")
_SUFFIXES = (".txt", ".jsonl", ".csv", ".yaml", ".yml")
_Row = tuple[str, Mapping[str, Json] | str]
"""Where it stands (`file:line`), and what it says."""


def load_queries(path: Path, *, user_id: str | None = None) -> tuple[Query, ...]:
    """Queries of a `.txt` (one a line, with `user_id`), `.jsonl`, `.csv` or `.yaml` file.

    `user_id` stands in where a query names nobody. Raises InputError naming the file and every bad line.
    """
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path} is no queries file by its name", hint=f"known suffixes: {', '.join(_SUFFIXES)}")
    problems: list[str] = []
    queries: list[Query] = []
    for where, row in _rows(path):
        made = _query(row, user_id)
        if isinstance(made, str):
            problems.append(f"{where}: {made}")
        else:
            queries.append(made)
    if problems:
        raise InputError.of_all(problems, hint="a query has `query`, and `user_id` or `agent_id`, and maybe `expect`")
    if not queries:
        raise InputError(f"{path} has no query", hint="leave --queries out to have them made of the memories")
    return tuple(queries)


def make_queries(work: Workspace, n: int, rng: Random) -> tuple[Query, ...]:
    """Up to `n` known-item queries, stratified by owner; the same seed draws the same ones."""
    made: list[Query] = []
    rarities: dict[int, WordFrequencies] = {}
    for owner, share in _shares(work.owner_counts(), n, rng):
        for fact in work.drawn_of(owner, share):
            if fact.scope not in rarities:
                rarities.clear()  # owners come one after the other: one scope's words at a time
                rarities[fact.scope] = WordFrequencies(work.texts_of(fact.scope))
            made_of_it = work.texts_in(fact.mem0_id)  # of a message Mem0 has these, and not its own words
            known = rng.choice(made_of_it) if made_of_it else fact.text
            text = question_about(known, rarities[fact.scope], rng)
            if text is not None:
                made.append(_known_item(text, fact))
    return tuple(made)


def _shares(owners: list[tuple[str, int]], n: int, rng: Random) -> list[tuple[str, int]]:
    """How many queries each owner gets: as equal as what they have allows, chance decides about the rest."""
    left = {owner: count for owner, count in owners if owner}
    shares = dict.fromkeys(left, 0)
    while n > 0 and left:
        if n < len(left):
            for owner in rng.sample(sorted(left), n):
                shares[owner] += 1
            break
        each = n // len(left)
        for owner in sorted(left):
            given = min(each, left[owner])
            shares[owner] += given
            n -= given
            left[owner] -= given
        left = {owner: count for owner, count in left.items() if count}
    return [(owner, share) for owner, share in sorted(shares.items()) if share]


def _known_item(text: str, fact: StoredMemory) -> Query:
    """Asked as its owner asks: the user, or whoever else it belongs to."""
    owners = fact.owners
    if "user_id" in owners:
        return Query(text, user_id=owners["user_id"], target=fact.mem0_id)
    if "agent_id" in owners:
        return Query(text, agent_id=owners["agent_id"], target=fact.mem0_id)
    return Query(text, run_id=owners.get("run_id"), target=fact.mem0_id)


def _query(row: Mapping[str, Json] | str, user_id: str | None) -> Query | str:
    """A query, or what is wrong with it."""
    if isinstance(row, str):
        row = {"query": row}
    unknown = sorted(set(map(str, row)) - set(_FIELDS))
    if unknown:
        return f"unknown field {unknown[0]}"
    text = row.get("query")
    if not isinstance(text, str) or not text.strip():
        return "a query needs its text"
    ids: dict[str, str] = {}
    for name in ("user_id", "agent_id", "run_id"):
        value = row.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            return f"{name} is no text"
        ids[name] = str(value)
    if not ids and not user_id:
        return "whose memories is it about? it has no user_id"
    expect = row.get("expect") or []
    expect = expect.split() if isinstance(expect, str) else expect
    if not isinstance(expect, list) or not all(isinstance(each, str) for each in expect):
        return "expect is no list of memory ids"
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
            raise InputError(f"{path}:{number}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: no object", hint='such as {"query": "…", "user_id": "…"}')
        yield f"{path}:{number}", row


def _csv_rows(path: Path, text: str) -> Iterator[_Row]:
    reader = csv.DictReader(text.splitlines())
    if "query" not in (reader.fieldnames or []):
        raise InputError(f"{path}:1: no column named query", hint=f"columns: {', '.join(_FIELDS)}")
    for row in reader:
        extra = row.pop(None, None)  # what is beside the named columns
        if extra:
            raise InputError(f"{path}:{reader.line_num}: more values than columns")
        yield f"{path}:{reader.line_num}", row


def _yaml_rows(path: Path) -> Iterator[_Row]:
    from spectron_migrate.settings.yaml_lines import read_yaml

    root = read_yaml(path)
    if isinstance(root.value, Mapping) and set(root.value) == {"queries"}:
        root = root.value["queries"]
    if not isinstance(root.value, tuple):
        raise InputError(f"{root.where}: no list of queries, but {root.kind}")
    for node in root.value:
        row = _plain(node)
        if not isinstance(row, (dict, str)):
            raise InputError(f"{node.where}: neither a text nor a mapping, but {node.kind}")
        yield node.where, row


def _plain(node: Node) -> Json:
    """A node as JSON would have it; a number stays as it was written, because it can be an id."""
    if isinstance(node.value, Mapping):
        return {key: _plain(value) for key, value in node.value.items()}
    if isinstance(node.value, tuple):
        return [_plain(value) for value in node.value]
    return node.value if isinstance(node.value, bool) or node.value is None else node.raw or str(node.value)
