"""The report as JSON: the complete one, which holds all texts and lists."""

from __future__ import annotations

import json
from collections.abc import Mapping

from spectron_migrate.records import Json

LAST_REPORT = "dual-verify.json"
"""File in the state directory with the newest report about all users; the cutover gates read it."""
LAST_REPORT_OF_SOME = "dual-verify-some.json"
"""The same for a verification that was limited to some users."""

MOST_HEADER = 1_000_000
"""The most bytes that a header takes."""
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


def read_header(data: bytes) -> dict[str, Json]:
    """Verdict, gates, options and measurements of a report, without its ids, findings and answers.

    `data`: its beginning, `MOST_HEADER` bytes or more. A report of millions of memories has gigabytes, its header a few
    kilobytes. Raises ValueError if it is no such report.
    """
    header, long_entry, _ = data.partition(f'\n "{_FIRST_LONG_ENTRY}":'.encode())
    report = json.loads(header.rstrip().removesuffix(b",") + b"}" if long_entry else header)
    if not isinstance(report, dict):
        raise ValueError("not a report of dual-verify")
    return report
