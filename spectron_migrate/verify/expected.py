"""What should be in Spectron: every memory of the dump, with its text there and its state in the ledger.

Every memory is exactly one of: stored, carried (it is in the turn of a message, and that message is checked instead),
missing, pending (Mem0 has another text than the ledger, or one that was not replayed), skipped, gone (deleted in Mem0).
Only the first three say something about the migration; `pending` means that another export or replay is needed.

Replay decides which of two texts is newer. Verification does not apply that rule a second time: if the dump and the
ledger differ, the memory is pending.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import TypeVar

from spectron_migrate.dump import Dump
from spectron_migrate.errors import WrongLedger
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.pending import is_decided_older
from spectron_migrate.ledger.read import memories, plans, receipts
from spectron_migrate.ledger.read.memories import LastVersion
from spectron_migrate.ledger.schema import STORED
from spectron_migrate.mapping import Lens, NotServable, ScopeMapping, Unmapped, covers
from spectron_migrate.records import (
    Filters,
    Memory,
    Placement,
    Selector,
    Skipped,
    canonical_json,
    digest,
    same_text,
    selector_of,
)
from spectron_migrate.reporter import Reporter
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.options import VerifyOptions
from spectron_migrate.verify.workspace import Workspace

T = TypeVar("T")

_BATCH = 1000
_MOST_LENSES = 10_000


@dataclass(frozen=True, slots=True)
class Expectation:
    """What should be in Spectron for one memory, and what is already known to be wrong with it."""

    kind: str
    """stored, carried, missing, pending, skipped or gone."""
    reason: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class ExpectationRules:
    """What applies to all memories of a dump."""

    mapping: ScopeMapping
    planned: bool
    """Whether this very dump was planned. Then a memory that the ledger lacks was left out, and is not new."""
    began: str | None
    """When the scan of the dump began; None if unknown."""
    accepted: frozenset[str]
    """Mem0 ids of refused memories whose absence a person has accepted."""
    accepted_moved: frozenset[str] = frozenset()
    """Mem0 ids of moved memories that a person has accepted where they were sent."""
    is_last: bool = False
    """Whether nothing was planned after this dump, so that no later scan can show that one of its memories is gone."""
    lenses: dict[tuple[str | None, ...], Lens | None] = field(default_factory=dict, compare=False)
    """Recently used lenses by owner, because most owners have many memories."""

    def lens_of(self, memory: Memory) -> Lens | None:
        """The lens of the memory's owners; None if there is none that can be served."""
        owners = (memory.user_id, memory.agent_id, memory.app_id, memory.run_id)
        if owners not in self.lenses:
            if len(self.lenses) >= _MOST_LENSES:
                self.lenses.clear()
            self.lenses[owners] = lens_of(memory.entity_ids, self.mapping)
        return self.lenses[owners]


def index_receipts(work: Workspace, *, seed: int, reporter: Reporter) -> None:
    """Record every stored version of the ledger in the workspace."""
    reporter.stage("read the ledger")
    with work.change():
        for row in receipts.receipts(work.ledger):
            work.add_receipt(row, seed=seed)
            reporter.advance(1)


def record_expectations(
    work: Workspace, dump: Dump | None, mapping: ScopeMapping, options: VerifyOptions, *, reporter: Reporter
) -> None:
    """Record the expectation of every memory in dump and ledger.

    Raises WrongLedger if dump and ledger belong to different sources.
    """
    if dump is not None:
        _same_source(work.ledger, dump)
        _from_dump(work, dump, mapping, options, reporter)
    _from_ledger_beside(work, options.filters, options.accepted)
    work.settle_stale()


