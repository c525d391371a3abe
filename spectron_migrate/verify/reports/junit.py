"""The report as JUnit XML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

from spectron_migrate.records import Json
from spectron_migrate.verify.reports.text import LISTED, findings_by_kind, visible


def junit_report(report: Mapping[str, Json], *, texts: bool) -> str:
    """One test case a gate: an undecided gate is an error; one that is accepted or does not decide is skipped."""
    groups = findings_by_kind(report["findings"])
    cases, failures, errors, skipped = [], 0, 0, 0
    for gate in report["gates"]:
        result = ""
        if gate["accepted"] or (gate["passed"] is not True and not gate["decides"]):
            skipped += 1
            result = f"<skipped message={_attribute(gate['hint'])}/>"
        elif gate["passed"] is False:
            failures += 1
            named = _findings_text(groups, _KINDS_OF.get(gate["name"], ()), texts)
            result = f"<failure message={_attribute(gate['hint'])}>{escape(named)}</failure>"
        elif gate["passed"] is None:
            errors += 1
            result = f"<error message={_attribute(gate['hint'])}/>"
        cases.append(f'  <testcase classname="dual-verify" name={_attribute(gate["name"])}>{result}</testcase>')
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
    "facts": ("misplaced_fact",),
    "residue": ("residue",),
    "isolation": ("leak",),
    "unaccounted": ("unaccounted",),
}


def _findings_text(groups: Mapping[str, Sequence[Mapping[str, Json]]], kinds: Iterable[str], texts: bool) -> str:
    findings = [finding for kind in kinds for finding in groups.get(kind, ())]
    lines = []
    for finding in findings[:LISTED]:
        lines.append(visible(f"{finding['id'] or '-'}: {finding['reason']} ({finding['where']})"))
        if texts:
            lines += [visible(f"  {name}: {text}") for name, text in (finding.get("texts") or {}).items()]
    if len(findings) > LISTED:
        lines.append(f"and {len(findings) - LISTED} more in the JSON report")
    return "\n".join(lines)


def _attribute(text: object) -> str:
    return quoteattr(visible(text))
