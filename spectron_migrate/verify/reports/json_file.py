"""The report as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping

from spectron_migrate.records import Json


def json_report(report: Mapping[str, Json]) -> str:
    """A top-level entry a line, and a row of a long list a line: to be read by people, and written fast."""
    parts = []
    for name, value in report.items():
        if isinstance(value, list) and value:
            rows = ",\n  ".join(json.dumps(row) for row in value)
            parts.append(f"{json.dumps(name)}: [\n  {rows}\n ]")
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"
