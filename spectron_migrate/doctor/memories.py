"""Checks the dump with the mapping: unmapped memories, filters that cannot be answered, guessed times, expiry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from spectron_migrate.doctor.check import Check
from spectron_migrate.dump import Dump
from spectron_migrate.errors import ExitCode
from spectron_migrate.mapping import NotServable, ScopeMapping, Unmapped
from spectron_migrate.mapping.unmapped import UnmappedMemories
from spectron_migrate.records import Memory, Placement, counted, has_time

MOST_GUESSED = 0.05
"""A larger share of guessed times causes a warning."""
MOST_PATHS = 100_000
"""How many scopes are remembered for the check of grants. If a dump has more, only these are checked."""
_FILTERS = (("user_id",), ("user_id", "agent_id"), ("agent_id",), ("app_id",), ("run_id",))
"""The filters that applications search by. `run_id` alone counts only if a memory has no other owner."""


@dataclass
class DumpSurvey:
    """Counts and examples from one pass over the dump."""

    rows: int = 0
    mapped: int = 0
    unmapped: UnmappedMemories = field(default_factory=UnmappedMemories)
    """Memories that no rule maps."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Memories that the mapping skips, by reason."""
    guessed: int = 0
    """Memories whose time is `updated_at`, which a metadata edit changes too."""
    without_time: int = 0
    future: int = 0
    expiring: int = 0
    short_lived: int = 0
    """Memories of category `context`."""
    paths: set[str] = field(default_factory=set)
    """Scopes that would be written to."""
    filters: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)
    """An example of each filter that finds a memory of this dump: names of its ids -> ids by name."""

    def add(self, memory: Memory, mapping: ScopeMapping, now: str) -> None:
        """Count a memory; `now` as `format_time` gives it."""
        self.rows += 1
        result = mapping.map_memory(memory)
        if isinstance(result, Unmapped):
            self.unmapped.add(memory, result)
            return
        if not isinstance(result, Placement):
            self.skipped[result.reason] += 1
            return
        self.mapped += 1
        self.short_lived += result.category == "context"
        self.expiring += memory.expiration_date is not None
        self.guessed += memory.text_at_source == "updated_at"
        self.without_time += not has_time(memory)
        self.future += has_time(memory) and (memory.text_at or "") > now
        if len(self.paths) < MOST_PATHS:
            self.paths |= {path for clause in result.selector for path in clause}
        owners = memory.entity_ids
        for names in _FILTERS:
            is_of_a_run_alone = names != ("run_id",) or len(owners) == 1
            if names not in self.filters and owners.keys() >= set(names) and is_of_a_run_alone:
                self.filters[names] = {name: owners[name] for name in names}


def survey_dump(dump: Dump, mapping: ScopeMapping, now: str) -> DumpSurvey:
    """Read every memory of the dump once."""
    survey = DumpSurvey()
    for memory in dump.memories():
        survey.add(memory, mapping, now)
    return survey


def check_memories(survey: DumpSurvey, dump: Dump) -> Iterator[Check]:
    """How complete the dump is, and what a replay would make of its memories."""
    if dump.complete is False:
        hint = "export again: nothing shows which memories are missing"
        yield Check("dump", "fail", f"{dump.path} holds only a part of Mem0", hint, ExitCode.INCOMPLETE)
    elif not survey.rows:
        yield Check("dump", "fail", f"{dump.path} holds no memory", "is it the right Mem0? export again")
    else:
        proof = "raw files, which cannot be proven complete" if dump.raw else "a complete scan"
        yield Check("dump", "ok", f"{counted(survey.rows, 'memory')}, {proof}")
    if survey.unmapped.count:
        matches = counted(survey.unmapped.count, "memory matches", "memories match")
        finding = f"{matches} no rule of the mapping: {'; '.join(survey.unmapped.groups())}"
        yield Check("mapping: places", "fail", finding, "add a rule for them, or `unmapped: skip`")
    else:
        skipped = sum(survey.skipped.values())
        finding = f"{counted(len(survey.paths), 'scope')} for {counted(survey.mapped, 'memory')}"
        finding += f", {skipped:,} skipped" if skipped else ""
        yield Check("mapping: places", "ok", finding)
    yield from _check_times(survey)
    if survey.expiring:
        finding = f"{counted(survey.expiring, 'memory')} would expire in Mem0 and will not in Spectron"
        yield Check("expiry", "warn", finding, "add a rule that skips them, or accept that they stay")
    if survey.short_lived:
        which = counted(survey.short_lived, "memory is", "memories are")
        finding = f"{which} written as `context`, which Spectron keeps for 7 days from the memory's time"
        yield Check("expiry", "warn", finding, "the category `knowledge` does not expire")


def check_filters(survey: DumpSurvey, mapping: ScopeMapping) -> Iterator[Check]:
    """Which filters of an application Spectron can answer with this mapping."""
    refused = []
    for names, example in survey.filters.items():
        try:
            mapping.lens(**example)
        except NotServable as error:
            refused.append(names)
            hint = f"ignore this if the application never searches by it; else {error.hint}" if error.hint else ""
            yield Check("mapping: filters", "warn", error.message, hint)
    answered = [" and ".join(names) for names in survey.filters if names not in refused]
    if answered:
        yield Check("mapping: filters", "ok", f"searches by {', by '.join(answered)} can be answered")


def _check_times(survey: DumpSurvey) -> Iterator[Check]:
    if survey.mapped and survey.guessed / survey.mapped > MOST_GUESSED:
        finding = f"the time of {survey.guessed:,} of {counted(survey.mapped, 'memory')} is a guess (`updated_at`)"
        yield Check(
            "times", "warn", finding, "an export that can read Mem0's history.db knows when each text was written"
        )
    if survey.without_time:
        which = counted(survey.without_time, "memory has", "memories have")
        finding = f"{which} no time: written first, without superseding anything"
        yield Check("times", "warn", finding)
    if survey.future:
        finding = f"{counted(survey.future, 'memory has', 'memories have')} a time in the future"
        yield Check("times", "warn", finding, "was a clock or a time zone wrong?")
