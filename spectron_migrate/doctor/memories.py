"""The memories beside the mapping: what has no place, whose questions have no answer, whose times are guesses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from spectron_migrate.doctor.check import Check, some
from spectron_migrate.dump import Dump
from spectron_migrate.errors import ExitCode
from spectron_migrate.mapping import NotServable, ScopeMapping, Unmapped
from spectron_migrate.records import Memory, Placement, counted, has_time

MANY = 0.05
"""A share of guessed times above this is worth a warning."""
PATHS = 100_000
"""So many scopes are remembered; of more, the first stand for the rest."""
_ASKED = (("user_id",), ("user_id", "agent_id"), ("agent_id",), ("app_id",), ("run_id",))
"""How applications filter; a run alone only where nobody else owns it."""


@dataclass
class DumpSurvey:
    """What a pass over the dump found."""

    rows: int = 0
    placed: int = 0
    unmapped: dict[str, str] = field(default_factory=dict)
    """A few ids and why no rule takes them."""
    unmapped_count: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    guessed: int = 0
    timeless: int = 0
    future: int = 0
    expiring: int = 0
    short_lived: int = 0
    full: int = 0
    paths: set[str] = field(default_factory=set)
    """Nodes that would be written to."""
    filters: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)
    """For each way of asking that these memories allow, one example."""

    def add(self, memory: Memory, mapping: ScopeMapping, now: str) -> None:
        """One memory; `now` in our spelling of times."""
        self.rows += 1
        placed = mapping.map_memory(memory)
        if isinstance(placed, Unmapped):
            self.unmapped_count += 1
            if len(self.unmapped) < 10:
                self.unmapped[placed.id] = placed.why
            return
        if not isinstance(placed, Placement):
            self.skipped[placed.reason] += 1
            return
        self.placed += 1
        self.full += placed.infer == "full"
        self.short_lived += placed.category == "context"
        self.expiring += memory.expiration_date is not None
        self.guessed += memory.text_at_source == "updated_at"
        self.timeless += not has_time(memory)
        self.future += has_time(memory) and (memory.text_at or "") > now
        if len(self.paths) < PATHS:
            self.paths |= {path for clause in placed.selector for path in clause}
        owners = memory.entity_ids
        for names in _ASKED:
            if names not in self.filters and all(name in owners for name in names):
                alone = names != ("run_id",) or len(owners) == 1
                if alone:
                    self.filters[names] = {name: owners[name] for name in names}


def look(dump: Dump, mapping: ScopeMapping, now: str) -> DumpSurvey:
    """One pass over the dump."""
    seen = DumpSurvey()
    for memory in dump.memories():
        seen.add(memory, mapping, now)
    return seen


def check_memories(seen: DumpSurvey, dump: Dump) -> Iterator[Check]:
    """What was read, and what would become of it."""
    if dump.complete is False:
        hint = "export again; until it is complete nothing proves what is missing"
        yield Check("dump", "fail", f"{dump.path} holds a part of Mem0 only", hint, ExitCode.INCOMPLETE)
    elif not seen.rows:
        yield Check("dump", "fail", f"{dump.path} holds no memory", "is it the right Mem0? export again")
    else:
        proof = "raw files, which prove nothing" if dump.raw else "a complete reading"
        yield Check("dump", "ok", f"{counted(seen.rows, 'memory')}, {proof}")
    if seen.unmapped_count:
        named = some(f"{mem0_id} ({why})" for mem0_id, why in seen.unmapped.items())
        said = f"{counted(seen.unmapped_count, 'memory has', 'memories have')} no place: {named}"
        yield Check("mapping: places", "fail", said, "add a rule for them, or `unmapped: skip`")
    else:
        left = sum(seen.skipped.values())
        said = f"{counted(len(seen.paths), 'scope')} for {counted(seen.placed, 'memory')}"
        said += f", {left:,} skipped" if left else ""
        yield Check("mapping: places", "ok", said)
    yield from _times(seen)
    if seen.expiring:
        said = f"{counted(seen.expiring, 'memory')} would expire in Mem0 and will not in Spectron"
        yield Check("expiry", "warn", said, "skip them by a rule, or let them stay")
    if seen.short_lived:
        which = counted(seen.short_lived, "memory is", "memories are")
        said = f"{which} written as `context`, which Spectron keeps for 7 days from the memory's time"
        yield Check("expiry", "warn", said, "category: knowledge stays")


def check_filters(seen: DumpSurvey, mapping: ScopeMapping) -> Iterator[Check]:
    """Which of an application's filters could not be answered any more."""
    refused = []
    for names, example in seen.filters.items():
        try:
            mapping.lens(**example)
        except NotServable as error:
            refused.append(names)
            hint = f"an application that never asks so may go on; else {error.hint}" if error.hint else ""
            yield Check("mapping: filters", "warn", error.message, hint)
    answered = [" and ".join(names) for names in seen.filters if names not in refused]
    if answered:
        yield Check("mapping: filters", "ok", f"searches by {', by '.join(answered)} can be answered")


def _times(seen: DumpSurvey) -> Iterator[Check]:
    if seen.placed and seen.guessed / seen.placed > MANY:
        said = f"the time of {seen.guessed:,} of {counted(seen.placed, 'memory')} is a guess (`updated_at`)"
        yield Check("times", "warn", said, "with Mem0's history.db in reach, export finds when each text came to be")
    if seen.timeless:
        which = counted(seen.timeless, "memory has", "memories have")
        said = f"{which} no time: written first, superseding nothing"
        yield Check("times", "warn", said)
    if seen.future:
        said = f"{counted(seen.future, 'memory has', 'memories have')} a time in the future"
        yield Check("times", "warn", said, "was a clock wrong, or a time zone?")
