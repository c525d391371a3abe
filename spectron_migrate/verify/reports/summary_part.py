"""The top of the page: the verdict in one sentence, tiles, the open gates, and the passing ones folded (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectron_migrate.records import Json, counted
from spectron_migrate.verify.reports.parts import table, text
from spectron_migrate.verify.reports.text import gate_result, share_text, value_text
from spectron_migrate.verify.reports.wording import (
    MEANINGS,
    is_isolation_tested,
    open_gates,
    verdict_sentence,
    verdict_title,
)

_WRONG = ("altered", "doubled", "foreign", "misplaced", "order", "superseded_wrongly", "residue", "pending")


def verdict_card(report: Mapping[str, Json]) -> str:
    """The verdict, what it is about, and that the page is private."""
    about = (
        f"Migration {text(report['migration'])}, context {text(report['context'])} at {text(report['endpoint'])},"
        f" verified {text(report['ended'][:19].replace('T', ' '))} UTC by spectron-migrate {text(report['version'])}"
    )
    return (
        f'<section class="card verdict {report["verdict"]}"><p><b>{text(verdict_title(report))}</b></p>'
        f'<h1>{text(verdict_sentence(report))}</h1><p class="soft">{about}</p>'
        '<p class="private">This page holds texts of memories and queries. Keep it private.</p></section>'
    )


def tiles(report: Mapping[str, Json]) -> str:
    """The five figures that people ask for."""
    integrity, isolation = report["measured"]["integrity"], report["measured"]["isolation"]
    expected, present = integrity["expected"], integrity["present"]
    recall = report["measured"]["recall"]
    success = recall["metrics"]["success"] if recall else {"mem0": None, "spectron": None}
    by_name, tested = {gate["name"]: gate for gate in report["gates"]}, is_isolation_tested(report)
    return (
        '<section class="tiles">'
        + _tile(
            "present", f"{present:,}", f"of {counted(expected, 'memory')}", "good" if present == expected else "bad"
        )
        + _tile(
            "placed", f"{integrity['misplaced']:,}", "in a wrong scope", "bad" if integrity["misplaced"] else "good"
        )
        + _tile(
            "isolated",
            f"{isolation['leaks']:,}" if tested else "-",
            f"leaks in {counted(isolation.get('questions', 0), 'question')}" if tested else "not tested",
            "bad" if isolation["leaks"] else "good" if tested else "open",
        )
        + _tile(
            "recall",
            share_text(success["spectron"]),
            f"known items found; Mem0 {share_text(success['mem0'])}",
            _state(by_name.get("recall")),
        )
        + _tile(
            "lost", value_text(by_name.get("lost", {}).get("value")), "found by Mem0 only", _state(by_name.get("lost"))
        )
        + "</section>"
    )


def gates(found: Sequence[Mapping[str, Json]]) -> str:
    """Each open gate with its reason; the others folded, with what they mean."""
    still_open = open_gates(found)
    others = [gate for gate in found if gate not in still_open]
    cards = "".join(
        f'<div class="card"><strong>{text(gate["name"])}</strong>'
        f' <span class="{_class(gate)}">{gate_result(gate)}</span>: {text(gate["hint"] or "no reason is known")}'
        f'<p class="soft">{text(MEANINGS.get(gate["name"], ""))} Measured {text(value_text(gate["value"]))},'
        f" limit {text(value_text(gate['limit']))}.</p></div>"
        for gate in still_open
    )
    rows = [
        f'<tr><td>{text(gate["name"])}</td><td class="{_class(gate)}">{gate_result(gate)}</td>'
        f"<td>{text(MEANINGS.get(gate['name'], ''))} {text(gate['hint'])}</td></tr>"
        for gate in others
    ]
    count = f"{len(others)} of {counted(len(found), 'gate')} do not stand in the way"
    folded = f'<details class="card"><summary>{count}</summary>{table(("gate", "", "means"), rows)}</details>'
    return f"<h2>Gates</h2>{cards}{folded}"


def counts(measured: Mapping[str, Json]) -> str:
    """Findings by kind, and skipped rows by reason; empty if there are none."""
    integrity = measured["integrity"]
    rows = [(name.replace("_", " "), integrity[name]) for name in _WRONG if integrity.get(name)]
    rows += [(f"skipped: {why}", number) for why, number in integrity["skipped_by_reason"].items()]
    rows += [(name, integrity[name]) for name in ("stale", "expiring", "deleted", "carried") if integrity.get(name)]
    if not rows:
        return ""
    body = [f'<tr><td>{text(name)}</td><td class="number">{number:,}</td></tr>' for name, number in rows]
    shown = table(("", "memories"), body, numbers=("memories",))
    return f'<h2>Not moved, or not as it should be</h2><div class="card">{shown}</div>'


def _tile(title: str, value: str, under: str, state: str) -> str:
    return (
        f'<p class="card tile {state}"><span class="soft">{title}</span><strong>{text(value)}</strong>{text(under)}</p>'
    )


def _state(gate: Mapping[str, Json] | None) -> str:
    if gate is None:
        return "open"
    return {"passed": "good", "accepted": "good", "FAILED": "bad"}.get(gate_result(gate), "open")


def _class(gate: Mapping[str, Json]) -> str:
    return gate_result(gate).replace(" ", "-")