def expectation_of(
    memory: Memory, last: LastVersion | None, rules: ExpectationRules, *, is_decided_older: bool = False
) -> Expectation:
    """The expectation of a memory of the dump; `last` is the newest version that the ledger knows.

    `is_decided_older`: a person said that Mem0's text is the older one, so that `last` is the text to find.
    """
    if last is not None and last.tombstoned_at is not None:
        if rules.began is None:
            return Expectation("pending", "deleted in Mem0 by the ledger, and this file does not say when it was read")
        if rules.began <= last.tombstoned_at and rules.is_last:
            # By the clocks it was deleted after this reading, but there was no later reading: one of the clocks is
            # wrong.
            return Expectation("pending", "deleted in Mem0 by the ledger, and the last dump that was planned has it")
        if rules.began <= last.tombstoned_at:
            return _gone(memory.id, last)  # an older scan cannot bring back a memory that a newer one found deleted
    mapped = rules.mapping.map_memory(memory)
    stored = last is not None and last.any_stored
    if isinstance(mapped, Skipped):
        return Expectation("skipped", mapped.reason, _stale(memory.id, mapped.reason) if stored else ())
    if isinstance(mapped, Unmapped):
        return Expectation("missing", f"no mapping rule matches it: {mapped.why}")
    if last is None:
        if rules.planned:
            return Expectation("missing", _NEVER_PLANNED)
        return Expectation("pending", "new since the replay")
    if last.text_digest != digest(memory.memory) and not is_decided_older:
        return _other_text(memory.id, last, rules.began)
    if last.state == "skipped" and not rules.planned:
        return Expectation("pending", f"the replay skipped it: {last.reason}")
    misplaced = () if memory.id in rules.accepted_moved else _misplaced(memory, last, mapped, rules)
    return from_ledger(memory.id, last, rules.accepted, misplaced)


def from_ledger(
    mem0_id: str, last: LastVersion, accepted: frozenset[str], findings: tuple[Finding, ...] = ()
) -> Expectation:
    """The expectation of a memory that should be in Spectron, by its state in the ledger."""
    if last.state in STORED:
        return Expectation("stored" if last.message is None else "carried", "", findings)
    if last.state == "refused" and mem0_id in accepted:
        return Expectation("skipped", "refused, and accepted by name")
    return Expectation("missing", _UNSENT.get(last.state, last.state) + _status(last.reason))


_NEVER_PLANNED = "never planned: the replay left it out"
_UNSENT = {
    "planned": "planned, not sent yet",
    "intended": "in doubt: sent, not decided",
    "refused": "refused",
    "undecidable": "undecidable",
    "skipped": "skipped in the ledger",
}
SENT_BY_A_REPLAY = (_UNSENT["planned"], _UNSENT["intended"], _NEVER_PLANNED)
"""Starts of reasons for a missing memory that the next replay sends or decides."""
FOR_A_PERSON = (_UNSENT["refused"], _UNSENT["undecidable"])
"""Starts of reasons for a missing memory about which a person has to decide or do something first."""


def _status(reason: str | None) -> str:
    """The HTTP status at the start of a reason; the rest may repeat the memory's text and is in the review file."""
    first = (reason or "").split(" ", 1)[0]
    return f" ({first})" if first.isdigit() and len(first) == 3 else ""


def lens_of(owners: dict[str, str], mapping: ScopeMapping) -> Lens | None:
    """The lens through which an application would search for a memory of these owners; None if none can be served."""
    for names in (("user_id",), ("user_id", "agent_id"), ("agent_id",), ("app_id",), ("run_id",)):
        if names[0] in owners and all(name in owners for name in names):
            try:
                return mapping.lens(**{name: owners[name] for name in names})
            except NotServable:
                continue
    return None


def _from_dump(work: Workspace, dump: Dump, mapping: ScopeMapping, options: VerifyOptions, reporter: Reporter) -> None:
    ledger = work.ledger
    planned = plans.was_planned(ledger, dump.digest)
    rules = ExpectationRules(
        mapping,
        planned,
        dump.began,
        options.accepted,
        options.accepted_moved,
        is_last=plans.is_last_scan(ledger, dump.digest),
    )
    reporter.stage("compare dump and ledger", dump.count)
    batches = _Batches(work)
    for some in _pages(memory for memory in _read(dump, reporter) if options.filters.admits(memory)):
        known = memories.last_versions(ledger, [memory.id for memory in some])
        for memory in some:
            batches.add(memory.id, _expectation_in(dump, memory, known.get(memory.id), ledger, rules))
    for ids in _pages(dump.tombstones):
        for mem0_id, last in memories.last_versions(ledger, ids).items():
            if _admitted(ledger, mem0_id, options.filters):
                batches.add(mem0_id, _gone(mem0_id, last))
    batches.flush()


def _read(dump: Dump, reporter: Reporter) -> Iterator[Memory]:
    for memory in dump.memories():
        reporter.advance(1)
        yield memory


def _expectation_in(
    dump: Dump, memory: Memory, last: LastVersion | None, ledger: Ledger, rules: ExpectationRules
) -> Expectation:
    is_other = last is not None and last.text_digest != digest(memory.memory)
    older = is_other and is_decided_older(ledger, memory, (dump.digest, *dump.ancestors))
    expectation = expectation_of(memory, last, rules, is_decided_older=older)
    if last is None or expectation.kind != "stored" or older:
        return expectation
    return replace(expectation, findings=(*expectation.findings, *_sent_otherwise(last, memory)))


