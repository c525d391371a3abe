"""The report as one HTML page that loads nothing and escapes every text (pure)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape

from spectron_migrate.records import Json, counted
from spectron_migrate.verify.reports.charts import distribution, latency, owners
from spectron_migrate.verify.reports.course_part import course
from spectron_migrate.verify.reports.look import SCRIPT, STYLE
from spectron_migrate.verify.reports.parts import table, text
from spectron_migrate.verify.reports.queries_part import queries
from spectron_migrate.verify.reports.summary_part import counts, gates, tiles, verdict_card
from spectron_migrate.verify.reports.text import difficulty_text, findings_by_kind, interval_text, share_text

ROWS = 2000
"""The most findings of each kind that are shown. The JSON report has all."""


def html_report(report: Mapping[str, Json]) -> str:
    """The whole document."""
    body = [
        verdict_card(report),
        tiles(report),
        gates(report["gates"]),
        counts(report["measured"]),
        _findings(report["findings"]),
        _recall(report),
        queries(report["answers"]),
        course(report),
    ]
    # The page may use its own style and script only, identified by their digests, and load nothing.
    policy = f"default-src 'none'; style-src '{_digest(STYLE)}'; script-src '{_digest(SCRIPT)}'; base-uri 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>dual-verify: {report['verdict']}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _recall(report: Mapping[str, Json]) -> str:
    recall = report["measured"]["recall"]
    if recall is None:
        return '<h2>Recall</h2><p class="soft">No query was asked.</p>'
    metrics = recall["metrics"]
    rows = [
        f'<tr><td>{name}</td><td class="number">{share_text(metrics[key]["mem0"])}</td>'
        f'<td class="number">{share_text(metrics[key]["spectron"])}</td></tr>'
        for name, key in (("known item found (success@k)", "success"), ("MRR", "mrr"), ("nDCG", "ndcg"))
    ]
    difference = metrics["difference"]
    parts = [
        f'<p class="soft">{counted(metrics["queries"], "query")}, from {text(recall["made_of"])}; Mem0:'
        f" {text(recall['mem0'] or 'not asked')}.</p>",
        table(("", "Mem0", "Spectron"), rows, numbers=("Mem0", "Spectron")),
        f"<p>How hard: {text(difficulty_text(metrics['word_overlap']))}</p>"
        if metrics["word_overlap"] is not None
        else "",
        f"<p>Difference (Spectron minus Mem0): {text(interval_text(difference))}</p>" if difference is not None else "",
        _charts(report, metrics),
    ]
    return f'<h2>Recall</h2><div class="card">{"".join(parts)}</div>'


def _charts(report: Mapping[str, Json], metrics: Mapping[str, Json]) -> str:
    answers = [answer for answer in report["answers"] if "measures" in answer]
    overlaps = [answer["measures"]["overlap"] for answer in answers if "overlap" in answer["measures"]]
    parts = []
    if overlaps:
        noise = metrics["noise_floor"]["overlap"]
        parts.append(
            distribution("Overlap of both answers: number of queries by share of common memories", overlaps, noise)
        )
    parts.append(owners("Known items found, by user", report["by_owner"]))
    times = {
        side: [answer[side]["ms"] for answer in answers if answer.get(side) and answer[side]["error"] is None]
        for side in ("mem0", "spectron")
    }
    parts.append(latency("Time to answer, milliseconds", times))
    return f"<details><summary>Charts</summary>{''.join(parts)}</details>"


def _findings(findings: Sequence[Mapping[str, Json]]) -> str:
    parts = []
    for kind, group in findings_by_kind(findings).items():
        rows = [
            f"<tr><td>{_texts(one.get('texts') or {})}</td><td data-of=reason>{text(one['reason'])}</td>"
            f"<td data-of=where>{text(one['where'])}</td>"
            f'<td data-of=memory class="soft">{text(one["id"] or "-")}</td></tr>'
            for one in group[:ROWS]
        ]
        shown = table(("texts", "reason", "where", "memory"), rows, stacks=True)
        parts.append(f'<h2>{text(kind)}: {len(group)}</h2><div class="card">{shown}</div>')
    return "\n".join(parts)


def _texts(texts: Mapping[str, str]) -> str:
    return "<br>".join(f'<span class="soft">{text(name)}:</span> {text(one)}' for name, one in texts.items())


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
