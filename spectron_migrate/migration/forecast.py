"""What a replay would come to: counts, tokens, time and what is likely to be superseded, before anything is sent.

Read from the scratch copy of the ledger that a dry run planned into; memory stays flat.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from spectron_migrate.delivery.stream import BATCH_SIZE
from spectron_migrate.delivery.tokens import estimate_tokens
from spectron_migrate.dump import Dump
from spectron_migrate.ledger import Ledger, probes
from spectron_migrate.ledger.read import planned
from spectron_migrate.ledger.read.planned import PlannedLane, PlannedMemory
from spectron_migrate.ledger.scratch_counts import ScratchCounts
from spectron_migrate.mapping import Rule, ScopeMapping
from spectron_migrate.migration.likeness import ALIKE, NEWEST, LikelyPair, Likeness
from spectron_migrate.records import Json, Memory, Reporter

FULL_S = 2.0
NONE_S = 0.2
"""Seconds a write, where no probe has measured them: none are published."""
BULK = 20
"""So many guessed times within one minute look like a bulk edit, which says nothing about the texts."""
GUESSED_SHARE = 0.05
"""A scope with a larger share of guessed times is named."""
_USER, _USER_IN_SCOPE, _MINUTE, _CHAIN = "user", "user in scope", "minute", "updates of a memory"
LANES = 5
"""The largest lanes that are told."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast writes are taken to be."""

    in_flight: int
    max_rps: float | None = None
    full_s: float = FULL_S
    none_s: float = NONE_S
    measured: bool = False
    """By `doctor --probe`, in this context."""

    @classmethod
    def of(cls, state: Path, context: str, in_flight: int, max_rps: float | None) -> Pace:
        """As a probe of the context measured it, where the state directory knows of one."""
        measured: dict[str, float] = {}
        if (state / "ledger.db").exists():
            with Ledger.open_for_reading(state) as ledger:
                measured = probes.measured_seconds(ledger, context)
        full, none = measured.get(probes.FULL_WRITE), measured.get(probes.NONE_WRITE)
        if full is None or none is None:
            return cls(in_flight, max_rps)
        return cls(in_flight, max_rps, full, none, measured=True)


