"""Forecast a replay before anything is sent: counts, tokens, time, and what is likely to be superseded.

Reads the scratch copy of the ledger that a dry run planned into. Memory use does not grow with the plan.
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
from spectron_migrate.migration.likeness import ALIKE, NEWEST, Likeness
from spectron_migrate.records import Json, Memory, counted
from spectron_migrate.reporter import Reporter
from spectron_migrate.state.store import StateStore

FULL_S = 2.0
NONE_S = 0.2
"""Seconds per write that are assumed if no probe has measured them. Spectron publishes none."""
BULK = 20
"""This many guessed times within one minute look like a bulk edit that did not change texts."""
GUESSED_SHARE = 0.05
"""A scope with a larger share of guessed times is counted in the warning."""
_USER, _USER_IN_SCOPE, _MINUTE, _CHAIN = "user", "user in scope", "minute", "updates of a memory"
LANES = 5
"""How many of the largest lanes are listed."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast writes are assumed to be."""

    in_flight: int
    max_rps: float | None = None
    full_s: float = FULL_S
    none_s: float = NONE_S
    measured: bool = False
    """Whether `doctor --probe` measured the times in this context."""

    @classmethod
    def of(cls, state: Path | StateStore, context: str, in_flight: int, max_rps: float | None) -> Pace:
        """The pace that a probe of the context measured, if the ledger has one; else the assumed one."""
        measured: dict[str, float] = {}
        if Ledger.exists(state):
            with Ledger.open_for_reading(state) as ledger:
                measured = probes.measured_seconds(ledger, context)
        full, none = measured.get(probes.FULL_WRITE), measured.get(probes.NONE_WRITE)
        if full is None or none is None:
            return cls(in_flight, max_rps)
        return cls(in_flight, max_rps, full, none, measured=True)


@dataclass(slots=True)
class RuleShare:
    """The memories of one rule of the mapping."""

    scope: str
    """The scope templates of the rule."""
    memories: int = 0
    tokens_low: int = 0
    tokens_high: int = 0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a replay of the plan would do."""

    memories: int
    full: int
    sessions: int
    requests: int
    """At least this many: one per memory (or batch), per session and per scope."""
    late: int
    rules: list[RuleShare]
    lanes: list[PlannedLane]
    """The lanes with the most facts with extraction, which are sent one after the other within a lane."""
    pace: Pace
    seconds: float
    bound: str
    """What limits the time: the largest lane, the requests in flight, or `max_rps`."""
    guessed: int
    """Memories whose time is `updated_at`, which metadata edits change too."""
    guessed_scopes: int
    """Scopes with a larger share of them than `GUESSED_SHARE`."""
    bulk_minutes: int
    """Minutes with `BULK` guessed times or more."""
    users_in_several_scopes: int
    likeness: Likeness
    updated: int | None
    """Memories that Mem0 updated, according to its history; None if the dump has no history."""
    longest_chain: int
    labels_left_out: Counter[str]
    """Labels that were left out, by key and reason."""

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of all rules: lower and upper bound."""
        return sum(rule.tokens_low for rule in self.rules), sum(rule.tokens_high for rule in self.rules)

    def to_json(self) -> dict[str, Json]:
        """For `--json`: ids, never texts."""
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
            "labels_left_out": dict(self.labels_left_out.most_common()),
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
    """Forecast the plan of a scratch ledger."""
    counts = ScratchCounts(ledger)
    lanes, full, none = _lanes(ledger, number)
    reporter.stage("forecast", full + none)
    totals = _PlanTotals(mapping, counts)
    for each in planned.planned_memories(ledger, number):
        totals.add(each)
        reporter.advance(1)
    totals.end_scope()
    bulk = counts.keys_with(_MINUTE, BULK)
    if totals.guessed_scopes or bulk:
        scopes = counted(totals.guessed_scopes, "scope has", "scopes have")
        reporter.warn(
            f"guessed times (`updated_at`): {scopes} over {GUESSED_SHARE:.0%} of them, and"
            f" {counted(bulk, 'minute has', 'minutes have')} {BULK} or more, as after a bulk edit: their order may"
            " differ from that of the texts"
        )
    updated, longest = _update_chains(counts, dump)
    seconds, bound = _time(lanes, full, none, totals.sessions, pace)
    return Forecast(
        memories=full + none,
        full=full,
        sessions=totals.sessions,
        requests=totals.requests + totals.sessions + totals.scopes,
        late=planned.count_late_planned(ledger, number),
        rules=[share for share in totals.rules if share.memories],
        lanes=lanes,
        pace=pace,
        seconds=seconds,
        bound=bound,
        guessed=totals.guessed,
        guessed_scopes=totals.guessed_scopes,
        bulk_minutes=bulk,
        users_in_several_scopes=counts.keys_with(_USER, 2),
        likeness=totals.likeness,
        updated=updated,
        longest_chain=longest,
        labels_left_out=totals.labels_left_out,
    )


@dataclass
class _PlanTotals:
    """Totals of one pass over the plan. Add each scope's memories together, oldest first."""

    mapping: ScopeMapping
    counts: ScratchCounts
    rules: list[RuleShare] = field(init=False)
    likeness: Likeness = field(default_factory=Likeness)
    sessions: int = 0
    requests: int = 0
    """Requests that write memories."""
    scopes: int = 0
    guessed: int = 0
    guessed_scopes: int = 0
    labels_left_out: Counter[str] = field(default_factory=Counter)
    _scope: str | None = None
    _groups: Counter[tuple[str | None, str]] = field(default_factory=Counter)
    _guessed_here: int = 0
    _user: str | None = None

    def __post_init__(self) -> None:
        self.rules = [RuleShare(_scope_templates(rule)) for rule in self.mapping.rules]

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
        number = next((number for number, rule in enumerate(self.mapping.rules) if rule.takes(memory)), None)
        if number is None:
            return  # no rule takes the memory any more, because Mem0 has changed it since this text was planned
        low, high = estimate_tokens(memory.memory, infer)
        share = self.rules[number]
        share.memories += 1
        share.tokens_low += low
        share.tokens_high += high
        together = self.mapping.write == "batch"
        self.labels_left_out.update(self.mapping.rules[number].labels_of(memory, together=together).left_out)


def _lanes(ledger: Ledger, number: int) -> tuple[list[PlannedLane], int, int]:
    """The largest lanes, and how many facts all lanes have with and without extraction."""
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
    """Seconds, and what limits them: the slowest of the three bounds."""
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
    """How many memories Mem0 updated, and the most updates of one memory, by its history; None without a history."""
    any_history = False
    for row in dump.history():
        any_history = True
        if row.get("event") == "UPDATE" and row.get("memory_id"):
            counts.add(_CHAIN, str(row["memory_id"]))
    if not any_history:
        return None, 0
    return counts.keys_with(_CHAIN, 1), counts.most(_CHAIN)


def _scope_templates(rule: Rule) -> str:
    return " or ".join(" and ".join(str(path) for path in clause) for clause in rule.clauses)
