"""The journal of a cutover, `cutover.jsonl`: one durable line for each step. All steps applied give the state.

The journal is authoritative and `routing.json` is derived from it. A process killed between the two writes leaves an
old `routing.json`; the next step or round of following updates it. The journal is a file of its own because a replay
may hold the ledger for minutes, and a revert must not wait for that.

Each line carries the SHA-256 of the line before it (`prev`), so that a manual edit is noticed. It is not a signature:
an edit that also changes all later lines goes unnoticed.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from spectron_migrate.errors import InputError, MigrateError
from spectron_migrate.records import Json, digest
from spectron_migrate.state.routing import FILE as ROUTING_FILE
from spectron_migrate.state.routing import MOST_BEHIND, CatchUp, Phase, Routing, name_of, read_routing, write_routing
from spectron_migrate.state.store import StateStore, store_at

FILE = "cutover.jsonl"
LOCK_FILE = "cutover.lock"
"""Held for the moment that a step or the routing is written."""

STEPS_BACK = ("revert", "abort")
"""Steps that move reads back to Mem0. They are accepted even if lines of the journal are missing."""

StepName = Literal["start", "shift", "pin", "accept", "revert", "closing", "complete", "sealed", "abort"]


class StepConflict(InputError):
    """Another step was recorded after the state was read that this step was decided in."""


class JournalTruncated(InputError):
    """Lines of the journal are missing: `routing.json` is of a later step than its last line."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the journal. Fields that a kind of step does not use keep their defaults."""

    step: StepName
    at: str
    """RFC 3339."""
    who: str
    """User, host and process (`whoami`)."""
    why: str = ""
    """The operator's reason."""
    percent: float | None = None
    """`shift`: share of users to read from Spectron, 0 to 100."""
    spectron: tuple[str, ...] = ()
    """`pin`: ids to read from Spectron from now on."""
    mem0: tuple[str, ...] = ()
    """`pin`: ids to read from Mem0 from now on."""
    gate: str = ""
    """`accept`: the gate's name."""
    ids: tuple[str, ...] = ()
    """`accept`: the accepted memories; none for a gate that is accepted as a whole."""
    about: str = ""
    """`accept`: identifies what was accepted. For memories the marks (`acceptance_mark`) of what the gate said of
    each, separated by spaces; else the gate's own `about`. If the gate finds something else, it must be accepted again.
    """
    migration: str = ""
    """`start`: the migration's id."""
    catch_up: CatchUp = "follow"
    """`start`: how writes to Mem0 are caught up."""
    gates: tuple[Mapping[str, Json], ...] = ()
    """`shift`, `complete`: the results of all gates at this step."""
    mapping_digest: str = ""
    """`complete`: the digest of the mapping, with its lookup tables."""
    rules_digest: str = ""
    """`complete`: the digest of the mapping without the rows of its lookup tables."""
    epoch: int | None = None
    """`revert`, `abort` on a journal with missing lines: the epoch of this step, above that of `routing.json`."""

    def to_json(self) -> dict[str, Json]:
        """As a line of the journal holds it, without empty fields."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        kept = {name: value for name, value in fields.items() if value not in ("", (), None)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Step:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        if value["step"] not in get_args(StepName):
            raise ValueError(f"unknown step {value['step']}")
        known: dict[str, Json] = {name: value[name] for name in cls.__slots__ if name in value}
        known |= {name: tuple(each) for name, each in known.items() if isinstance(each, list)}
        return cls(**known)


@dataclass(frozen=True, slots=True)
class CutoverState:
    """The state of a cutover: all steps of its journal applied in order."""

    phase: Phase = "mem0"
    percent: float = 0
    pinned_to_spectron: frozenset[str] = frozenset()
    """Ids that are read from Spectron whatever the percentage."""
    pinned_to_mem0: frozenset[str] = frozenset()
    epoch: int = 0
    """Rises with every step; it goes on across cutovers of the same state directory."""
    migration: str = ""
    catch_up: CatchUp = "follow"
    fence: str | None = None
    """When the cutover began. Only a scan that began after it counts as the base dump."""
    changed_at: str | None = None
    """When the last step was recorded."""
    sealed: bool = False
    """After `complete`: what was still written to Mem0 while applications switched is carried over too."""
    mapping_digest: str = ""
    """After `complete`: of the mapping that the memories were written with; see `Step`."""
    rules_digest: str = ""
    all_read_since: str | None = None
    """Since when all users are read from Spectron; None while some are not."""
    accepted: tuple[Step, ...] = ()
    """All `accept` steps of this cutover."""
    ever_began: bool = False
    """True if any cutover ever began here: from then on an application may have written to the migration's scopes."""
    ever_shifted: str | None = None
    """When a read was first shifted to Spectron, in this or an earlier cutover; None if none ever was."""
    altered: int | None = None
    """Number of the first line whose `prev` does not match: the journal was edited by hand."""

    def not_accepted(self, gate: str, shown: Mapping[str, str]) -> list[str]:
        """Of the memories that a gate shows (id -> what it says of it), those that were not accepted for just that."""
        steps = [step for step in self.accepted if step.gate == gate]
        accepted = {pair for step in steps for pair in zip(step.ids, step.about.split(), strict=False)}
        return [each for each, text in shown.items() if (each, acceptance_mark(text)) not in accepted]

    @property
    def is_under_way(self) -> bool:
        """True if a cutover has begun and was neither completed nor aborted."""
        return self.phase in ("started", "shift", "closing")

    def after(self, step: Step) -> CutoverState:
        """The state after a step."""
        after = self._after(step)
        reads_all = after.is_under_way and after.percent == 100 and not after.pinned_to_mem0
        return replace(
            after,
            all_read_since=(self.all_read_since or step.at) if reads_all else None,
            ever_shifted=self.ever_shifted or (step.at if after.percent or after.pinned_to_spectron else None),
        )

    def _after(self, step: Step) -> CutoverState:
        moved = replace(self, epoch=max(self.epoch + 1, step.epoch or 0), changed_at=step.at)
        match step.step:
            case "start":
                fresh = CutoverState(epoch=moved.epoch, changed_at=step.at, altered=self.altered)
                return replace(
                    fresh,
                    phase="started",
                    migration=step.migration,
                    catch_up=step.catch_up,
                    fence=step.at,
                    ever_began=True,
                )
            case "shift":
                return replace(moved, phase="shift", percent=step.percent or 0)
            case "pin":
                spectron, mem0 = frozenset(step.spectron), frozenset(step.mem0)
                return replace(
                    moved,
                    phase="shift",
                    pinned_to_spectron=(self.pinned_to_spectron - mem0) | spectron,
                    pinned_to_mem0=(self.pinned_to_mem0 - spectron) | mem0,
                )
            case "accept":
                return replace(moved, accepted=(*self.accepted, step))
            case "revert":
                return replace(
                    moved, phase="started", percent=0, pinned_to_spectron=frozenset(), pinned_to_mem0=frozenset()
                )
            case "closing":
                return replace(moved, phase="closing")
            case "complete":
                return replace(
                    moved,
                    phase="complete",
                    percent=100,
                    pinned_to_spectron=frozenset(),
                    pinned_to_mem0=frozenset(),
                    mapping_digest=step.mapping_digest,
                    rules_digest=step.rules_digest,
                )
            case "sealed":
                return replace(moved, sealed=True)
            case "abort":
                return CutoverState(
                    epoch=moved.epoch,
                    changed_at=step.at,
                    migration=self.migration,
                    ever_began=True,
                    altered=self.altered,
                )


