"""The journal of a cutover: `cutover.jsonl`, one durable line a step, and the state that its lines add up to.

The journal decides, `routing.json` follows it: a process killed between the two leaves an old routing, and whoever
comes next (any step, any round of following) makes them agree. It is a file of its own beside the ledger, because a
ledger may be held for minutes by whoever writes memories, and a revert may not wait for that.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from spectron_migrate.errors import InputError
from spectron_migrate.files.atomic import sync_folder
from spectron_migrate.files.locks import wait_for_lock
from spectron_migrate.files.private import make_private_directory
from spectron_migrate.records import Json, digest
from spectron_migrate.state.routing import FILE as ROUTING_FILE
from spectron_migrate.state.routing import MOST_BEHIND, CatchUp, Phase, Routing, name_of, read_routing, write_routing

FILE = "cutover.jsonl"

BACK = ("revert", "abort")
"""Steps that lead reads back to Mem0: they are taken although lines of the journal are missing."""

StepName = Literal["start", "shift", "pin", "accept", "revert", "closing", "complete", "sealed", "abort"]


class Overtaken(InputError):
    """Another step was taken since the state was read that this one was decided in."""


class JournalCut(InputError):
    """Lines of the journal are missing: applications have seen a later step than its last one."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that somebody did, or decided."""

    step: StepName
    at: str
    who: str
    why: str = ""
    percent: float | None = None
    """Of a `shift`."""
    spectron: tuple[str, ...] = ()
    """Ids that a `pin` reads from Spectron from now on."""
    mem0: tuple[str, ...] = ()
    gate: str = ""
    """What an `accept` is about."""
    ids: tuple[str, ...] = ()
    """Memories that an `accept` names; none for all that the gate shows now."""
    about: str = ""
    """What exactly was accepted: another finding of the gate needs another acceptance."""
    migration: str = ""
    """Of a `start`."""
    catch_up: CatchUp = "follow"
    gates: tuple[Mapping[str, Json], ...] = ()
    """How the gates stood at this moment."""
    epoch: int | None = None
    """Where it goes on from, of a way back that was taken although lines of the journal are missing."""

    def to_json(self) -> dict[str, Json]:
        """As a line of the journal holds it; what says nothing is left out."""
        told = {name: getattr(self, name) for name in self.__slots__}
        kept = {name: value for name, value in told.items() if value not in ("", (), None)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Step:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        if value["step"] not in get_args(StepName):
            raise ValueError(f"an unknown step {value['step']}")
        known: dict[str, Json] = {name: value[name] for name in cls.__slots__ if name in value}
        known |= {name: tuple(each) for name, each in known.items() if isinstance(each, list)}
        return cls(**known)


@dataclass(frozen=True, slots=True)
class CutoverState:
    """Where a cutover stands: what all steps add up to."""

    phase: Phase = "mem0"
    percent: float = 0
    to_spectron: frozenset[str] = frozenset()
    to_mem0: frozenset[str] = frozenset()
    epoch: int = 0
    """Steps so far, of all cutovers in this state directory."""
    migration: str = ""
    catch_up: CatchUp = "follow"
    fence: str | None = None
    """When the cutover began: the base dump has to begin after it."""
    since: str | None = None
    """When the last step was taken."""
    sealed: bool = False
    """After `complete`: what still came into Mem0 while the applications went over is carried over too."""
    accepted: tuple[Step, ...] = ()
    ever_began: bool = False
    """Whether any cutover began here: from then on others than this tool may have written to our scopes."""
    altered: int | None = None
    """The first line that does not fit the one before it: somebody changed the journal."""

    def open_at(self, gate: str, shown: Mapping[str, str]) -> list[str]:
        """The memories of those that a gate shows, which nobody has accepted there for what it says of them now."""
        steps = [step for step in self.accepted if step.gate == gate]
        accepted = {pair for step in steps for pair in zip(step.ids, step.about.split(), strict=False)}
        return [each for each, said in shown.items() if (each, mark_of(said)) not in accepted]

    @property
    def under_way(self) -> bool:
        """Whether a cutover has begun and neither ended nor been given up."""
        return self.phase in ("started", "shift", "closing")

    def after(self, step: Step) -> CutoverState:
        """The state once the step is taken."""
        moved = replace(self, epoch=max(self.epoch + 1, step.epoch or 0), since=step.at)
        match step.step:
            case "start":
                fresh = CutoverState(epoch=moved.epoch, since=step.at, altered=self.altered)
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
                    to_spectron=(self.to_spectron - mem0) | spectron,
                    to_mem0=(self.to_mem0 - spectron) | mem0,
                )
            case "accept":
                return replace(moved, accepted=(*self.accepted, step))
            case "revert":
                return replace(moved, phase="started", percent=0, to_spectron=frozenset(), to_mem0=frozenset())
            case "closing":
                return replace(moved, phase="closing")
            case "complete":
                return replace(moved, phase="complete", percent=100, to_spectron=frozenset(), to_mem0=frozenset())
            case "sealed":
                return replace(moved, sealed=True)
            case "abort":
                return CutoverState(
                    epoch=moved.epoch,
                    since=step.at,
                    migration=self.migration,
                    ever_began=True,
                    altered=self.altered,
                )


