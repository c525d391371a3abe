"""What one round of catching up found and did."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from spectron_migrate.ledger.read.cutover import Undecided
from spectron_migrate.migration.differences import Differences
from spectron_migrate.records import Json, counted, format_time
from spectron_migrate.state.journal import CaughtUp


@dataclass(frozen=True, slots=True)
class Round:
    """What one round found and did."""

    migration: str
    began_at: datetime
    memories: int
    new: int
    changed: int
    """Memories with another text than before."""
    touched: int
    """Changed otherwise: metadata, state, times."""
    deleted: int
    returned: int
    written: int
    late: int
    refused: int
    waiting: int
    left: Undecided
    behind: frozenset[str] | None
    """Ids whose changes are not all in Spectron; None if there are too many to list."""
    problem: str | None = None
    """Why it did not deliver everything."""
    held: int = 0
    """Lanes that wait for the server, or until time decides; counted only if nothing else was left undelivered."""
    compared: Differences | None = None
    read_s: float = 0.0
    """How many seconds the reading of Mem0 took."""
    was_read: bool = True
    """False: Mem0 had not changed since the last reading, so it was not read."""
    missed: int = 0
    """Changes that this whole reading found and that earlier rounds should have found."""

    @property
    def as_of(self) -> str:
        """Everything that Mem0 held at this time is in Spectron, except for users in `behind`."""
        return format_time(self.began_at)

    def caught_up(self, max_lag_s: float) -> CaughtUp:
        """What `routing.json` publishes, valid for `max_lag_s` seconds from the beginning of the round."""
        return CaughtUp(self.as_of, self.began_at.timestamp() + max_lag_s, self.behind)

    @property
    def quiet(self) -> bool:
        """Whether Mem0 had not changed since the round before, and nothing is left to deliver."""
        changes = self.new + self.changed + self.touched + self.deleted + self.returned + self.waiting
        return not changes and not self.left.total

    def shows_same(self, other: Round) -> bool:
        """Whether a line about this round would report the same numbers as one about the other round."""
        return (self.memories, self.refused, self.behind, self.problem) == (
            other.memories,
            other.refused,
            other.behind,
            other.problem,
        )

    def describe(self, number: int) -> str:
        """The round in one line, for people and log files."""
        found = f"{self.new:,} new, {self.changed:,} changed, {self.deleted:,} deleted"
        parts = [f"{counted(self.memories, 'memory')} in Mem0", found if self.was_read else "unchanged"]
        parts += [f"{self.written:,} written"] if self.was_read or self.written else []
        parts += [f"{self.missed:,} of them missed before"] if self.missed else []
        parts += [f"{self.late:,} of them late"] if self.late else []
        parts += [f"{self.waiting:,} wait to settle"] if self.waiting else []
        parts += [f"{self.left.total:,} left"] if self.left.total else []
        parts += [f"{self.refused:,} refused"] if self.refused else []
        parts += [self.problem] if self.held and self.problem else []
        return f"{self.as_of[11:19]} round {number}: {'; '.join(parts)}; behind: {count_behind(self.behind)}"

    def to_json(self) -> dict[str, Json]:
        """For `follow.json` and summaries."""
        kept = ("memories", "new", "changed", "touched", "deleted", "written", "late", "refused", "waiting", "problem")
        behind = None if self.behind is None else len(self.behind)
        counts = {"remaining": self.left.remaining, "in_doubt": self.left.in_doubt}
        more = {"undecidable": self.left.undecidable, "behind": behind, "as_of": self.as_of}
        more |= {"read": self.was_read, "missed": self.missed}
        return {name: getattr(self, name) for name in kept} | counts | more


def count_behind(behind: frozenset[str] | None) -> str:
    """Such as `3 ids`."""
    if behind is None:
        return "everybody"
    return counted(len(behind), "id") if behind else "nobody"
