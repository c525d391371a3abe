"""`processes/`: the status of each application process that uses the adapter, for gates and for `status`.

A process writes one small file, `<pid>.json`, in the background: the last step of the cutover it has seen, its calls
that Spectron cannot answer, where its reads came from, what its guard and its shadow reads found. While it lives it
holds a lock on `<pid>.lock` beside the file, with its token inside, so that a dead process is recognized even if the
system has given its number to another one. When it stops it writes `ended`. The counts of dead processes are added to
`past.json`, which also names those that died without writing `ended`.

An application in another language publishes the same facts as files in `applications/` (configs/heartbeat.schema.json).
They have no locks: such a process is live while its heartbeat is recent. Standard library alone, because applications
import this; the files contain no texts and no ids of memories or users.

    {"schema": 1, "host": "web-1", "pid": 41, "began": "…Z", "heartbeat": "…Z", "epoch": 7, "running_epoch": null,
     "routing_problem": null, "calls": {"get_all(user_id)": {"2026-11-22": 12}}, "reads": {"mem0": 90, "spectron": 10},
     "last_reads": {"web-1": "…Z"}, "ended": null, "lost": {},
     "guard": {"open": false, "since": null, "reason": "", "trips": 0}, "shadow": {"asked": 5, "overlap": 3.4}}
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from spectron_migrate.files.atomic import replace_file
from spectron_migrate.files.locks import FileLock, is_held, try_lock
from spectron_migrate.state.heartbeat_files import APPLICATIONS, read_heartbeats
from spectron_migrate.state.process_status import SILENT_S, ProcessStatus, age_s, stamp
from spectron_migrate.state.store import StateStore, store_at

FOLDER = "processes"
PAST = "past.json"
MOST_LOST = 1_000
MOST_NAMED = 100
GATE_DAYS = 7
"""How many days of calls that Spectron cannot answer count for the gate."""
_KEPT_DAYS = GATE_DAYS + 1
_MOST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class ProcessesStatus:
    """All processes of a state directory: the live ones, and the counts of live and past ones added up."""

    reports: tuple[ProcessStatus, ...] = ()
    """Of live processes."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """Calls that Spectron cannot answer, of the last days."""
    reads: Mapping[str, int] = field(default_factory=dict)
    shadow: Mapping[str, float] = field(default_factory=dict)
    last_reads: Mapping[str, str] = field(default_factory=dict)
    """Host -> when an application there last read through the adapter or the routing."""
    lost: Mapping[str, str] = field(default_factory=dict)
    """Processes that stopped reporting themselves without saying that they ended, and their last heartbeats."""
    measured: bool = False
    """Whether any process ever reported itself here: without one, nothing was measured."""
    calls_measured: bool = False
    """Whether any of them counts the calls that Spectron cannot answer."""
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
            "last_reads": dict(sorted(self.last_reads.items())[:MOST_NAMED]),
            "lost": dict(sorted(self.lost.items(), key=lambda pair: pair[1], reverse=True)[:MOST_NAMED]),
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
    """Read the statuses of all processes of a state directory; changes nothing."""
    now = now or datetime.now(UTC)
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
    published, unreadable = read_heartbeats(state / APPLICATIONS, now)
    all_of_them += published
    live += [report for report in published if report.alive]
    broken += unreadable
    since = _days_back(now, GATE_DAYS)
    return ProcessesStatus(
        reports=tuple(live),
        calls={name: sum(days.values()) for name, days in _calls(all_of_them, since).items()},
        reads=_add(report.reads for report in all_of_them),
        shadow=_add(report.shadow for report in all_of_them),
        last_reads=_newest(report.last_reads for report in all_of_them),
        lost=_lost(all_of_them, now),
        measured=bool(all_of_them or broken),
        calls_measured=any(report.counts_calls for report in all_of_them),
        broken=tuple(broken),
    )


def _lost(reports: Sequence[ProcessStatus], now: datetime) -> dict[str, str]:
    """The processes that stopped reporting themselves without saying that they ended, and their last heartbeats.

    One whose host and number belong to a later process is not among them: two never have the same number at once.
    """
    lost = _newest(report.lost for report in reports)
    for report in reports:
        name = f"{report.host}/{report.pid}"
        if report.ended is not None or (report.alive and age_s(report.heartbeat, now) < SILENT_S):
            if lost.get(name, report.heartbeat) <= report.heartbeat:
                lost.pop(name, None)
        elif report.host:
            lost[name] = max(report.heartbeat, lost.get(name, ""))
    return lost


def _newest(each: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Name -> its newest time, over all of these."""
    newest: dict[str, str] = {}
    for times in each:
        for name, at in times.items():
            newest[name] = max(at, newest.get(name, at))
    return newest


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
        """The name of this process in the log of calls; another process with the same pid has another name."""
        with suppress(OSError):  # a full disk: then only the lock shows that it lives
            self._path.with_suffix(".lock").write_text(f"{self.token}\n")
        if self._path.exists():  # of a dead process with our number, which another process is folding right now
            self._path.replace(folder / f"left-{self.pid}-{time.time_ns()}.json")

    def write(self, report: ProcessStatus) -> None:
        """Replace the file as a whole; raises OSError."""
        replace_file(self._path, json.dumps(report.to_json(), separators=(",", ":")).encode())

    def close(self) -> None:
        """The process no longer uses the adapter. Its counts stay."""
        self._lock.close()


def is_process_alive(state: Path | StateStore, token: str) -> bool:
    """Whether the process with this token lives, according to its lock.

    Where hosts share a state, the lock of a process that was cut off is free: it lives until it was silent for long.
    """
    store = store_at(state)
    if store.folder is None:
        return store.is_locked(f"{FOLDER}/{token}") or store.age_s(f"{FOLDER}/{token}.json") < SILENT_S
    state = store.folder
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


def _sum(reports: Iterable[ProcessStatus], moment: datetime) -> ProcessStatus:
    each = list(reports)
    newest_lost = sorted(_lost(each, moment).items(), key=lambda pair: pair[1])[-MOST_LOST:]
    return ProcessStatus(
        host="",
        pid=0,
        began=min(report.began for report in each) if each else stamp(moment),
        heartbeat=max(report.heartbeat for report in each) if each else stamp(moment),
        calls=_calls(each, _days_back(moment, _KEPT_DAYS)),
        reads=_add(report.reads for report in each),
        shadow=_add(report.shadow for report in each),
        last_reads=_newest(report.last_reads for report in each),
        lost=dict(newest_lost),
    )


def _add(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def _calls(reports: Iterable[ProcessStatus], since: str) -> dict[str, dict[str, int]]:
    """Call -> day -> how often, over all processes, since this day."""
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
