"""The alert rules in configs/monitoring are PromQL about metrics and labels that are exported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.core import Metric

from spectron_migrate.metrics.families import families
from spectron_migrate.metrics.numbers import Numbers
from spectron_migrate.spectron.traffic import Traffic
from spectron_migrate.state.process_status import ProcessStatus
from spectron_migrate.state.processes import ProcessesStatus

RULES = Path(__file__).parents[2] / "configs/monitoring/spectron-migrate.rules.yaml"
DOCUMENT = RULES.parents[2] / "docs/monitoring.md"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}


def everything() -> list[Metric]:
    """Every metric there is."""
    traffic = Traffic()
    traffic.end(traffic.begin(), "/facts", "200")
    report = ProcessStatus(host="web-1", pid=1, began="", heartbeat="")
    processes = ProcessesStatus(reports=(report,), calls={"get_all": 1}, reads={"stale": 1, "failed": 1}, measured=True)
    numbers = Numbers(lag_s=1.0, behind=1.0, gates={"lag": "passed"}, processes=processes, late_writes=0)
    return list(families(numbers, traffic, 0.0))


def exported() -> dict[str, set[str]]:
    """The labels of every sample's name."""
    found: dict[str, set[str]] = {}
    for family in everything():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def selectors(expression: Any) -> Iterator[tuple[str, list[str]]]:
    """Each metric that an expression names, with the labels that it asks for."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression.name, [matcher.name for matcher in expression.matchers.matchers]
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(expression, name, None)
        if inner is not None:
            yield from selectors(inner)
    for inner in getattr(expression, "args", None) or ():
        yield from selectors(inner)


def test_every_alert_has_what_a_person_needs() -> None:
    assert len(ALERTS) == sum(len(group["rules"]) for group in GROUPS), "a name twice"
    for rule in ALERTS.values():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} == set(rule["annotations"])
        assert promql_parser.parse_duration(rule.get("for", "1m"))


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_asks_for_what_is_exported(name: str) -> None:
    expression = promql_parser.parse(ALERTS[name]["expr"])
    known = exported()
    found = list(selectors(expression))
    assert [] != found
    for metric, labels in found:
        assert metric in known, metric
        assert set(labels) <= known[metric], metric


def test_every_metric_has_the_prefix_and_a_help_text() -> None:
    for family in everything():
        assert family.name.startswith("spectron_migrate_")
        assert family.documentation.endswith(".")


def test_the_documentation_has_every_metric_and_no_other() -> None:
    rows = [line.split("|")[1:3] for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    documented = {
        name.strip("` "): {label for label in labels.split(", ") if label.strip()}
        for names, labels in ((first, second.strip()) for first, second in rows)
        for name in names.split(", ")
    }
    found = {
        family.name.removeprefix("spectron_migrate_") + ("_total" if family.type == "counter" else ""): {
            label for sample in family.samples for label in sample.labels if label != "le"
        }
        for family in everything()
    }
    assert documented == found
