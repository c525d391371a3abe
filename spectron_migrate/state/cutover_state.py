"""The steps of a cutover, and the state that they add up to (pure). Standard library only: applications import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from spectron_migrate.records import Json, digest
from spectron_migrate.state.routing import CatchUp, Phase

StepName = Literal["start", "shift", "pin", "accept", "revert", "closing", "complete", "sealed", "abort"]


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the journal. Fields that a kind of step does not use keep their defaults."""

    step: StepName
    at: str
    """When the step was taken, RFC 3339."""
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
    """`start`: the migration's id. Also in a `complete` that the state learned of from Spectron."""
    catch_up: CatchUp = "follow"
    """`start`: how Spectron catches up with writes to Mem0."""
    gates: tuple[Mapping[str, Json], ...] = ()
    """`shift`, `complete`: the results of all gates at this step."""
    mapping_digest: str = ""
    """`complete`: the digest of the mapping, with its lookup tables."""
    rules_digest: str = ""
    """`complete`: the digest of the mapping without the rows of its lookup tables."""
    epoch: int | None = None
    """If lines of the journal are missing: the epoch of this step, above that of `routing.json`."""

    def to_json(self) -> dict[str, Json]:
        """The form in a line of the journal, without empty fields."""
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
    """Rises with every step, also across several cutovers with the same state."""
    migration: str = ""
    catch_up: CatchUp = "follow"
    fence: str | None = None
    """When the cutover began. Only a scan that began after it counts as the base dump."""
    changed_at: str | None = None
    """When the last step was recorded."""
    sealed: bool = False
    """After `complete`: whether what was written to Mem0 while applications switched was carried over too."""
    mapping_digest: str = ""
    """After `complete`: digest of the mapping that the memories were written with; see `Step`."""
    rules_digest: str = ""
    all_read_since: str | None = None
    """Since when all users are read from Spectron; None while some are not."""
    accepted: tuple[Step, ...] = ()
    """All `accept` steps of this cutover."""
    ever_began: bool = False
    """True if any cutover ever began here. Since then an application may have written to the migration's scopes."""
    ever_shifted: str | None = None
    """When a read was first shifted to Spectron, in this or an earlier cutover; None if none ever was."""
    altered: int | None = None
    """Number of the first line whose `prev` does not match: the journal was edited by hand."""

    def not_accepted(self, gate: str, shown: Mapping[str, str]) -> list[str]:
        """The memories that a gate shows (id -> what it says of it) and that were not accepted for exactly that."""
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
                    migration=step.migration or self.migration,
                    ever_began=True,
                    # Learned from Spectron: memories may have been deleted in Mem0 since the completion, so nothing is
                    # hidden because of them. `cutover check` finds what is newer there.
                    sealed=bool(step.migration),
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