def mark_of(said: str) -> str:
    """What an acceptance keeps of the words it was given for."""
    return digest(said)[:16]


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What following knows about who may be read from Spectron."""

    as_of: str | None = None
    fresh_until: float | None = 0.0
    behind: frozenset[str] | None = None
    """Ids, not names; None for everybody."""


@dataclass(frozen=True, slots=True)
class Journal:
    """The journal as it was read."""

    state: CutoverState = field(default_factory=CutoverState)
    steps: tuple[Step, ...] = ()


def read_journal(folder: Path) -> Journal:
    """The journal in a state directory; an empty one where there is none.

    A last line that was cut off by a crash was never acknowledged and does not count. Raises InputError for a
    journal that holds anything else than steps.
    """
    return _fold(_lines(folder / FILE), folder / FILE)


def record(folder: Path, step: Step, *, expect: CutoverState | None = None) -> CutoverState:
    """Append a step, durably, then bring `routing.json` up to it; returns the state after it.

    `expect`: the state that the step was decided in; raises Overtaken where somebody was faster, and JournalCut
    where `routing.json` shows that lines of the journal are missing, but for a way back. From `complete` none leads.
    """
    make_private_directory(folder)
    with _locked(folder):
        path = folder / FILE
        lines = _lines(path)
        state = _fold(lines, path).state
        if expect is not None and expect.epoch != state.epoch:
            raise Overtaken("another step was taken at the same moment", hint="look at `spectron-migrate status`")
        ahead = _routing_ahead(folder, state)
        if ahead is not None:
            if step.step not in BACK or ahead.phase == "complete":
                raise _cut(path)
            step = replace(step, epoch=ahead.epoch + 1)
        prev = _digest(lines[-1]) if lines else ""
        told = {"n": state.epoch + 1, **step.to_json(), "prev": prev}
        line = json.dumps(told, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        try:
            _append(path, line, keep=sum(map(len, lines)))
        except OSError as error:
            raise InputError(
                f"the step cannot be written to {path}: {error.strerror or error}", hint="nothing was changed"
            ) from error
        state = state.after(step)
        _publish(folder, state, None, now=step.at)
    return state


def publish(folder: Path, caught_up: CaughtUp | None = None, *, now: str) -> Routing | None:
    """Bring `routing.json` up to the journal and to what following knows; None where no cutover ever began.

    Without `caught_up`, what the file says about it stays. Raises JournalCut where lines of the journal are missing.
    """
    if not (folder / FILE).exists() and not (folder / ROUTING_FILE).exists():
        return None
    with _locked(folder):
        state = _fold(_lines(folder / FILE), folder / FILE).state
        if _routing_ahead(folder, state) is not None:
            raise _cut(folder / FILE)
        if not state.epoch:
            return None
        return _publish(folder, state, caught_up, now=now)


def _routing_ahead(folder: Path, state: CutoverState) -> Routing | None:
    """What applications saw, where it lies beyond the journal: it is written after the journal's line."""
    try:
        routing = read_routing(folder / ROUTING_FILE)
    except ValueError:
        return None
    return routing if routing is not None and routing.epoch > state.epoch else None


def _cut(path: Path) -> JournalCut:
    return JournalCut(
        f"{path} is older than {ROUTING_FILE} beside it: its last lines are missing",
        hint="put the file back as it was; `cutover revert` leads reads back to Mem0 meanwhile",
    )


def whoami() -> str:
    """Who takes a step: user, host and process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} ({os.getpid()})"


def _publish(folder: Path, state: CutoverState, caught_up: CaughtUp | None, *, now: str) -> Routing:
    path = folder / ROUTING_FILE
    try:
        old = read_routing(path)
    except ValueError:
        old = None
    routing = _routing(state, old, caught_up, now=now)
    if old is None or replace(old, updated_at="") != replace(routing, updated_at=""):
        try:
            write_routing(path, routing)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written: {error.strerror or error}; applications still go by the old one",
                hint="make room, or mend the rights, then run any cutover command: it writes what the journal says",
            ) from error
    return routing


def _routing(state: CutoverState, old: Routing | None, caught_up: CaughtUp | None, *, now: str) -> Routing:
    def names(ids: frozenset[str]) -> frozenset[str]:
        return frozenset(name_of(state.migration, each) for each in ids)

    routing = Routing(
        migration=state.migration,
        phase=state.phase,
        percent=state.percent,
        to_spectron=names(state.to_spectron),
        to_mem0=names(state.to_mem0),
        epoch=state.epoch,
        catch_up=state.catch_up,
        fence=state.fence,
        updated_at=now,
    )
    if state.phase == "complete":
        return replace(routing, as_of=state.since, fresh_until=None, behind=frozenset())
    if not state.under_way:
        return routing
    if caught_up is not None:
        few = caught_up.behind is not None and len(caught_up.behind) <= MOST_BEHIND
        behind = names(caught_up.behind or frozenset()) if few else None
        return replace(routing, as_of=caught_up.as_of, fresh_until=caught_up.fresh_until, behind=behind)
    if old is not None and old.fence == state.fence and old.migration == state.migration:
        return replace(routing, as_of=old.as_of, fresh_until=old.fresh_until, behind=old.behind)
    return routing


def _fold(lines: Sequence[bytes], path: Path) -> Journal:
    state, steps, prev = CutoverState(), [], ""
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            step = Step.from_json(value)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}:{number} is no step of a cutover: {error}",
                hint="put back what was there; the file is only ever appended to",
            ) from None
        if state.altered is None and value.get("prev") != prev:
            state = replace(state, altered=number)
        prev = _digest(line)
        state = state.after(step)
        steps.append(step)
    return Journal(state, tuple(steps))


def _lines(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    return [line for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


def _append(path: Path, line: bytes, *, keep: int) -> None:
    """Behind the whole lines, in place of one that a crash cut off."""
    fresh = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(handle, keep)
        os.lseek(handle, 0, os.SEEK_END)
        written = os.write(handle, line)
        if written != len(line):
            raise OSError("the disk is full")
        os.fsync(handle)
    finally:
        os.close(handle)
    if fresh:
        sync_folder(path.parent)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time, for the moment that a step or a routing takes to write."""
    with wait_for_lock(folder / "cutover.lock"):
        yield


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
