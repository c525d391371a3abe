"""Reports as files. `.json` and `.html` hold texts and say so; `.md` and `.xml` are for others to see and hold none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from spectron_migrate.errors import InputError
from spectron_migrate.records import Json

LISTED = 100
"""Findings of a kind that a report for others names; the JSON report has all."""


def check_paths(paths: Iterable[Path]) -> None:
    """Refuse a report that could not be written, before anything is asked; raises InputError for all of them."""
    problems = []
    for path in paths:
        if path.suffix not in _WRITERS:
            problems.append(f"{path} is no report by its suffix: known are {', '.join(_WRITERS)}")
        elif path.is_dir():
            problems.append(f"{path} is a directory")
        elif path.parent.exists() and not os.access(path.parent, os.W_OK):
            problems.append(f"{path.parent} cannot be written to")
    if problems:
        raise InputError.of_all(problems)


def write_reports(report: Mapping[str, Json], paths: Iterable[Path], *, texts: bool) -> tuple[str, ...]:
    """Write each report by its suffix, whole or not at all, mode 0600; `texts` lets `.md` and `.xml` have them too."""
    written = []
    for path in paths:
        _write(path, _WRITERS[path.suffix](report, texts))
        written.append(str(path))
    return tuple(written)


def visible(text: object) -> str:
    """Text from outside on one line, without anything that a terminal or a page would obey."""
    return "".join(
        letter if letter.isprintable() else f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}"
        for letter in str(text)
    )


def share(value: float | None) -> str:
    """A share of 1 with three digits."""
    return "not measured" if value is None else f"{value:.3f}"


def _json(report: Mapping[str, Json], texts: bool) -> str:
    """A top-level entry a line, and a row of a long list a line: to be read by people, and written fast."""
    parts = []
    for name, value in report.items():
        if isinstance(value, list) and value:
            rows = ",\n  ".join(json.dumps(row) for row in value)
            parts.append(f"{json.dumps(name)}: [\n  {rows}\n ]")
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _html(report: Mapping[str, Json], texts: bool) -> str:
    from spectron_migrate.verify.page import page

    return page(report)


def _markdown(report: Mapping[str, Json], texts: bool) -> str:
    lines = [f"# dual-verify: {report['verdict']}", ""]
    if texts:
        lines += ["**This report holds texts of memories and queries.**", ""]
    lines += [
        f"Migration {_code(report['migration'])}, context {_code(report['context'])}, {_code(report['ended'])}",
        "",
        "| gate | value | limit | passed | |",
        "|---|---|---|---|---|",
    ]
    for gate in report["gates"]:
        cells = (gate["name"], _shown(gate["value"]), _shown(gate["limit"]), outcome(gate), gate["hint"])
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    lines += ["", "## Memories", ""]
    integrity = report["measured"]["integrity"]
    lines += [f"- {_cell(name)}: {value}" for name, value in integrity.items() if type(value) is int]
    lines += [f"- skipped, {_code(why)}: {n}" for why, n in integrity["skipped_by_reason"].items()]
    recall = report["measured"]["recall"]
    if recall is not None:
        lines += ["", "## Recall", "", *_recall_lines(recall)]
    for kind, findings in by_kind(report["findings"]).items():
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
        f"- queries: {metrics['queries']}, made of {recall['made_of']}; compared: {metrics['compared']},"
        f" without a lens: {metrics['not_servable']}",
    ]
    lines += [f"- not asked: {n}, {_cell(why)}" for why, n in metrics["not_servable_why"].items()]
    lines += [
        f"- {name}: Mem0 {share(metrics[name]['mem0'])}, Spectron {share(metrics[name]['spectron'])}"
        for name in ("success", "mrr", "ndcg")
    ]
    if metrics["difference"] is not None:
        lines.append(f"- difference: {interval_text(metrics['difference'])}")
    lines.append(f"- overlap: {share(metrics['overlap'])}, RBO: {share(metrics['rbo'])}")
    lines += [f"- differences explained as {_cell(why)}: {n}" for why, n in recall["explained"].items()]
    return lines


def interval_text(interval: Mapping[str, Json]) -> str:
    """A mean with its interval, and about whom it speaks."""
    about = {
        "users": "users like these",
        "queries": "within these users",
        "all": "every memory was asked for: no sampling error",
    }[interval["units"]]
    return f"{interval['mean']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}] ({about}, n = {interval['n']})"


def outcome(gate: Mapping[str, Json]) -> str:
    """How a gate stands, in a word."""
    if not gate["measured"]:
        return "not measured"
    return {True: "passed", False: "FAILED", None: "undecided"}[gate["passed"]]


def by_kind(findings: Sequence[Mapping[str, Json]]) -> dict[str, list[Mapping[str, Json]]]:
    """Findings in groups, in their order."""
    groups: dict[str, list[Mapping[str, Json]]] = {}
    for finding in findings:
        groups.setdefault(finding["kind"], []).append(finding)
    return groups


def _junit(report: Mapping[str, Json], texts: bool) -> str:
    """One test case a gate; what is undecided is an error, what was not measured is skipped."""
    groups = by_kind(report["findings"])
    cases, failures, errors, skipped = [], 0, 0, 0
    for gate in report["gates"]:
        inside = ""
        if not gate["measured"]:
            skipped += 1
            inside = f"<skipped message={_attribute(gate['hint'])}/>"
        elif gate["passed"] is False:
            failures += 1
            found = _listed(groups, _KINDS_OF.get(gate["name"], ()), texts)
            inside = f"<failure message={_attribute(gate['hint'])}>{escape(found)}</failure>"
        elif gate["passed"] is None:
            errors += 1
            inside = f"<error message={_attribute(gate['hint'])}/>"
        cases.append(f'  <testcase classname="dual-verify" name={_attribute(gate["name"])}>{inside}</testcase>')
    head = f'tests="{len(cases)}" failures="{failures}" errors="{errors}" skipped="{skipped}"'
    name = _attribute(f"dual-verify: {report['verdict']}")
    body = "\n".join(cases)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuite name={name} {head}>\n{body}\n</testsuite>\n'


_KINDS_OF = {
    "missing": ("missing",),
    "altered": ("altered",),
    "doubled": ("doubled",),
    "foreign": ("foreign",),
    "misplaced": ("misplaced",),
    "order": ("order",),
    "supersession": ("superseded_wrongly",),
    "residue": ("residue",),
    "isolation": ("leak",),
}


def _listed(groups: Mapping[str, Sequence[Mapping[str, Json]]], kinds: Iterable[str], texts: bool) -> str:
    found = [finding for kind in kinds for finding in groups.get(kind, ())]
    lines = []
    for finding in found[:LISTED]:
        lines.append(visible(f"{finding['id'] or '-'}: {finding['reason']} ({finding['where']})"))
        if texts:
            lines += [visible(f"  {name}: {text}") for name, text in (finding.get("texts") or {}).items()]
    if len(found) > LISTED:
        lines.append(f"and {len(found) - LISTED} more in the JSON report")
    return "\n".join(lines)


def _attribute(text: object) -> str:
    return quoteattr(visible(text))


def _shown(value: Json) -> str:
    if value is None:
        return "-"
    return f"{value:+.3f}" if isinstance(value, float) else str(value)


def _cell(text: object) -> str:
    """Text that no Markdown reader takes for anything else: its special letters as entities."""
    return "".join(f"&#{ord(letter)};" if letter in _SPECIAL else letter for letter in visible(text))


_SPECIAL = frozenset("\\`*_[]()<>|#!~&{}$@:/")


def _code(text: object) -> str:
    """An id or a path: entities instead of a code span, which a backtick could end."""
    return f"<code>{_cell(text)}</code>"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pending = path.with_name(f".{path.name}.{os.getpid()}.new")
    handle = os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    pending.replace(path)


_WRITERS: dict[str, Callable[[Mapping[str, Json], bool], str]] = {
    ".json": _json,
    ".md": _markdown,
    ".html": _html,
    ".xml": _junit,
}