def _from_ledger_beside(work: Workspace, filters: Filters, accepted: frozenset[str]) -> None:
    """Memories that only the ledger has: captured after the dump, or from another export."""
    ledger, batches = work.ledger, _Batches(work)
    for some in _pages(memories.memories(ledger)):
        expected = work.expected_among([mem0_id for mem0_id, _ in some])
        beside = {
            mem0_id: tombstoned
            for mem0_id, tombstoned in some
            if mem0_id not in expected and _admitted(ledger, mem0_id, filters)
        }
        for mem0_id, last in memories.last_versions(ledger, list(beside)).items():
            gone = beside[mem0_id]
            batches.add(mem0_id, _gone(mem0_id, last) if gone else _from_ledger_alone(mem0_id, last, accepted))
    batches.flush()


def _from_ledger_alone(mem0_id: str, last: LastVersion, accepted: frozenset[str]) -> Expectation:
    if last.state == "skipped":
        return Expectation("skipped", last.reason or "")
    return from_ledger(mem0_id, last, accepted)


def _gone(mem0_id: str, last: LastVersion) -> Expectation:
    findings = _stale(mem0_id, "deleted in Mem0") if last.any_stored else ()
    return Expectation("gone", "deleted in Mem0", findings)


def _stale(mem0_id: str, reason: str) -> tuple[Finding, ...]:
    return (Finding("stale", mem0_id, reason),)


def _other_text(mem0_id: str, last: LastVersion, began: str | None) -> Expectation:
    """Mem0's text is not the ledger's newest. Then the memory is never stored, whichever text is newer for replay."""
    if began is not None and began <= last.recorded_at:
        return Expectation("pending", "the ledger has another text of it, recorded after this dump was read")
    findings = _stale(mem0_id, "its text in Mem0 is another") if last.any_stored else ()
    return Expectation("pending", "its text in Mem0 is not the one that was replayed", findings)


def _sent_otherwise(last: LastVersion, memory: Memory) -> tuple[Finding, ...]:
    """Compare Mem0's text with the text that was sent, word for word, because digests are the writer's own record."""
    if same_text(last.text, memory.memory):
        return ()
    texts = {"written": memory.memory, "found": last.text}
    return (Finding("altered", memory.id, "the text that was sent is not Mem0's", "ledger", texts),)


def _misplaced(memory: Memory, last: LastVersion, mapped: Placement, rules: ExpectationRules) -> tuple[Finding, ...]:
    if last.state not in STORED:
        return ()
    selector = _spelled(mapped.selector)
    if selector != last.selector:
        reason = f"written to {last.selector}, but the mapping gives {selector}"
        return (Finding("misplaced", memory.id, reason, last.selector),)
    lens = rules.lens_of(memory)
    if lens is not None and not covers(lens.selector, selector_of(last.selector)):
        return (Finding("misplaced", memory.id, "its own owner's lens does not cover its scope", last.selector),)
    return ()


@lru_cache(_MOST_LENSES)
def _spelled(selector: Selector) -> str:
    """As the ledger spells it. Cached, because most selectors have many memories."""
    return canonical_json(selector)


def _admitted(ledger: Ledger, mem0_id: str, filters: Filters) -> bool:
    if not filters:
        return True
    memory = memories.memory_of(ledger, mem0_id)
    return memory is not None and filters.admits(memory)


def _same_source(ledger: Ledger, dump: Dump) -> None:
    migration = ledger.migration()
    if migration is not None and migration.source != dump.source.identity:
        raise WrongLedger(
            f"the ledger at {ledger.path} belongs to source {migration.source},"
            f" the dump in {dump.path} to {dump.source.identity}",
            hint="set --dump to the dump that was replayed, or --state to its ledger",
        )


class _Batches:
    """Records expectations, many in a transaction."""

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self._pending: list[tuple[str, Expectation]] = []

    def add(self, mem0_id: str, expectation: Expectation) -> None:
        self._pending.append((mem0_id, expectation))
        if len(self._pending) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        with self._work.change():
            self._work.expect((mem0_id, each.kind, each.reason) for mem0_id, each in self._pending)
            self._work.note("present", (finding for _, each in self._pending for finding in each.findings))
        self._pending.clear()


def _pages(values: Iterable[T]) -> Iterator[list[T]]:
    """The values in groups of the size that the ledger can be asked for at once."""
    left = iter(values)
    while page := list(islice(left, memories.AT_ONCE)):
        yield page
