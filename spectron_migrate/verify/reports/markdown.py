"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from spectron_migrate.records import Json, counted
from spectron_migrate.verify.reports.text import (
    LISTED,
    difficulty_text,
    findings_by_kind,
    gate_result,
    interval_text,
    share_text,
    value_text,
    visible,
)


def markdown_report(report: Mapping[str, Json], *, texts: bool) -> str:
    """The whole document; `texts` lets it hold texts of memories and queries."""
    lines = [f"# dual-verify: {report['verdict']}", ""]
    if users := report["options"].get("users"):
        lines += [f"Of {counted(len(users), 'user')} alone: the cutover needs a verification of everybody.", ""]
    if texts:
        lines += ["**This report holds texts of memories and queries.**", ""]
    lines += [
        f"Migration {_code(report['migration'])}, context {_code(report['context'])}, {_code(report['ended'])}",
        "",
        "| gate | value | limit | passed | |",
        "|---|---|---|---|---|",
    ]
    for gate in report["gates"]:
        cells = (gate["name"], value_text(gate["value"]), value_text(gate["limit"]), gate_result(gate), gate["hint"])
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    lines += ["", "## Memories", ""]
    integrity = report["measured"]["integrity"]
    lines += [f"- {_cell(name)}: {value}" for name, value in integrity.items() if type(value) is int]
    lines += [f"- skipped, {_code(why)}: {n}" for why, n in integrity["skipped_by_reason"].items()]
    recall = report["measured"]["recall"]
    if recall is not None:
        lines += ["", "## Recall", "", *_recall_lines(recall)]
    for kind, findings in findings_by_kind(report["findings"]).items():
        lines += ["", f"## {_cell(kind)}: {len(findings)}", ""]
        for finding in findings[:LISTED]:
            lines.append(f"- {_code(finding['id'] or '-')}: {_cell(finding['reason'])} ({_code(finding['where'])})")
            if texts:
                lines += [f"  - {_cell(name)}: {_code(text)}" for name, text in (finding.get("texts") or {}).items()]
        if len(findings) > LISTED:
            lines.append(f"- and {len(findings) - LISTED} more in the JSON report")
    if texts:
        lines += ["", "## Queries", ""]
        for answer in report["answers"]:
            lines.append(f"- {_code(answer['query'])} ({_code(answer['owner'])})")
    return "\n".join(lines) + "\n"


def _recall_lines(recall: Mapping[str, Json]) -> list[str]:
    metrics = recall["metrics"]
    lines = [
        f"- Mem0: {_code(recall['mem0'] or 'not asked')}",
        f"- queries: {metrics['queries']}, from {recall['made_of']}; compared: {metrics['compared']},"
        f" without a lens: {metrics['not_servable']}",
    ]
    lines += [f"- not asked: {n}, {_cell(why)}" for why, n in metrics["not_servable_why"].items()]
    lines += [
        f"- {name}: Mem0 {share_text(metrics[name]['mem0'])}, Spectron {share_text(metrics[name]['spectron'])}"
        for name in ("success", "mrr", "ndcg")
    ]
    if metrics["word_overlap"] is not None:
        lines.append(f"- how hard: {difficulty_text(metrics['word_overlap'])}")
    if metrics["difference"] is not None:
        lines.append(f"- difference: {interval_text(metrics['difference'])}")
    lines.append(f"- overlap: {share_text(metrics['overlap'])}, RBO: {share_text(metrics['rbo'])}")
    lines += [f"- differences explained as {_cell(why)}: {n}" for why, n in recall["explained"].items()]
    return lines


def _cell(text: object) -> str:
    """Text with Markdown's special characters as entities, so that it is shown as it is."""
    return "".join(f"&#{ord(letter)};" if letter in _SPECIAL else letter for letter in visible(text))


_SPECIAL = frozenset("\\`*_[]()<>|#!~&{}$@:/")


def _code(text: object) -> str:
    """An id or a path as HTML code: a backtick in it would end a Markdown code span."""
    return f"<code>{_cell(text)}</code>"
