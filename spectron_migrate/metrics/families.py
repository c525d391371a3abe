"""Turns the numbers into Prometheus metrics, with names, labels and help. Needs prometheus-client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from math import inf
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from spectron_migrate.ledger.schema import FactState
from spectron_migrate.metrics.numbers import Numbers
from spectron_migrate.spectron.traffic import BUCKETS_S, Traffic
from spectron_migrate.state.processes import ProcessesStatus
from spectron_migrate.state.routing import PHASES

PREFIX = "spectron_migrate"
ANSWERED = ("mem0", "spectron")
WHY_MEM0 = {
    "mem0": "routing",
    "behind": "behind",
    "beyond": "beyond",
    "failed": "failed",
    "guarded": "guarded",
    "crowded": "crowded",
    "no catalogue": "no catalogue",
    "unreadable": "unreadable",
}
"""What the adapter counts for a search that Mem0 answered -> why Mem0 did."""


def families(numbers: Numbers, traffic: Traffic | None, cpu_s: float) -> Iterator[Metric]:
    """All metrics."""
    info = _gauge("info", "The migration that these metrics are about.", ("version", "migration", "context"))
    info.add_metric([numbers.version, numbers.migration, numbers.context], 1)
    yield info
    yield from _of_ledger(numbers)
    yield from _of_cutover(numbers)
    yield from _of_processes(numbers.processes)
    if traffic is not None:
        yield from _of_traffic(traffic)
    yield _counter("exporter_cpu_seconds", "Processor time that exporting these metrics took.", {(): cpu_s}, ())


def _of_ledger(numbers: Numbers) -> Iterator[Metric]:
    states: dict[tuple[str, ...], float] = {(state,): numbers.states.get(state, 0) for state in get_args(FactState)}
    yield _gauges(
        "facts",
        "Texts of memories in the ledger by state: planned (not sent), intended (in doubt unless being sent now), "
        "written, stored_not_extracted, refused, skipped, undecidable.",
        states,
        ("state",),
    )
    yield _gauges("late_facts", "Texts that came after newer ones of their lane and superseded nothing.", numbers.late)
    yield _gauges(
        "in_doubt", "Writes that recovery looks after: sent again, or found among the turns.", numbers.in_doubt
    )
    yield _gauges("pending_memories", "Memories that wait for --resolve ID=newer or ID=older.", numbers.pending)


def _of_cutover(numbers: Numbers) -> Iterator[Metric]:
    phases: dict[tuple[str, ...], float] = {(phase,): float(phase == numbers.phase) for phase in PHASES}
    yield _gauges("phase", "1 for the phase of the cutover, 0 for the others.", phases, ("phase",))
    yield _gauges("read_from_spectron_percent", "Share of users that are read from Spectron.", numbers.percent)
    yield _gauges("following", "1 while a process runs replay --follow.", float(numbers.is_followed))
    if numbers.lag_s is not None:
        yield _gauges("lag_seconds", "Age of the scan that Spectron is caught up with.", numbers.lag_s)
    if numbers.behind is not None:
        yield _gauges("users_behind", "Users with changes that are not in Spectron; +Inf: everybody.", numbers.behind)
    gates: dict[tuple[str, ...], float] = {
        (name, outcome): float(outcome == "passed") for name, outcome in numbers.gates.items()
    }
    if gates:
        yield _gauges("gate_passed", "1 for a gate of the cutover that passes.", gates, ("gate", "outcome"))
    if numbers.late_writes is not None:
        yield _gauges(
            "late_writes", "Memories newer in Mem0 after complete, when it was last read.", numbers.late_writes
        )


def _of_processes(processes: ProcessesStatus) -> Iterator[Metric]:
    if not processes.measured:
        return
    reads: dict[tuple[str, ...], float] = {("spectron", ""): processes.reads.get("spectron", 0)}
    hidden: dict[tuple[str, ...], float] = {}
    for name, count in processes.reads.items():
        if name in WHY_MEM0:
            reads["mem0", WHY_MEM0[name]] = count
        elif name != "spectron":
            hidden[(name,)] = count
    yield _counter("adapter_reads", "Searches by where they were answered, and why by Mem0.", reads, ("by", "why"))
    yield _counter("adapter_hits_left_out", "Hits of Spectron that were not shown, and why.", hidden, ("why",))
    calls: dict[tuple[str, ...], float] = {(name,): count for name, count in processes.calls.items()}
    yield _gauges("adapter_calls_7d", "Calls of 7 days that Spectron cannot answer.", calls, ("call",))
    yield _gauges("adapter_processes", "Live processes with an adapter or heartbeat files.", len(processes.reports))
    guarded = sum(report.guard.open for report in processes.reports)
    yield _gauges("adapter_guarded_processes", "Processes whose guard sent their reads back to Mem0.", guarded)
    yield _gauges(
        "adapter_lost_processes",
        "Processes that stopped reporting without saying that they ended.",
        len(processes.lost),
    )
    for name, text in (
        ("asked", "Shadow reads that were begun."),
        ("failed", "Shadow reads that failed."),
        ("overlap", "Sum of the shares of Mem0's answer that Spectron found; divide by compared."),
        ("compared", "Shadow reads that were compared."),
    ):
        yield _counter(f"shadow_reads_{name}", text, {(): processes.shadow.get(name, 0)}, ())


def _of_traffic(traffic: Traffic) -> Iterator[Metric]:
    yield _gauges("requests_in_flight", "Requests of this process without an answer yet.", traffic.under_way)
    family = HistogramMetricFamily(
        f"{PREFIX}_request_duration_seconds",
        "How long requests of this process took; outcome is a status, `in doubt` or `not begun`.",
        labels=("call", "outcome"),
    )
    for (call, outcome), found in list(traffic.durations.items()):
        bounds = [floatToGoString(bound) for bound in (*BUCKETS_S, inf)]
        totals = list(accumulate(found.buckets))
        family.add_metric([call, outcome], list(zip(bounds, totals, strict=True)), found.seconds)
    yield family


def _gauge(name: str, text: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)


def _gauges(
    name: str, text: str, values: float | Mapping[tuple[str, ...], float], labels: tuple[str, ...] = ()
) -> Metric:
    family = _gauge(name, text, labels)
    for key, value in (values if isinstance(values, Mapping) else {(): values}).items():
        family.add_metric(list(key), value)
    return family


def _counter(name: str, text: str, values: Mapping[tuple[str, ...], float], labels: tuple[str, ...]) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family
