"""`processes/`: the status of each application process that uses the adapter, for gates and for `status`.

A process writes one small file, `<pid>.json`, in the background: the last step of the cutover it has seen, its calls
that Spectron cannot answer, where its reads came from, what its guard and its shadow reads found. While it lives it
holds a lock on `<pid>.lock` beside the file, with its token inside, so that a dead process is recognized even if the
system has given its number to another one. The counts of dead processes are added to `past.json`. Standard library
alone, because applications import this. No text and no id of a memory or a user is ever in these files.

    {"schema": 1, "host": "web-1", "pid": 41, "began": "…Z", "heartbeat": "…Z", "epoch": 7, "running_epoch": null,
     "routing_problem": null, "calls": {"get_all(user_id)": {"2026-11-22": 12}}, "reads": {"mem0": 90, "spectron": 10},
     "guard": {"open": false, "since": null, "reason": "", "trips": 0}, "shadow": {"asked": 5, "overlap": 3.4}}
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from spectron_migrate.files.atomic import replace_file
from spectron_migrate.files.locks import FileLock, is_held, try_lock

FOLDER = "processes"
PAST = "past.json"
SCHEMA = 1
GATE_DAYS = 7
"""How many days of calls that Spectron cannot answer count for the gate."""
_KEPT_DAYS = GATE_DAYS + 1
_MOST_BYTES = 1_000_000
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """The guard of a process: whether it has sent its reads back to Mem0 by itself."""

    open: bool = False
    """True: its reads come from Mem0 until probes of Spectron succeed."""
    since: str | None = None
    reason: str = ""
    trips: int = 0
    """How often that happened since the process began."""


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
    """Where searches were answered, or why not by Spectron -> how often."""
    guard: GuardStatus = field(default_factory=GuardStatus)
    shadow: Mapping[str, float] = field(default_factory=dict)
    alive: bool = False

    @property
    def settled_epoch(self) -> int:
        """The step that every running and later write of this process has seen."""
        return self.epoch if self.running_epoch is None else min(self.epoch, self.running_epoch)

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "alive"}
        guard = {name: getattr(self.guard, name) for name in GuardStatus.__slots__}
        return {
            "schema": SCHEMA,
            **fields,
            "calls": {name: dict(days) for name, days in self.calls.items()},
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
                calls={str(name): _counts(days) for name, days in value["calls"].items()},
                reads=_counts(value["reads"]),
                guard=GuardStatus(**value["guard"]),
                shadow={str(name): float(number) for name, number in value["shadow"].items()},
                alive=alive,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no report of a process: {error}") from None


@dataclass(frozen=True, slots=True)
class ProcessesStatus:
    """All processes of a state directory: the live ones, and the counts of live and past ones added up."""

    reports: tuple[ProcessStatus, ...] = ()
    """Of live processes."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """Calls that Spectron cannot answer, of the last days."""
    reads: Mapping[str, int] = field(default_factory=dict)
    shadow: Mapping[str, float] = field(default_factory=dict)
    measured: bool = False
    """Whether any process ever used the adapter here."""
    broken: tuple[str, ...] = ()
    """Names of unreadable files of live processes."""

    def not_on(self, epoch: int) -> tuple[ProcessStatus, ...]:
        """Live processes that have not seen this step, or still run a write begun before it."""
        return tuple(report for report in self.reports if report.settled_epoch < epoch)

    def to_json(self) -> dict[str, Any] | None:
        """As `status` shows it; None if no process ever used the adapter."""
        if not self.measured:
            return None
        guarded = [report for report in self.reports if report.guard.open]
        problems = sorted({report.routing_problem for report in self.reports if report.routing_problem})
        return {
            "processes": len(self.reports),
            "guarded": [
                {"host": each.host, "pid": each.pid, "since": each.guard.since, "reason": each.guard.reason}
                for each in guarded
            ],
            "reads": dict(self.reads),
            "calls": dict(self.calls),
            "shadow": self._shadow(),
            "problems": [*problems, *(f"{name} cannot be read" for name in self.broken)],
        }

    def _shadow(self) -> dict[str, Any] | None:
        asked, answered, compared = (self.shadow.get(name, 0) for name in ("asked", "answered", "compared"))
        if not asked:
            return None
        return {
            "asked": int(asked),
            "failed": int(self.shadow.get("failed", 0)),
            "mean_ms": round(self.shadow.get("ms", 0) / answered, 1) if answered else None,
            "mean_overlap": round(self.shadow.get("overlap", 0) / compared, 3) if compared else None,
        }

    def other_hosts(self, host: str) -> tuple[str, ...]:
        """Hosts other than this one on which live processes use this state directory."""
        return tuple(sorted({report.host for report in self.reports} - {host}))


def read_processes(state: Path, *, now: datetime | None = None) -> ProcessesStatus:
    """Read the status of all processes of a state directory; changes nothing."""
    folder = state / FOLDER
    live: list[ProcessStatus] = []
    all_of_them: list[ProcessStatus] = []
    broken: list[str] = []
    for path in sorted(folder.glob("*.json")):
        alive = path.name != PAST and is_held(path.with_suffix(".lock"))
        report = _read(path, alive=alive)
        if report is None:
            broken += [path.name] if alive else []
            continue
        all_of_them.append(report)
        live += [report] if alive else []
    since = _days_back(now or datetime.now(UTC), GATE_DAYS)
    return ProcessesStatus(
        reports=tuple(live),
        calls={name: sum(days.values()) for name, days in _calls(all_of_them, since).items()},
        reads=_add(report.reads for report in all_of_them),
        shadow=_add(report.shadow for report in all_of_them),
        measured=bool(all_of_them or broken),
        broken=tuple(broken),
    )


class OwnFile:
    """The status file of this process, and its lock; `close` at the end."""

    def __init__(self, state: Path) -> None:
        """Take a name in `state/processes` until `close`; raises OSError if the directory cannot be written."""
        folder = state / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        self.host, self.pid = socket.gethostname(), os.getpid()
        fold(state)
        self._path, self._lock = _take_name(folder, self.pid)
        self.token = f"{self._path.stem}:{time.time_ns():x}"
        """Names this process in the log of calls, and no other one that ever had its number."""
        with suppress(OSError):  # a full disk: then the lock is all that is known of it
            self._path.with_suffix(".lock").write_text(f"{self.token}\n")
        if self._path.exists():  # of a dead process with our number, which another process is folding right now
            self._path.replace(folder / f"left-{self.pid}-{time.time_ns()}.json")

    def write(self, report: ProcessStatus) -> None:
        """Replace the file as a whole; raises OSError."""
        replace_file(self._path, json.dumps(report.to_json(), separators=(",", ":")).encode())

    def close(self) -> None:
        """The process no longer uses the adapter. Its counts stay."""
        self._lock.close()


def is_process_alive(state: Path, token: str) -> bool:
    """Whether the process with this token lives, as far as its lock tells."""
    lock = state / FOLDER / f"{token.partition(':')[0]}.lock"
    if not is_held(lock):
        return False
    try:
        held_by = lock.read_text().strip()
    except OSError:
        return True
    return held_by == token or ":" not in held_by  # a process that has just taken the lock writes its token next


def fold(state: Path, *, now: datetime | None = None) -> None:
    """Add the counts of dead processes to `past.json` and remove their files."""
    folder = state / FOLDER
    with _alone(folder) as mine:
        if not mine:
            return
        with ExitStack() as held:
            dead = list(_dead(folder, held))
            if not dead:
                return
            counted = [_read(path, alive=False) for path in (folder / PAST, *dead)]
            total = _sum([report for report in counted if report is not None], now or datetime.now(UTC))
            replace_file(folder / PAST, json.dumps(total.to_json()).encode())
            for path in dead:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)


def _dead(folder: Path, held: ExitStack) -> Iterator[Path]:
    """Status files of dead processes; `held` keeps their locks, so that no new process takes such a name meanwhile."""
    for path in sorted(folder.glob("*.json")):
        if path.name == PAST:
            continue
        lock = try_lock(path.with_suffix(".lock"))
        if lock is not None:
            held.callback(lock.close)
            yield path


def stamp(moment: datetime) -> str:
    """A time as the files have it."""
    return moment.astimezone(UTC).strftime(_TIME)


def _sum(reports: Iterable[ProcessStatus], moment: datetime) -> ProcessStatus:
    each = list(reports)
    return ProcessStatus(
        host="",
        pid=0,
        began=min(report.began for report in each) if each else stamp(moment),
        heartbeat=max(report.heartbeat for report in each) if each else stamp(moment),
        calls=_calls(each, _days_back(moment, _KEPT_DAYS)),
        reads=_add(report.reads for report in each),
        shadow=_add(report.shadow for report in each),
    )


def _add(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def _calls(reports: Iterable[ProcessStatus], since: str) -> dict[str, dict[str, int]]:
    """Call -> day -> how often, of all processes together, from this day on."""
    total: dict[str, Counter[str]] = {}
    for report in reports:
        for name, days in report.calls.items():
            recent = {day: count for day, count in days.items() if day >= since}
            if recent:
                total.setdefault(name, Counter()).update(recent)
    return {name: dict(days) for name, days in sorted(total.items())}


def _days_back(now: datetime, days: int) -> str:
    return (now.astimezone(UTC) - timedelta(days=days)).date().isoformat()


def _read(path: Path, *, alive: bool) -> ProcessStatus | None:
    try:
        with path.open("rb") as file:
            return ProcessStatus.from_json(json.loads(file.read(_MOST_BYTES)), alive=alive)
    except (OSError, ValueError, RecursionError):
        return None


def _counts(value: Any) -> dict[str, int]:
    return {str(name): int(number) for name, number in value.items()}


def _take_name(folder: Path, pid: int) -> tuple[Path, FileLock]:
    """`<pid>.json`, or the next free name: containers that share a directory may have the same process number."""
    for suffix in ["", *(f"-{number}" for number in range(1, 1000))]:
        path = folder / f"{pid}{suffix}.json"
        lock = try_lock(path.with_suffix(".lock"))
        if lock is not None:
            return path, lock
    raise OSError("no free name")


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether this process alone folds now; if another one does, it is left to that one."""
    lock = try_lock(folder / "fold.lock") if folder.is_dir() else None
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.close()
