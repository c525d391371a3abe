"""What one process of the application reports about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

SCHEMA = 1
SILENT_S = 60.0
"""A process that has not reported for this long is lost, unless it wrote that it ended."""
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """The guard of a process: whether it has sent its reads back to Mem0 by itself."""

    open: bool = False
    """True: its reads come from Mem0 until probes of Spectron succeed."""
    since: str | None = None
    reason: str = ""
    trips: int = 0
    """How often the guard did this since the process began."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """The status of one process."""

    host: str
    pid: int
    began: str
    heartbeat: str
    epoch: int = 0
    """The last step of the cutover that it has seen."""
    running_epoch: int | None = None
    """The step in which its oldest running write began; None if no write runs."""
    routing_problem: str | None = None
    calls: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Call that Spectron cannot answer -> day -> how often."""
    reads: Mapping[str, int] = field(default_factory=dict)
    """Which system answered searches, or why Spectron did not -> how often."""
    last_reads: Mapping[str, str] = field(default_factory=dict)
    """Host -> when it last read through the adapter or the routing. A process names only its own host."""
    ended: str | None = None
    """When the process reported that it no longer uses Mem0."""
    lost: Mapping[str, str] = field(default_factory=dict)
    """In `past.json`: processes that died without writing `ended`, as `host/pid`, and their last heartbeats."""
    counts_calls: bool = True
    """False for an application whose heartbeat files carry no `calls`."""
    guard: GuardStatus = field(default_factory=GuardStatus)
    shadow: Mapping[str, float] = field(default_factory=dict)
    unnoted: int = 0
    """Calls that changed Mem0 and could not be noted in the log of calls. A reading of Mem0 finds their results."""
    alive: bool = False

    def since(self, before: ProcessStatus) -> ProcessStatus:
        """The same status, counting only from an earlier report of this process."""
        calls = {
            name: {day: count - before.calls.get(name, {}).get(day, 0) for day, count in days.items()}
            for name, days in self.calls.items()
        }
        reads = {name: count - before.reads.get(name, 0) for name, count in self.reads.items()}
        shadow = {name: count - before.shadow.get(name, 0) for name, count in self.shadow.items()}
        unnoted = self.unnoted - before.unnoted
        return replace(self, calls=calls, reads=reads, shadow=shadow, unnoted=unnoted)

    @property
    def settled_epoch(self) -> int:
        """The step that every running and later write of this process has seen."""
        return self.epoch if self.running_epoch is None else min(self.epoch, self.running_epoch)

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in ("alive", "counts_calls")}
        guard = {name: getattr(self.guard, name) for name in GuardStatus.__slots__}
        return {
            "schema": SCHEMA,
            **fields,
            "calls": {name: dict(days) for name, days in self.calls.items()},
            "last_reads": dict(self.last_reads),
            "lost": dict(self.lost),
            "guard": guard,
        }

    @classmethod
    def from_json(cls, value: Any, *, alive: bool) -> ProcessStatus:
        """The inverse of `to_json`; raises ValueError for anything else."""
        try:
            if value["schema"] != SCHEMA:
                raise ValueError(f"schema {value['schema']}")
            return cls(
                host=str(value["host"]),
                pid=int(value["pid"]),
                began=str(value["began"]),
                heartbeat=str(value["heartbeat"]),
                epoch=int(value["epoch"]),
                running_epoch=None if value["running_epoch"] is None else int(value["running_epoch"]),
                routing_problem=value["routing_problem"],
                calls={str(name): read_counts(days) for name, days in value["calls"].items()},
                reads=read_counts(value["reads"]),
                last_reads=_times(value.get("last_reads", {})),
                ended=None if value.get("ended") is None else str(value["ended"]),
                lost=_times(value.get("lost", {})),
                guard=GuardStatus(**value["guard"]),
                shadow={str(name): float(number) for name, number in value["shadow"].items()},
                unnoted=int(value.get("unnoted", 0)),
                alive=alive,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no report of a process: {error}") from None


def stamp(moment: datetime) -> str:
    """A time as the files have it."""
    return moment.astimezone(UTC).strftime(_TIME)


def age_s(at: str, now: datetime) -> float:
    """Seconds since a time; infinity if the time cannot be read."""
    try:
        return (now - datetime.fromisoformat(at)).total_seconds()
    except (ValueError, TypeError):
        return float("inf")


def read_counts(value: Any) -> dict[str, int]:
    return {str(name): int(number) for name, number in value.items()}


def _times(value: Any) -> dict[str, str]:
    return {str(name): str(at) for name, at in value.items()}
