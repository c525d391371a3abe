"""Saved answers in place of Mem0, recorded elsewhere or in the report of an earlier dual-verify."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from spectron_migrate.errors import InputError, Unreachable
from spectron_migrate.mem0.search import SearchHit
from spectron_migrate.records import Json, canonical_json

_HINT = 'one line per query: {"query": "…", "user_id": "…", "results": [hits of Mem0]}, or a JSON report of dual-verify'
_IDS = ("user_id", "agent_id", "run_id")


class SavedResults:
    """Mem0's answers, from a file; made by `load_results`."""

    def __init__(self, answers: Mapping[str, list[SearchHit]], description: str) -> None:
        self._answers = answers
        self._description = description

    def search(
        self, query: str, *, user_id: str | None, agent_id: str | None, run_id: str | None, top_k: int
    ) -> list[SearchHit]:
        """The saved answer; raises Unreachable if the file has none, which is not the same as an empty answer."""
        ids = {"user_id": user_id, "agent_id": agent_id, "run_id": run_id}
        key = _key(query, {name: value for name, value in ids.items() if value is not None})
        if key not in self._answers:
            raise Unreachable(
                "the saved results have no answer to this query", hint="save the results again with these queries"
            )
        return self._answers[key][:top_k]

    def describe(self) -> str:
        """Which Mem0 answered, if the file says so."""
        return self._description


def load_results(path: Path) -> SavedResults:
    """Answers as JSON Lines, or a JSON report of dual-verify; raises InputError naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error
    answers: dict[str, list[SearchHit]] = {}
    description = f"saved in {path.name}"
    report = _report(text)
    if report is not None:
        mem0, rows = _of_report(path, report)
        description = f"{mem0}, {description}"
    else:
        rows = list(_lines(path, text))
    for where, row in rows:
        key, hits = _answer(where, row)
        if report is None and key in answers:
            raise InputError(f"{where}: a second answer to the same query", hint=_HINT)
        answers[key] = hits
    if not answers:
        raise InputError(f"{path} has no answer of Mem0", hint=_HINT)
    return SavedResults(answers, description)


def _report(text: str) -> dict[str, Json] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and value.get("command") == "dual-verify" else None


def _of_report(path: Path, report: dict[str, Json]) -> tuple[str, list[tuple[str, Json]]]:
    """Which Mem0 answered, and its answers. A query that was asked twice occurs twice."""
    rows: list[tuple[str, Json]] = []
    try:
        mem0 = (report["measured"]["recall"] or {}).get("mem0")
        for number, answer in enumerate(report["answers"]):
            if answer.get("mem0") and answer["mem0"]["error"] is None:
                hits = [{"id": hit["id"], "memory": hit["text"]} for hit in answer["mem0"]["hits"]]
                row = {"query": answer["query"], **answer["ids"], "results": hits}
                rows.append((f"{path}, answer {number}", row))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a complete report of dual-verify", hint=_HINT) from error
    return str(mem0), rows


def _lines(path: Path, text: str) -> Iterator[tuple[str, Json]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}:{number}: not JSON: {error}", hint=_HINT) from error


def _answer(where: str, row: Json) -> tuple[str, list[SearchHit]]:
    if not isinstance(row, dict) or not isinstance(row.get("query"), str):
        raise InputError(f"{where}: not an answer to a query", hint=_HINT)
    ids = {name: str(row[name]) for name in _IDS if row.get(name) is not None}
    found = row.get("results")
    rows = found.get("results") if isinstance(found, dict) else found
    if not ids or not isinstance(rows, list):
        raise InputError(
            f"{where}: {'`results` is not a list' if ids else 'it has none of user_id, agent_id and run_id'}",
            hint=_HINT,
        )
    try:
        hits = [SearchHit(str(hit["id"]), str(hit["memory"]), hit.get("score")) for hit in rows]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: a result without `id` and `memory`", hint=_HINT) from error
    return _key(row["query"], ids), hits


def _key(query: str, ids: Mapping[str, str]) -> str:
    return canonical_json([query, dict(ids)])
