"""A saved run of Mem0's answers stands in for Mem0, where it can no longer be asked.

Taken as it is: a JSON report of an earlier `dual-verify`, or JSON Lines with `query`, the ids, and `results` as
Mem0's own `search` gives them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from spectron_migrate.errors import InputError, Unreachable
from spectron_migrate.mem0.search import SearchHit
from spectron_migrate.records import Json

_IDS = ("user_id", "agent_id", "run_id")
_Key = tuple[str, str | None, str | None, str | None]


class SavedSearch:
    """Answers by question and ids; a question that was not saved has no answer."""

    def __init__(self, answers: Mapping[_Key, list[SearchHit]], about: str) -> None:
        """Use `open_saved`."""
        self._answers = answers
        self._about = about

    def search(
        self, query: str, *, user_id: str | None, agent_id: str | None, run_id: str | None, top_k: int
    ) -> list[SearchHit]:
        """As it was saved, cut at `top_k`; raises Unreachable for a question that was not saved."""
        found = self._answers.get((query, user_id, agent_id, run_id))
        if found is None:
            raise Unreachable("the saved run has no answer to this question")
        return found[:top_k]

    def describe(self) -> str:
        """Where the answers come from."""
        return self._about


def open_saved(path: Path) -> SavedSearch:
    """Read a saved run; raises InputError naming file and line for what is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    report = _report(text)
    rows = _of_report(report) if report is not None else _of_lines(path, text)
    answers = {_key(row): _hits(row, where) for where, row in rows}
    if not answers:
        raise InputError(f"{path} holds no answer of Mem0", hint="a JSON report of dual-verify, or JSON Lines")
    about = report["measured"]["recall"]["mem0"] if report is not None else path.name
    return SavedSearch(answers, f"saved: {about}")


def _report(text: str) -> dict[str, Json] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("answers"), list) else None


def _of_report(report: Mapping[str, Json]) -> Iterator[tuple[str, Mapping[str, Json]]]:
    for number, answer in enumerate(report["answers"], start=1):
        if answer.get("mem0") and not answer["mem0"].get("error"):
            yield f"answer {number}", {"query": answer["query"], **answer["ids"], "results": answer["mem0"]["hits"]}


def _of_lines(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Json]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number} is no JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("query"), str):
            raise InputError(f"{path}:{number} has no `query`", hint="one question a line: query, user_id, results")
        yield f"{path}:{number}", row


def _key(row: Mapping[str, Json]) -> _Key:
    user_id, agent_id, run_id = (row.get(name) for name in _IDS)
    return row["query"], user_id, agent_id, run_id


def _hits(row: Mapping[str, Json], where: str) -> list[SearchHit]:
    results = row.get("results")
    if isinstance(results, dict):
        results = results.get("results")
    if not isinstance(results, list) or not all(isinstance(hit, dict) and "id" in hit for hit in results):
        raise InputError(f"{where} has no `results` with ids")
    return [SearchHit(str(hit["id"]), str(hit.get("memory", hit.get("text", ""))), _score(hit)) for hit in results]


def _score(hit: Mapping[str, Json]) -> float:
    score = hit.get("score")
    return float(score) if isinstance(score, int | float) else 0.0
