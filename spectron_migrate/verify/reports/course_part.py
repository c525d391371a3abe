"""The end of the page: memories by scope, the verifications before this one, and the steps of the cutover (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectron_migrate.records import Json, counted
from spectron_migrate.verify.past import as_past
from spectron_migrate.verify.reports.charts import trend
from spectron_migrate.verify.reports.parts import table, text
from spectron_migrate.verify.reports.text import share_text

SCOPES = 50
"""The most scopes that are shown: the fullest. The JSON report has all."""

_STEPS = {
    "start": "the cutover began",
    "shift": "reads were shifted",
    "pin": "ids were pinned",
    "accept": "a gate was accepted",
    "revert": "all reads went back to Mem0",
    "closing": "the writes began to move",
    "complete": "Spectron became the only store",
    "sealed": "the last writes to Mem0 were brought over",
    "abort": "the cutover was ended",
}


def course(report: Mapping[str, Json]) -> str:
    """All three parts. A part with nothing to show is left out."""
    return f"{_scopes(report.get('scopes') or [])}{_trend(report)}{_timeline(report.get('cutover') or [])}"


def _scopes(scopes: Sequence[Mapping[str, Json]]) -> str:
    if not scopes:
        return ""
    rows = [
        f'<tr><td>{text(_selector_text(one["selector"]))}</td><td class="number">{one["memories"]:,}</td></tr>'
        for one in scopes[:SCOPES]
    ]
    rest = scopes[SCOPES:]
    if rest:
        fewer = sum(one["memories"] for one in rest)
        rows.append(
            f'<tr><td class="soft">{counted(len(rest), "more scope")}</td><td class="number">{fewer:,}</td></tr>'
        )
    holding = counted(len(scopes), "scope holds", "scopes hold")
    return (
        f'<h2>Scopes</h2><details class="card"><summary>{holding} memories</summary>'
        f"{table(('scope', 'memories'), rows, numbers=('memories',))}</details>"
    )


def _trend(report: Mapping[str, Json]) -> str:
    """The verifications of this migration, this one last. Empty for the first one."""
    past = report.get("past") or []
    if not past:
        return ""
    all_of_them = [*past, as_past(report)]
    items = [_item(one["ended"], f"<b>{text(one['verdict'])}</b>", _run_text(one)) for one in reversed(all_of_them)]
    runs = f'<ol class="steps">{"".join(items)}</ol>'
    return f'<h2>Verifications so far</h2><div class="card">{trend(all_of_them)}{runs}</div>'


def _run_text(run: Mapping[str, Json]) -> str:
    parts = [f"{run['present']:,} of {counted(run['expected'], 'memory')} are there"]
    if run["spectron"] is not None:
        parts.append(f"known items found: Mem0 {share_text(run['mem0'])}, Spectron {share_text(run['spectron'])}")
    if run["leaks"]:
        parts.append(f"leaks: {run['leaks']:,}")
    if run["open"]:
        parts.append(f"open: {', '.join(run['open'])}")
    return "; ".join(parts)


def _timeline(steps: Sequence[Mapping[str, Json]]) -> str:
    if not steps:
        return ""
    items = [_item(step["at"], text(_step_text(step)), f"{step['who']}{_reason(step)}") for step in steps]
    return f'<h2>Cutover</h2><ol class="card steps">{"".join(items)}</ol>'


def _item(moment: str, what: str, more: str) -> str:
    """One line with its time; `what` is HTML."""
    when = text(moment[:16].replace("T", " "))
    return f'<li><span class="rank">{when}</span><span>{what}<br><span class="soft">{text(more)}</span></span></li>'


def _step_text(step: Mapping[str, Json]) -> str:
    name = step["step"]
    if name == "shift":
        return f"{step['percent']:g} % of users are read from Spectron"
    if name == "accept":
        return f"gate {step['gate']} was accepted"
    return _STEPS.get(name, str(name))


def _reason(step: Mapping[str, Json]) -> str:
    return f": {step['why']}" if step["why"] else ""


def _selector_text(selector: Sequence[Sequence[str]]) -> str:
    return " or ".join(" and ".join(clause) for clause in selector)