@dataclass(slots=True)
class RuleShare:
    """What one rule of the mapping takes."""

    scope: str
    """Its templates."""
    memories: int = 0
    tokens_low: int = 0
    tokens_high: int = 0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a replay would do."""

    memories: int
    full: int
    sessions: int
    requests: int
    """At least: one a memory (or batch), one a session, one a scope."""
    late: int
    rules: list[RuleShare]
    lanes: list[PlannedLane]
    """The largest, by what bounds the time: facts with extraction go one after the other inside a lane."""
    pace: Pace
    seconds: float
    bound: str
    """What the time comes from: the largest lane, all that may be in flight, or `max_rps`."""
    guessed: int
    """Memories whose time is `updated_at`, which a metadata edit moves too."""
    guessed_scopes: int
    """Scopes with more than `GUESSED_SHARE` of those."""
    bulk_minutes: int
    """Minutes that hold `BULK` guessed times or more."""
    users_in_several_scopes: int
    likeness: Likeness
    updated: int | None
    """Memories that Mem0 itself updated; None where the dump has no history."""
    longest_chain: int

    @property
    def tokens(self) -> tuple[int, int]:
        """Of all rules, from and to."""
        return sum(rule.tokens_low for rule in self.rules), sum(rule.tokens_high for rule in self.rules)

    def to_json(self) -> dict[str, Json]:
        """As `--json` tells it: ids, never texts."""
        low, high = self.tokens
        return {
            "memories": self.memories,
            "with_extraction": self.full,
            "sessions": self.sessions,
            "requests": self.requests,
            "late": self.late,
            "largest_lanes": [{"lane": one.lane, "full": one.full, "none": one.none} for one in self.lanes],
            "tokens": {
                "low": low,
                "high": high,
                "rules": [
                    {"scope": rule.scope, "memories": rule.memories, "low": rule.tokens_low, "high": rule.tokens_high}
                    for rule in self.rules
                ],
            },
            "time": {
                "seconds": round(self.seconds, 1),
                "bound_by": self.bound,
                "assumed": {
                    "in_flight": self.pace.in_flight,
                    "max_rps": self.pace.max_rps,
                    "seconds_with_extraction": self.pace.full_s,
                    "seconds_without": self.pace.none_s,
                    "measured": self.pace.measured,
                },
            },
            "guessed_times": {
                "memories": self.guessed,
                "scopes": self.guessed_scopes,
                "bulk_minutes": self.bulk_minutes,
            },
            "users_in_several_scopes": self.users_in_several_scopes,
            "contradictions": self._contradictions(),
            "mem0_updates": None if self.updated is None else {"memories": self.updated, "longest": self.longest_chain},
        }

    def _contradictions(self) -> dict[str, Json]:
        found = self.likeness
        return {
            "likely_count": found.contradicting,
            "repeated_count": found.repeated,
            "scopes": found.scopes,
            "compared": found.compared,
            "measure": f"words alike by {ALIKE} % or more, among the newest {NEWEST} of each scope",
            "likely": [
                {"older": pair.older, "newer": pair.newer, "scope": pair.scope, "percent": pair.percent}
                for pair in found.pairs
            ],
        }


def make_forecast(
    ledger: Ledger, number: int, dump: Dump, mapping: ScopeMapping, pace: Pace, *, reporter: Reporter
) -> Forecast:
    """Forecast what the plan in a scratch ledger would come to."""
    counts = ScratchCounts(ledger)
    lanes, full, none = _lanes(ledger, number)
    reporter.stage("forecast", full + none)
    seen = _Seen(mapping, counts)
    for each in planned.planned_memories(ledger, number):
        seen.add(each)
        reporter.advance(1)
    seen.end_scope()
    bulk = counts.keys_with(_MINUTE, BULK)
    if seen.guessed_scopes or bulk:
        reporter.warn(
            f"guessed times (`updated_at`): {seen.guessed_scopes} scopes have over {GUESSED_SHARE:.0%} of them, and"
            f" {bulk} minutes have {BULK} or more, as a bulk edit leaves them: their order may not be that of the texts"
        )
    updated, longest = _update_chains(counts, dump)
    seconds, bound = _time(lanes, full, none, seen.sessions, pace)
    return Forecast(
        memories=full + none,
        full=full,
        sessions=seen.sessions,
        requests=seen.requests + seen.sessions + seen.scopes,
        late=planned.count_late_planned(ledger, number),
        rules=[share for share in seen.rules if share.memories],
        lanes=lanes,
        pace=pace,
        seconds=seconds,
        bound=bound,
        guessed=seen.guessed,
        guessed_scopes=seen.guessed_scopes,
        bulk_minutes=bulk,
        users_in_several_scopes=counts.keys_with(_USER, 2),
        likeness=seen.likeness,
        updated=updated,
        longest_chain=longest,
    )


@dataclass
class _Seen:
    """What one pass over the plan, scope by scope, adds up to."""

    mapping: ScopeMapping
    counts: ScratchCounts
    rules: list[RuleShare] = field(init=False)
    likeness: Likeness = field(default_factory=Likeness)
    sessions: int = 0
    requests: int = 0
    """That carry memories."""
    scopes: int = 0
    guessed: int = 0
    guessed_scopes: int = 0
    _scope: str | None = None
    _groups: Counter[tuple[str | None, str]] = field(default_factory=Counter)
    _guessed_here: int = 0
    _user: str | None = None

    def __post_init__(self) -> None:
        self.rules = [RuleShare(_spelled(rule)) for rule in self.mapping.rules]

    def add(self, planned: PlannedMemory) -> None:
        scope, memory = planned.selector, planned.memory
        if scope != self._scope:
            self.end_scope()
            self._scope, self._user = scope, None
        self._groups[planned.run, planned.infer] += 1
        self._share(memory, planned.infer)
        self.likeness.add(scope, memory.id, memory.memory)
        if memory.user_id is not None and memory.user_id != self._user:
            self._user = memory.user_id
            if self.counts.add(_USER_IN_SCOPE, f"{scope}{memory.user_id}") == 1:
                self.counts.add(_USER, memory.user_id)
        if memory.text_at_source == "updated_at" and memory.text_at is not None:
            self._guessed_here += 1
            self.counts.add(_MINUTE, memory.text_at[:16])

    def end_scope(self) -> None:
        if self._scope is None:
            return
        here = self._groups.total()
        size = self.mapping.session_size
        self.scopes += 1
        together = BATCH_SIZE if self.mapping.write == "batch" else 1
        for count in self._groups.values():
            full, rest = divmod(count, size)
            self.sessions += full + bool(rest)
            self.requests += full * -(-size // together) + -(-rest // together)
        self.guessed += self._guessed_here
        self.guessed_scopes += self._guessed_here > GUESSED_SHARE * here
        self._groups.clear()
        self._guessed_here = 0
        self.likeness.finish()

    def _share(self, memory: Memory, infer: str) -> None:
        place = next((place for place, rule in enumerate(self.mapping.rules) if rule.takes(memory)), None)
        if place is None:
            return  # a text that Mem0 has replaced since it was planned
        low, high = estimate_tokens(memory.memory, infer)
        share = self.rules[place]
        share.memories += 1
        share.tokens_low += low
        share.tokens_high += high


def _lanes(ledger: Ledger, number: int) -> tuple[list[PlannedLane], int, int]:
    """The lanes with most to wait for, and all facts with and without extraction."""
    largest: list[PlannedLane] = []
    full = none = 0
    for lane in planned.planned_lanes(ledger, number):
        full, none = full + lane.full, none + lane.none
        largest.append(lane)
        if len(largest) > 1000:
            largest = _largest(largest)
    return _largest(largest), full, none


def _largest(lanes: list[PlannedLane]) -> list[PlannedLane]:
    return sorted(lanes, key=lambda one: (-one.full, -one.none, one.lane))[:LANES]


def _time(lanes: list[PlannedLane], full: int, none: int, sessions: int, pace: Pace) -> tuple[float, str]:
    """Seconds, and what they come from: nothing is faster than the slowest of the three."""
    work = full * pace.full_s + (none + sessions) * pace.none_s
    bounds = {
        "the largest lane": max((lane.full for lane in lanes), default=0) * pace.full_s,
        f"{pace.in_flight} in flight": work / pace.in_flight,
    }
    if pace.max_rps is not None:
        bounds["max_rps"] = (full + none + sessions) / pace.max_rps
    bound = max(bounds, key=lambda name: bounds[name])
    return bounds[bound], bound


def _update_chains(counts: ScratchCounts, dump: Dump) -> tuple[int | None, int]:
    """Memories that Mem0 updated by its own history, and most updates of one; None without a history."""
    any_history = False
    for row in dump.history():
        any_history = True
        if row.get("event") == "UPDATE" and row.get("memory_id"):
            counts.add(_CHAIN, str(row["memory_id"]))
    if not any_history:
        return None, 0
    return counts.keys_with(_CHAIN, 1), counts.most(_CHAIN)


def _spelled(rule: Rule) -> str:
    return " or ".join(" and ".join(str(path) for path in clause) for clause in rule.clauses)


__all__ = ["Forecast", "LikelyPair", "Pace", "PlannedLane", "RuleShare", "make_forecast"]
