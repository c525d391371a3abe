"""Queries as cards, the worst first: both answers side by side, with what moved and what differs (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from spectron_migrate.records import Json, counted
from spectron_migrate.verify.reports.parts import text
from spectron_migrate.verify.reports.text import rank_change, reason_text, visible

ROWS = 2000
"""The most queries that are shown. The JSON report has all."""


def queries(answers: Sequence[Mapping[str, Json]]) -> str:
    """All queries, with filters; empty if none was asked."""
    if not answers:
        return ""
    users = sorted({answer["owner"] for answer in answers})
    reasons = sorted({one["why"] for answer in answers for one in answer.get("differences") or ()})
    scopes = sorted({path for answer in answers for path in answer.get("scopes") or ()})
    filters = (
        '<fieldset id="filters" hidden><label>search <input id="words" type="search"></label>'
        f'<label>user <select id="user">{_options(users)}</select></label>'
        f'<label>reason <select id="why">{_options(reasons)}</select></label>'
        f'<label>scope <select id="scope">{_options(scopes)}</select></label><output id="count"></output></fieldset>'
    )
    shown = sorted(answers, key=_badness)[:ROWS]
    rest = counted(len(answers) - ROWS, "more query is", "more queries are")
    more = f"<p>{rest} in the JSON report.</p>" if len(answers) > ROWS else ""
    return f"<h2>Queries, the worst first</h2>{filters}{''.join(map(_card, shown))}{more}"


def _badness(answer: Mapping[str, Json]) -> tuple[float, float, int]:
    """Lowest first: found by Mem0 and not by Spectron, then little in common."""
    measures = answer.get("measures")
    if not measures:
        return 0.5, 0.0, answer["no"]
    success = {side: (measures.get(side) or {}).get("success", 0.0) for side in ("mem0", "spectron")}
    return success["spectron"] - success["mem0"], measures.get("overlap", 1.0), answer["no"]


def _card(answer: Mapping[str, Json]) -> str:
    differences = {one["id"]: one for one in answer.get("differences") or ()}
    reasons = " ".join(sorted({one["why"] for one in differences.values()}))
    scopes = text(json.dumps([visible(path) for path in answer.get("scopes") or ()]))
    head = (
        f'<article class="card" data-user="{text(answer["owner"])}" data-why="{text(reasons)}" data-scopes="{scopes}">'
        f'<h3>{text(answer["query"])}</h3><p class="soft">{text(answer["owner"])}</p>'
    )
    if "not_servable" in answer:
        return f'{head}<p class="undecided">{text(answer["not_servable"])}</p></article>'
    mem0 = _mem0_side(answer, differences)
    spectron = _spectron_side(answer)
    return (
        f'{head}<div class="sides"><div><h4 class="mem0">Mem0</h4>{mem0}</div>'
        f'<div><h4 class="spectron">Spectron</h4>{spectron}</div></div></article>'
    )


def _mem0_side(answer: Mapping[str, Json], differences: Mapping[str, Mapping[str, Json]]) -> str:
    if answer["mem0"] is None:
        return '<p class="soft">not asked</p>'
    found = {hit["memory"] for hit in answer["spectron"]["hits"] if not hit["dropped"]}
    items = []
    for rank, hit in enumerate(answer["mem0"]["hits"], 1):
        why = differences.get(hit["id"])
        note = f' <span class="why">{text(reason_text(why))}</span>' if why is not None else ""
        kinds = (("same", hit["id"] in found), ("wanted", hit["id"] in answer["expect"]))
        items.append(_item(kinds, str(rank), text(hit["text"]) + note))
    return _failure(answer["mem0"]) + _list(items)


def _spectron_side(answer: Mapping[str, Json]) -> str:
    mem0 = {hit["id"]: (rank, hit) for rank, hit in enumerate((answer["mem0"] or {"hits": ()})["hits"], 1)}
    items, rank = [], 0
    for hit in answer["spectron"]["hits"]:
        note = f' <span class="why">dropped: {text(hit["dropped"])}</span>' if hit["dropped"] else ""
        rank += not hit["dropped"]
        before, its = mem0.get(hit["memory"], (None, None))
        kinds = (
            ("same", its is not None),
            ("new", its is None and answer["mem0"] is not None and not hit["dropped"]),
            ("wanted", hit["memory"] in answer["expect"]),
        )
        shown = text(hit["text"]) if its is None else _marked(hit["text"], its["text"])
        items.append(_item(kinds, "" if hit["dropped"] else rank_change(before, rank), shown + note))
    return _failure(answer["spectron"]) + _list(items)


def _marked(found: str, expected: str) -> str:
    """The text with its words that the other text does not have marked."""
    known = set(visible(expected).casefold().split())
    words = visible(found).split(" ")
    return " ".join(
        text(word) if not word or word.casefold() in known else f"<mark>{text(word)}</mark>" for word in words
    )


def _item(kinds: Iterable[tuple[str, bool]], rank: str, body: str) -> str:
    names = " ".join(name for name, holds in kinds if holds)
    return f'<li class="{names}"><span class="rank">{text(rank)}</span><span class="hit">{body}</span></li>'


def _list(items: Sequence[str]) -> str:
    return f"<ol>{''.join(items)}</ol>" if items else '<p class="soft">nothing</p>'


def _failure(side: Mapping[str, Json]) -> str:
    return f'<p class="FAILED">{text(side["error"])}</p>' if side["error"] else ""


def _options(values: Iterable[str]) -> str:
    return '<option value="">all</option>' + "".join(
        f'<option value="{text(one)}">{text(one)}</option>' for one in values
    )
