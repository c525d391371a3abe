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
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from spectron_migrate.errors import InputError, MigrateError
from spectron_migrate.state.cutover_state import CutoverState, Step
from spectron_migrate.state.routing import FILE as ROUTING_FILE
from spectron_migrate.state.routing import MOST_BEHIND, Routing, name_of, read_routing, write_routing
from spectron_migrate.state.store import StateStore, store_at

FILE = "cutover.jsonl"
LOCK_FILE = "cutover.lock"
"""Held for the moment that a step or the routing is written."""

STEPS_BACK = ("revert", "abort")
"""Steps that move reads back to Mem0. They are accepted even if lines of the journal are missing."""


class StepConflict(InputError):
    """Another step was recorded after the state was read on which this step was based."""


class JournalTruncated(InputError):
    """Lines of the journal are missing: `routing.json` is of a later step than its last line."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How far Spectron has caught up with Mem0. See the fields of the same names in `Routing`."""

    as_of: str | None = None
    fresh_until: float | None = 0.0
    behind: frozenset[str] | None = None
    """Ids, not the hashed names of `routing.json`; None for everybody."""


@dataclass(frozen=True, slots=True)
class Journal:
    """A journal, as it was read."""

    state: CutoverState = field(default_factory=CutoverState)
    steps: tuple[Step, ...] = ()


def read_journal(state: Path | StateStore) -> Journal:
    """The journal of a state; an empty one if there is none.

    A last line that a crash cut off was never acknowledged and is ignored. Raises InputError if a line is not a step.
    """
    return _read(store_at(state))[0]


def record_step(state: Path | StateStore, step: Step, *, decided_in: CutoverState | None = None) -> CutoverState:
    """Append a step durably, then update `routing.json`. Returns the state of the cutover after the step.

    `decided_in`: the state on which the step was based. Raises StepConflict if another step was taken since, and
    JournalTruncated if `routing.json` shows that lines of the journal are missing. In that case only `revert` and
    `abort` (but not after `complete`), and a `complete` that was learned from Spectron, are accepted.
    """
    store = store_at(state)
    with store.lock(LOCK_FILE):
        journal, lines = _read(store)
        before = journal.state
        if decided_in is not None and decided_in.epoch != before.epoch:
            raise _conflict()
        ahead = _routing_ahead(store, before)
        if ahead is not None:
            is_learned = step.step == "complete" and bool(step.migration)
            if not is_learned and (step.step not in STEPS_BACK or ahead.phase == "complete"):
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
    """Whether `routing.json` shows that lines are missing in the journal that gave this state of the cutover."""
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
        hint="restore the file; spectron-migrate cutover check asks Spectron whether the cutover is complete; until"
        " then `cutover revert` sends reads back to Mem0",
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
