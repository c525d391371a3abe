"""Totals and means over all answered queries (pure: computed from `answers` of the JSON report alone)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from spectron_migrate.records import Json
from spectron_migrate.verify.intervals import Interval, paired_interval, units_needed
from spectron_migrate.verify.measures import percentile

_SIDES = ("mem0", "spectron")


@dataclass
class Metrics:
    """Accumulates answers one by one. It keeps only numbers, no texts."""

    queries: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    not_servable: Counter[str] = field(default_factory=Counter)
    """Queries that no lens can serve, by the mapping's reason."""
    excused: Counter[str] = field(default_factory=Counter)
    """Queries that are not compared, by reason."""
    explained: Counter[str] = field(default_factory=Counter)
    """Differences between the answers, by reason."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Hits that an application is not shown, by reason."""
    recognised: Counter[str] = field(default_factory=Counter)
    """Hits of Spectron, by how they were recognised."""
    _values: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    """System -> measure -> one value per answer."""
    _agreements: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Overlap and RBO of both answers; with the prefix `noise_`, those of Mem0 when it is asked twice."""
    _differences: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Owner -> success of Spectron minus success of Mem0, per query."""
    _successes: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """Owner -> success of Mem0 and of Spectron, per query."""

    def add(self, answer: dict[str, Json]) -> None:
        """Add one entry of the report's `answers`."""
        self.queries += 1
        if "not_servable" in answer:
            self.not_servable[answer["not_servable"]] += 1
            return
        for side in _SIDES:
            given = answer.get(side)
            if given is None:
                continue
            if given["error"] is not None:
                self.failed[side] += 1
            else:
                self._values[side]["ms"].append(given["ms"])
        for hit in answer["spectron"]["hits"]:
            self.recognised[hit["note"]] += 1
            if hit["dropped"]:
                self.dropped[hit["dropped"]] += 1
        self.explained.update(difference["why"] for difference in answer.get("differences") or ())
        self._add_measures(answer)

    def _add_measures(self, answer: dict[str, Json]) -> None:
        measures = answer["measures"]
        for name in ("overlap", "rbo"):
            if name in measures:
                self._agreements[name].append(measures[name])
            if name in answer.get("noise", {}):
                self._agreements[f"noise_{name}"].append(answer["noise"][name])
        if answer.get("excused"):
            self.excused[answer["excused"]] += 1
            return
        mem0, spectron = (measures.get(side) for side in _SIDES)
        if mem0 is None and answer.get("mem0") is not None:
            return  # Mem0 did not answer, so nothing is compared
        for side, values in (("mem0", mem0), ("spectron", spectron), ("word_overlap", measures.get("word_overlap"))):
            for name, value in (values or {}).items():
                self._values[side][name].append(value)
        if mem0 is not None and spectron is not None:
            self._differences[answer["owner"]].append(spectron["success"] - mem0["success"])
            self._successes[answer["owner"]].append((mem0["success"], spectron["success"]))

    def to_json(self, *, margin: float, everything: bool) -> dict[str, Json]:
        """All measures. `everything`: the queries were generated from every memory, so nothing was sampled."""
        interval = (
            paired_interval(self._differences, everything=everything) if any(self._differences.values()) else None
        )
        return {
            "queries": self.queries,
            "compared": sum(map(len, self._differences.values())),
            "users": len(self._differences),
            "failed": dict(self.failed),
            "not_servable": sum(self.not_servable.values()),
            "not_servable_why": dict(self.not_servable),
            "excused": dict(self.excused),
            "success": {side: _mean(self._values[side]["success"]) for side in _SIDES},
            "word_overlap": _mean(self._values["word_overlap"]["success"]),
            "difference": _interval(interval, margin),
            "mrr": {side: _mean(self._values[side]["reciprocal_rank"]) for side in _SIDES},
            "ndcg": {side: _mean(self._values[side]["ndcg"]) for side in _SIDES},
            "overlap": _mean(self._agreements["overlap"]),
            "rbo": _mean(self._agreements["rbo"]),
            "noise_floor": {name: _mean(self._agreements[f"noise_{name}"]) for name in ("overlap", "rbo")},
            "latency_ms": {
                side: {
                    "p50": percentile(self._values[side]["ms"], 0.5),
                    "p95": percentile(self._values[side]["ms"], 0.95),
                }
                for side in _SIDES
            },
            "dropped": dict(self.dropped),
            "recognised": dict(self.recognised),
        }

    def by_owner(self) -> list[dict[str, Json]]:
        """Mean success of both systems for each owner."""
        return [
            {
                "owner": owner,
                "queries": len(pairs),
                "mem0": _mean([mem0 for mem0, _ in pairs]),
                "spectron": _mean([spectron for _, spectron in pairs]),
            }
            for owner, pairs in sorted(self._successes.items())
        ]


def collect_metrics(answers: Iterable[dict[str, Json]]) -> Metrics:
    """Accumulate entries of the report's `answers`."""
    metrics = Metrics()
    for answer in answers:
        metrics.add(answer)
    return metrics


def _interval(interval: Interval | None, margin: float) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {**asdict(interval), "needed": units_needed(interval, margin)}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
