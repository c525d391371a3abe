"""What is exported is what the state directory shows."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from spectron_migrate.metrics.families import families
from spectron_migrate.metrics.numbers import Numbers, read_numbers
from spectron_migrate.records import format_time
from spectron_migrate.settings import load_settings
from spectron_migrate.spectron.traffic import BUCKETS_S, Traffic
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.journal import CaughtUp, publish_routing, record_step
from spectron_migrate.state.late_writes import LateWrites, keep_late_writes
from spectron_migrate.state.process_status import GuardStatus, ProcessStatus, stamp
from spectron_migrate.state.processes import OwnFile

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
STAMP = format_time(NOW)


def numbers(state: Path) -> Numbers:
    settings = load_settings(None, env={}, overrides={"state": str(state)})
    return read_numbers(settings, state, "digest", now=NOW)


def samples(found: Numbers, traffic: Traffic | None = None) -> dict[tuple[str, ...], float]:
    """As Prometheus reads them: name and values of labels."""

    class Collected:
        def collect(self) -> list[Metric]:
            return list(families(found, traffic, 0.5))

    registry = CollectorRegistry()
    registry.register(Collected())  # type: ignore[arg-type] - it has all that a collector needs
    text = generate_latest(registry).decode()
    return {
        (sample.name.removeprefix("spectron_migrate_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def begin(state: Path) -> None:
    state.mkdir()
    record_step(state, Step("start", format_time(NOW - timedelta(hours=1)), "a test", migration="m1"))


def publish(state: Path, behind: frozenset[str] | None, *, valid_s: float = 60.0) -> None:
    caught_up = CaughtUp(format_time(NOW - timedelta(seconds=42)), NOW.timestamp() + valid_s, behind)
    publish_routing(state, caught_up, now=STAMP)


def test_an_empty_directory_has_numbers_too(tmp_path: Path) -> None:
    found = samples(numbers(tmp_path / "nothing"))
    assert 0 == found["facts", "written"]
    assert 1 == found["phase", "mem0"]
    assert not any(name[0] == "lag_seconds" for name in found)


def test_lag_and_users_behind_are_those_of_the_routing(tmp_path: Path) -> None:
    begin(tmp_path / "state")
    publish(tmp_path / "state", frozenset({"alice", "bob"}))
    record_step(tmp_path / "state", Step("shift", STAMP, "a test", percent=25))
    found = samples(numbers(tmp_path / "state"))
    assert 42 == found["lag_seconds",]
    assert 2 == found["users_behind",]
    assert 25 == found["read_from_spectron_percent",]
    assert 1 == found["phase", "shift"]
    assert 0 == found["following",]


def test_everybody_is_behind_once_the_routing_has_expired(tmp_path: Path) -> None:
    begin(tmp_path / "state")
    publish(tmp_path / "state", frozenset(), valid_s=-1)
    assert math.inf == samples(numbers(tmp_path / "state"))["users_behind",]
    publish(tmp_path / "state", None)
    assert math.inf == samples(numbers(tmp_path / "state"))["users_behind",]


def test_gates_are_judged_while_a_cutover_is_under_way(tmp_path: Path) -> None:
    assert {} == numbers(tmp_path / "state").gates
    begin(tmp_path / "state")
    found = samples(numbers(tmp_path / "state"))
    gates = {name[1]: value for name, value in found.items() if name[0] == "gate_passed"}
    assert {"base", "delivered", "verdict", "lag"} <= set(gates)
    assert 0 == gates["base"]
    assert "key" not in gates, "it asks Spectron, which an export does not"


def test_reads_of_the_application_are_told_by_where_and_why(tmp_path: Path) -> None:
    begin(tmp_path / "state")
    own = OwnFile(tmp_path / "state")
    own.write(
        ProcessStatus(
            host=own.host,
            pid=own.pid,
            began=STAMP,
            heartbeat=stamp(NOW),
            calls={"get_all(user_id)": {NOW.date().isoformat(): 3}},
            reads={"spectron": 70, "mem0": 20, "behind": 6, "failed": 4, "stale": 2},
            guard=GuardStatus(open=True, trips=1),
            shadow={"asked": 5, "compared": 4, "overlap": 3.5},
        )
    )
    found = samples(numbers(tmp_path / "state"))
    reads = {name[1:]: value for name, value in found.items() if name[0] == "adapter_reads_total"}
    assert {
        ("spectron", ""): 70,
        ("mem0", "routing"): 20,
        ("mem0", "behind"): 6,
        ("mem0", "failed"): 4,
    } == reads
    assert 2 == found["adapter_hits_left_out_total", "stale"]
    assert 3 == found["adapter_calls_7d", "get_all(user_id)"]
    assert 1 == found["adapter_processes",]
    assert 1 == found["adapter_guarded_processes",]
    assert 3.5 == found["shadow_reads_overlap_total",]
    own.close()


def test_what_was_written_to_mem0_after_complete_is_exported(tmp_path: Path) -> None:
    begin(tmp_path / "state")
    record_step(tmp_path / "state", Step("complete", STAMP, "a test"))
    keep_late_writes(tmp_path / "state", LateWrites(STAMP, 100, 7))
    found = samples(numbers(tmp_path / "state"))
    assert 7 == found["late_writes",]
    assert 1 == found["phase", "complete"]


def test_requests_are_counted_by_call_and_outcome_and_ids_are_no_labels() -> None:
    traffic = Traffic()
    for path, outcome in (
        ("/api/v1/acme/facts", "200"),
        ("/api/v1/acme/facts", "200"),
        ("/api/v1/acme/facts", "in doubt"),
        ("/api/v1/acme/sessions/7f3a", "200"),
    ):
        traffic.end(traffic.begin(), path, outcome)
    traffic.end(time.perf_counter() - 7.0, "/api/v1/acme/facts", "504")
    traffic.under_way = 3
    found = samples(Numbers(), traffic)
    count = "request_duration_seconds_count"
    counted = {name[1:]: value for name, value in found.items() if name[0] == count}
    assert {("facts", "200"): 2, ("facts", "in doubt"): 1, ("other", "200"): 1, ("facts", "504"): 1} == counted
    assert 3 == found["requests_in_flight",]
    slow = {bound: found["request_duration_seconds_bucket", "facts", f"{bound:.1f}", "504"] for bound in (5.0, 10.0)}
    assert {5.0: 0, 10.0: 1} == slow
    assert list(BUCKETS_S) == sorted(BUCKETS_S)