def acceptance_mark(text: str) -> str:
    """A digest of what a gate says of a memory, as an acceptance records it."""
    return digest(text)[:16]


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How far Spectron has caught up with Mem0; see the fields of the same names in `Routing`."""

    as_of: str | None = None
    fresh_until: float | None = 0.0
    behind: frozenset[str] | None = None
    """Ids, not the hashed names of `routing.json`; None for everybody."""


@dataclass(frozen=True, slots=True)
class Journal:
    """A journal as it was read."""

    state: CutoverState = field(default_factory=CutoverState)
    steps: tuple[Step, ...] = ()


def read_journal(state: Path | StateStore) -> Journal:
    """The journal of a state; an empty one if there is none.

    A last line that a crash cut off was never acknowledged and is ignored. Raises InputError if a line is not a step.
    """
    return _read(store_at(state))[0]


def record_step(state: Path | StateStore, step: Step, *, decided_in: CutoverState | None = None) -> CutoverState:
    """Append a step durably, then update `routing.json`. Returns the state of the cutover after the step.

    `decided_in`: the state that the step was decided in. Raises StepConflict if another step was taken since, and
    JournalTruncated if `routing.json` shows that lines of the journal are missing. Only `revert` and `abort` are
    accepted then, and not even those after `complete`.
    """
    store = store_at(state)
    with store.lock(LOCK_FILE):
        journal, lines = _read(store)
        before = journal.state
        if decided_in is not None and decided_in.epoch != before.epoch:
            raise _conflict()
        ahead = _routing_ahead(store, before)
        if ahead is not None:
            if step.step not in STEPS_BACK or ahead.phase == "complete":
                raise _truncated(store)
            step = replace(step, epoch=ahead.epoch + 1)
        prev = _digest(lines[-1]) if lines else ""
        fields = {"n": before.epoch + 1, **step.to_json(), "prev": prev}
        line = json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        try:
            is_appended = store.append_line(FILE, line, after=lines)
        except MigrateError:
            raise
        except OSError as error:
            raise InputError(
                f"the step cannot be written to {store.describe(FILE)}: {error.strerror or error}",
                hint="nothing was changed",
            ) from error
        if not is_appended:
            raise _conflict()
        after = before.after(step)
        _publish(store, after, None, now=step.at)
    return after


def publish_routing(state: Path | StateStore, caught_up: CaughtUp | None = None, *, now: str) -> Routing | None:
    """Update `routing.json` from the journal and from `caught_up`; None if no cutover ever began.

    Without `caught_up`, that part of the file stays as it is. Raises JournalTruncated if lines of the journal are
    missing.
    """
    store = store_at(state)
    if not store.has_journal(FILE) and store.read(ROUTING_FILE) is None:
        return None
    with store.lock(LOCK_FILE):
        cutover = _read(store)[0].state
        if _routing_ahead(store, cutover) is not None:
            raise _truncated(store)
        if not cutover.epoch:
            return None
        return _publish(store, cutover, caught_up, now=now)


def is_truncated(state: Path | StateStore, cutover: CutoverState) -> bool:
    """Whether `routing.json` shows that lines of the journal, which gave this state of the cutover, are missing."""
    store = store_at(state)
    if not cutover.ever_began:
        return store.read(ROUTING_FILE) is not None
    return _routing_ahead(store, cutover) is not None


def _routing_ahead(store: StateStore, state: CutoverState) -> Routing | None:
    """The routing, if it is of a later step than the journal; it is always written after the journal's line."""
    try:
        routing = read_routing(store)
    except ValueError:
        return None
    return routing if routing is not None and routing.epoch > state.epoch else None


