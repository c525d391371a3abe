"""The report as JSON: the complete one, which holds all texts and lists."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from spectron_migrate.records import Json

LAST_REPORT = "dual-verify.json"
"""File in the state directory with the newest report about all users; the cutover gates read it."""
LAST_REPORT_OF_SOME = "dual-verify-some.json"
"""The same for a verification that was limited to some users."""

_FIRST_LONG_ENTRY = "ids"


def json_report(report: Mapping[str, Json]) -> str:
    """One line per top-level entry, and one line per row of a list.

    That can be read by people, is written quickly, and lets `read_header` stop before the long lists.
    """
    parts = []
    for name, value in report.items():
        if isinstance(value, list) and value:
            rows = ",\n  ".join(json.dumps(row) for row in value)
            parts.append(f"{json.dumps(name)}: [\n  {rows}\n ]")
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def read_header(path: Path) -> dict[str, Json]:
    """Verdict, gates, options and measurements of a report, without its ids, findings and answers.

    A report of millions of memories has gigabytes, its header a few kilobytes. Raises OSError, or ValueError if the
    file is no such report.
    """
    header = ""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith(f' "{_FIRST_LONG_ENTRY}":'):
                header = header.rstrip().removesuffix(",") + "}"
                break
            header += line
    report = json.loads(header)
    if not isinstance(report, dict):
        raise ValueError(f"{path} is not a report of dual-verify")
    return report
