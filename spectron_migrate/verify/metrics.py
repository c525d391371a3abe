"""What the answers to all queries add up to (pure: from the rows of the JSON report alone)."""

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
    """Gathers answers one by one; memory grows with numbers, not with texts."""

    queries: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    not_servable: Counter[str] = field(default_factory=Counter)
    """Queries that were not asked, by what the mapping says."""
    excused: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    """How Spectron's rows were recognised."""
    _own: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    _pairs: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _differences: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _by_owner: dict[str, list[list[float]]] = field(default_factory=lambda: defaultdict(lambda: [[], []]))

    def add(self, told: dict[str, Json]) -> None:
        """One answered query, as the report has it."""
        self.queries += 1
        if "not_servable" in told:
            self.not_servable[told["not_servable"]] += 1
            return
        for side in _SIDES:
            answer = told.get(side)
            if answer is None:
                continue
            if answer["error"] is not None:
                self.failed[side] += 1
            else:
                self._own[side]["ms"].append(answer["ms"])
        for row in told["spectron"]["hits"]:
            self.noted[row["note"]] += 1
            if row["dropped"]:
                self.dropped[row["dropped"]] += 1
        self.explained.update(one["why"] for one in told.get("differences") or ())
        self._measures(told)

    def _measures(self, told: dict[str, Json]) -> None:
        measures = told["measures"]
        for name in ("overlap", "rbo"):
            if name in measures:
                self._pairs[name].append(measures[name])
            if name in told.get("noise", {}):
                self._pairs[f"noise_{name}"].append(told["noise"][name])
        if told.get("excused"):
            self.excused[told["excused"]] += 1
            return
        found = [measures.get(side) for side in _SIDES]
        if found[0] is None and told.get("mem0") is not None:
            return  # an unanswered side: nothing is compared
        for side, own in zip(_SIDES, found, strict=True):
            for name, value in (own or {}).items():
                self._own[side][name].append(value)
        if found[0] is not None and found[1] is not None:
            self._differences[told["owner"]].append(found[1]["success"] - found[0]["success"])
            for place, own in enumerate(found):
                self._by_owner[told["owner"]][place].append(own["success"])

    def to_json(self, *, margin: float, everything: bool) -> dict[str, Json]:
        """All measures; `everything` where the queries are made of every memory there is."""
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
            "success": {side: _mean(self._own[side]["success"]) for side in _SIDES},
            "difference": _interval(interval, margin),
            "mrr": {side: _mean(self._own[side]["reciprocal_rank"]) for side in _SIDES},
            "ndcg": {side: _mean(self._own[side]["ndcg"]) for side in _SIDES},
            "overlap": _mean(self._pairs["overlap"]),
            "rbo": _mean(self._pairs["rbo"]),
            "noise_floor": {name: _mean(self._pairs[f"noise_{name}"]) for name in ("overlap", "rbo")},
            "latency_ms": {
                side: {"p50": percentile(self._own[side]["ms"], 0.5), "p95": percentile(self._own[side]["ms"], 0.95)}
                for side in _SIDES
            },
            "dropped": dict(self.dropped),
            "recognised": dict(self.noted),
        }

    def by_owner(self) -> list[dict[str, Json]]:
        """Success of both systems, owner by owner."""
        return [
            {"owner": owner, "queries": len(left), "mem0": _mean(left), "spectron": _mean(right)}
            for owner, (left, right) in sorted(self._by_owner.items())
        ]


def collect_metrics(answers: Iterable[dict[str, Json]]) -> Metrics:
    """Metrics of answers."""
    metrics = Metrics()
    for told in answers:
        metrics.add(told)
    return metrics


def _interval(interval: Interval | None, margin: float) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {**asdict(interval), "needed": units_needed(interval, margin)}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