def _conflict() -> StepConflict:
    return StepConflict("another step was taken at the same moment", hint="see `spectron-migrate status`")


def _truncated(store: StateStore) -> JournalTruncated:
    return JournalTruncated(
        f"{store.describe(FILE)} is older than {ROUTING_FILE} beside it: its last lines are missing",
        hint="restore the file; until then `cutover revert` sends reads back to Mem0",
    )


def whoami() -> str:
    """User, host and process id, as a step records them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} ({os.getpid()})"


def _publish(store: StateStore, state: CutoverState, caught_up: CaughtUp | None, *, now: str) -> Routing:
    try:
        old = read_routing(store)
    except ValueError:
        old = None
    routing = _routing(state, old, caught_up, now=now)
    if old is None or replace(old, updated_at="") != replace(routing, updated_at=""):
        try:
            write_routing(store, routing)
        except MigrateError:
            raise
        except OSError as error:
            raise InputError(
                f"{store.describe(ROUTING_FILE)} cannot be written: {error.strerror or error}; applications still use"
                " the old one",
                hint="free disk space or fix the permissions, then run any cutover command: it writes the file again",
            ) from error
    return routing


def routing_of(state: CutoverState, old: Routing | None = None) -> Routing:
    """The routing that follows from the journal alone; how far Spectron has caught up is taken from `old`."""
    return _routing(state, old, None, now=state.changed_at or "")


def _routing(state: CutoverState, old: Routing | None, caught_up: CaughtUp | None, *, now: str) -> Routing:
    """The routing for this state. Without `caught_up`, what `old` says of the same cutover is kept."""

    def names(ids: frozenset[str]) -> frozenset[str]:
        return frozenset(name_of(state.migration, each) for each in ids)

    routing = Routing(
        migration=state.migration,
        phase=state.phase,
        percent=state.percent,
        pinned_to_spectron=names(state.pinned_to_spectron),
        pinned_to_mem0=names(state.pinned_to_mem0),
        epoch=state.epoch,
        catch_up=state.catch_up,
        fence=state.fence,
        mapping_digest=state.mapping_digest,
        rules_digest=state.rules_digest,
        updated_at=now,
    )
    if state.phase == "complete":
        return replace(routing, as_of=state.changed_at, fresh_until=None, behind=frozenset())
    if not state.is_under_way:
        return routing
    if caught_up is not None:
        few = caught_up.behind is not None and len(caught_up.behind) <= MOST_BEHIND
        behind = names(caught_up.behind or frozenset()) if few else None
        return replace(routing, as_of=caught_up.as_of, fresh_until=caught_up.fresh_until, behind=behind)
    if old is not None and old.fence == state.fence and old.migration == state.migration:
        return replace(routing, as_of=old.as_of, fresh_until=old.fresh_until, behind=old.behind)
    return routing


def _read(store: StateStore) -> tuple[Journal, list[bytes]]:
    """The journal and its lines. Raises InputError."""
    try:
        lines = store.lines(FILE)
    except MigrateError:
        raise
    except OSError as error:
        raise InputError(f"{store.describe(FILE)} cannot be read: {error.strerror or error}") from None
    return _apply(lines, store.describe(FILE)), lines


def _apply(lines: Sequence[bytes], path: str) -> Journal:
    """The journal with these lines; `path` is for error messages. Raises InputError."""
    state, steps, prev = CutoverState(), [], ""
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            step = Step.from_json(value)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}:{number} is not a step of a cutover: {error}",
                hint="restore the line; the file is only ever appended to",
            ) from None
        if state.altered is None and value.get("prev") != prev:
            state = replace(state, altered=number)
        prev = _digest(line)
        state = state.after(step)
        steps.append(step)
    return Journal(state, tuple(steps))


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
