"""The report as one HTML page that loads nothing and escapes every text."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from spectron_migrate.records import Json
from spectron_migrate.verify.reports.charts import distribution, latency, owners
from spectron_migrate.verify.reports.text import (
    findings_by_kind,
    gate_result,
    interval_text,
    share_text,
    value_text,
    visible,
)

ROWS = 2000
"""At most this many queries, and findings of each kind, are shown; the JSON report has all."""

_STYLE = """
:root{color-scheme:light dark;--ink:#1d2433;--soft:#5c667a;--line:#d5dae3;--paper:#fff;--good:#186a3b;--bad:#b3261e;
--open:#8a5a00;--mem0:#8a5cd6;--spectron:#0b7a75}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf2;--soft:#a4adbd;--line:#3a4252;--paper:#151a23;--mem0:#b99bf0;
--spectron:#4cc2b8;--good:#6fd08c;--bad:#ff8a80;--open:#f0c060}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:76rem;margin:0 auto;
padding:1rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid var(--line)}
td{overflow-wrap:anywhere}th{color:var(--soft);font-weight:600}
.warn{border:2px solid var(--bad);padding:.5rem .8rem}
.passed{color:var(--good)}.FAILED{color:var(--bad);font-weight:700}.undecided{color:var(--open)}.soft{color:var(--soft)}
.GO{color:var(--good)}.NO_GO{color:var(--bad)}.INCONCLUSIVE{color:var(--open)}
ol{margin:0;padding-left:1.3rem}.hit{font-weight:600}.mark::after{content:" \\2713";color:var(--good)}
svg{width:100%;height:auto;max-height:80rem}svg text{fill:var(--ink);font:12px system-ui,sans-serif}
.mem0{fill:var(--mem0)}.spectron{fill:var(--spectron)}.axis{stroke:var(--line)}
fieldset{border:1px solid var(--line);display:flex;gap:1rem;flex-wrap:wrap}figure{margin:1rem 0}[hidden]{display:none}
"""
_SCRIPT = """
const rows=[...document.querySelectorAll('#queries tbody tr')];
const user=document.getElementById('user'),why=document.getElementById('why'),count=document.getElementById('count');
function show(){let n=0;for(const row of rows){
const ok=(!user.value||row.dataset.user===user.value)&&(!why.value||row.dataset.why.split(' ').includes(why.value));
row.hidden=!ok;n+=ok;}count.textContent=n+' of '+rows.length+' queries';}
user.addEventListener('change',show);why.addEventListener('change',show);show();
"""


def html_report(report: Mapping[str, Json]) -> str:
    """The whole document."""
    verdict = report["verdict"]
    body = [
        f'<h1>dual-verify: <span class="{verdict}">{verdict}</span></h1>',
        '<p class="warn"><strong>This page holds texts of memories and queries.</strong> Keep it private.</p>',
        f"<p>Migration {_text(report['migration'])}, context {_text(report['context'])} at {_text(report['endpoint'])},"
        f" {_text(report['ended'])}, spectron-migrate {_text(report['version'])}</p>",
        "<h2>Gates</h2>",
        _gates(report["gates"]),
        "<h2>Memories</h2>",
        _memories(report["measured"]),
        _recall(report),
        _findings(report["findings"]),
        _queries(report["answers"]),
    ]
    # The page may use its own style and script only, identified by their digests, and load nothing.
    policy = f"default-src 'none'; style-src '{_digest(_STYLE)}'; script-src '{_digest(_SCRIPT)}'; base-uri 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>dual-verify: {verdict}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _gates(gates: Sequence[Mapping[str, Json]]) -> str:
    rows = [
        f"<tr><td>{_text(gate['name'])}</td><td>{_text(value_text(gate['value']))}</td><td>{_text(value_text(gate['limit']))}</td>"
        f'<td class="{gate_result(gate).replace(" ", "-")}">{gate_result(gate)}</td><td>{_text(gate["hint"])}</td></tr>'
        for gate in gates
    ]
    return _table(("gate", "value", "limit", "", ""), rows)


def _memories(measured: Mapping[str, Json]) -> str:
    counts = {name: value for name, value in measured["integrity"].items() if type(value) is int}
    counts |= {f"skipped: {why}": n for why, n in measured["integrity"]["skipped_by_reason"].items()}
    counts |= {f"isolation: {name}": n for name, n in measured["isolation"].items()}
    return _table(("", "memories"), [f"<tr><td>{_text(name)}</td><td>{n:,}</td></tr>" for name, n in counts.items()])


def _recall(report: Mapping[str, Json]) -> str:
    recall = report["measured"]["recall"]
    if recall is None:
        return "<h2>Recall</h2><p>No query was asked.</p>"
    metrics = recall["metrics"]
    rows = [
        f"<tr><td>{name}</td><td>{share_text(metrics[key]['mem0'])}</td><td>{share_text(metrics[key]['spectron'])}</td></tr>"
        for name, key in (("known item found (success@k)", "success"), ("MRR", "mrr"), ("nDCG", "ndcg"))
    ]
    parts = [
        "<h2>Recall</h2>",
        f"<p>Mem0: {_text(recall['mem0'] or 'not asked')}. {metrics['queries']} queries, from"
        f" {_text(recall['made_of'])}.</p>",
        _table(("", "Mem0", "Spectron"), rows),
    ]
    if metrics["difference"] is not None:
        parts.append(f"<p>Difference (Spectron minus Mem0): {_text(interval_text(metrics['difference']))}</p>")
    answers = [answer for answer in report["answers"] if "measures" in answer]
    overlaps = [answer["measures"]["overlap"] for answer in answers if "overlap" in answer["measures"]]
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
    return "\n".join(parts)


def _findings(findings: Sequence[Mapping[str, Json]]) -> str:
    parts = []
    for kind, group in findings_by_kind(findings).items():
        rows = [
            f"<tr><td>{_text(one['id'] or '-')}</td><td>{_text(one['reason'])}</td><td>{_text(one['where'])}</td>"
            f"<td>{_texts(one.get('texts') or {})}</td></tr>"
            for one in group[:ROWS]
        ]
        parts.append(f"<h2>{_text(kind)}: {len(group)}</h2>" + _table(("memory", "reason", "where", "texts"), rows))
    return "\n".join(parts)


def _texts(texts: Mapping[str, str]) -> str:
    return "<br>".join(f'<span class="soft">{_text(name)}:</span> {_text(text)}' for name, text in texts.items())


def _queries(answers: Sequence[Mapping[str, Json]]) -> str:
    users = sorted({answer["owner"] for answer in answers})
    whys = sorted({one["why"] for answer in answers for one in answer.get("differences") or ()})
    rows = [_query(answer) for answer in answers[:ROWS]]
    filters = (
        f'<fieldset><label>user <select id="user">{_options(users)}</select></label>'
        f'<label>reason <select id="why">{_options(whys)}</select></label><output id="count"></output></fieldset>'
    )
    more = f"<p>{len(answers) - ROWS} more queries are in the JSON report.</p>" if len(answers) > ROWS else ""
    table = _table(("query", "Mem0", "Spectron", "why it differs"), rows)
    return f'<h2>Queries, side by side</h2>{filters}<div id="queries">{table}</div>{more}'


def _query(answer: Mapping[str, Json]) -> str:
    whys = " ".join(sorted({one["why"] for one in answer.get("differences") or ()}))
    head = f'<tr data-user="{_text(answer["owner"])}" data-why="{_text(whys)}">'
    asked = f'{_text(answer["query"])}<br><span class="soft">{_text(answer["owner"])}</span>'
    if "not_servable" in answer:
        return f'{head}<td>{asked}</td><td colspan="3">{_text(answer["not_servable"])}</td></tr>'
    expect = set(answer["expect"])
    mem0, spectron = answer.get("mem0"), answer["spectron"]
    mem0_hits = [{**hit, "memory": hit["id"], "dropped": ""} for hit in mem0["hits"]] if mem0 else []
    common = {hit["mark"] for hit in mem0_hits} & {hit["mark"] for hit in spectron["hits"]} - {""}
    reasons = "<br>".join(
        f"{_text(one['id'])}: {_text(one['why'])} {_text(one['detail'])}<br>{_texts(one['texts'])}"
        for one in answer.get("differences") or ()
    )
    mem0_cell = _hits(mem0_hits, common, expect) if mem0 else '<span class="soft">not asked</span>'
    return (
        f"{head}<td>{asked}</td><td>{_error(mem0)}{mem0_cell}</td>"
        f"<td>{_error(spectron)}{_hits(spectron['hits'], common, expect)}</td><td>{reasons}</td></tr>"
    )


def _hits(hits: Iterable[Mapping[str, Json]], common: set[str], expect: set[str]) -> str:
    items = []
    for hit in hits:
        names = [name for name, holds in (("mark", hit["mark"] in common), ("hit", hit["memory"] in expect)) if holds]
        note = f' <span class="soft">(dropped: {_text(hit["dropped"])})</span>' if hit["dropped"] else ""
        items.append(f'<li class="{" ".join(names)}">{_text(hit["text"])}{note}</li>')
    return f"<ol>{''.join(items)}</ol>" if items else '<span class="soft">nothing</span>'


def _error(side: Mapping[str, Json] | None) -> str:
    return f'<span class="FAILED">{_text(side["error"])}</span>' if side and side["error"] else ""


def _options(values: Iterable[str]) -> str:
    return '<option value="">all</option>' + "".join(
        f'<option value="{_text(one)}">{_text(one)}</option>' for one in values
    )


def _table(columns: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _text(value: object) -> str:
    return escape(visible(value))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
