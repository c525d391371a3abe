"""`processes/`: the status of every application process that uses the adapter, for gates and for `status`.

A process writes one small file, `<pid>.json`, in the background: the last step of the cutover it has seen, its calls
that Spectron cannot answer, where its reads came from, what its guard and its shadow reads found. While it lives, it
holds a lock on `<pid>.lock` beside the file, which contains its token. So a dead process is recognized even if the
system has given its number to another process. When it stops it writes `ended`. The counts of dead processes are added
to `past.json`, which also names those that died without writing `ended`.

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
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from spectron_migrate.errors import MigrateError
from spectron_migrate.state.heartbeat_files import read_heartbeats
from spectron_migrate.state.process_status import SILENT_S, ProcessStatus, age_s, stamp
from spectron_migrate.state.store import Lock, StateStore, store_at

FOLDER = "processes"
PAST = f"{FOLDER}/past.json"
MOST_LOST = 1_000
MOST_NAMED = 100
GATE_DAYS = 7
"""For how many days calls that Spectron cannot answer count for the gate."""
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
    """Processes that stopped reporting without writing that they ended, and their last heartbeats."""
    unnoted: int = 0
    """Calls that changed Mem0 and could not be noted in the log of calls."""
    measured: bool = False
    """Whether any process ever reported here. If none did, nothing was measured."""
    calls_measured: bool = False
    """Whether any of them counts the calls that Spectron cannot answer."""
    broken: tuple[str, ...] = ()
    """Names of unreadable files of live processes."""

    def not_on(self, epoch: int) -> tuple[ProcessStatus, ...]:
        """Live processes that have not seen this step, or still run a write begun before it."""
        return tuple(report for report in self.reports if report.settled_epoch < epoch)

    def to_json(self) -> dict[str, Any] | None:
        """The form in the JSON of `status`; None if no process ever used the adapter."""
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
            "unnoted": self.unnoted,
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


def read_processes(state: Path | StateStore, *, now: datetime | None = None) -> ProcessesStatus:
    """Read the statuses of all processes of a state; changes nothing."""
    now = now or datetime.now(UTC)
    store = store_at(state)
    live: list[ProcessStatus] = []
    all_of_them: list[ProcessStatus] = []
    broken: list[str] = []
    for name in store.names(FOLDER):
        alive = name != PAST and _is_alive(store, name)
        report = _read(store, name, alive=alive)
        if report is None:
            broken += [name.removeprefix(f"{FOLDER}/")] if alive else []
            continue
        all_of_them.append(report)
        live += [report] if alive else []
    published, unreadable = read_heartbeats(store, now)
    all_of_them += published
    live += [report for report in published if report.alive]
    broken += unreadable
    since = _days_back(now, GATE_DAYS)
    return ProcessesStatus(
        reports=tuple(live),
        calls={name: sum(days.values()) for name, days in _calls(all_of_them, since).items()},
        reads=_add(report.reads for report in all_of_them),
        shadow=_add(report.shadow for report in all_of_them),
        unnoted=sum(report.unnoted for report in all_of_them),
        last_reads=_newest(report.last_reads for report in all_of_them),
        lost=_lost(all_of_them, now),
        measured=bool(all_of_them or broken),
        calls_measured=any(report.counts_calls for report in all_of_them),
        broken=tuple(broken),
    )


def _lost(reports: Sequence[ProcessStatus], now: datetime) -> dict[str, str]:
    """The processes that stopped reporting themselves without saying that they ended, and their last heartbeats.

    A process is left out if a later one has the same host and number, because two never have the same number at once.
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
    """Name -> its newest time in any of these."""
    newest: dict[str, str] = {}
    for times in each:
        for name, at in times.items():
            newest[name] = max(at, newest.get(name, at))
    return newest


class OwnFile:
    """The status file of this process, and its lock; `close` at the end."""

    def __init__(self, state: Path | StateStore) -> None:
        """Take a name in `processes` of a state until `close`; raises OSError if the state cannot be written."""
        self._store = store_at(state)
        self.host, self.pid = socket.gethostname(), os.getpid()
        folder = self._store.folder
        if folder is not None:
            (folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
        fold(state)
        self._written: ProcessStatus | None = None
        self._folded: ProcessStatus | None = None
        """The report whose counts are in `past.json`."""
        stem = f"{self.pid}" if folder is not None else f"{self.host}-{self.pid}-{time.time_ns():x}"
        self._stem, self._lock = _take_name(self._store, stem)
        self.token = f"{self._stem}:{time.time_ns():x}"
        """The name of this process in the log of calls. Another process with the same pid gets another name."""
        if folder is not None:
            self._name_in(folder / FOLDER)

    def _name_in(self, folder: Path) -> None:
        path = folder / f"{self._stem}.json"
        with suppress(OSError):  # the disk is full; then only the lock shows that the process lives
            path.with_suffix(".lock").write_text(f"{self.token}\n")
        if path.exists():  # a file of a dead process with our number, which another process is folding right now
            path.replace(folder / f"left-{self.pid}-{time.time_ns()}.json")

    def write(self, report: ProcessStatus) -> None:
        """Replace the file as a whole; raises OSError."""
        name = f"{FOLDER}/{self._stem}.json"
        if self._lock.is_lost:
            self._take_lock_again(name)
        counted = report if self._folded is None else report.since(self._folded)
        self._store.write(name, json.dumps(counted.to_json(), separators=(",", ":")).encode())
        self._written = report

    def _take_lock_again(self, name: str) -> None:
        """Take the lock again after the connection was lost.

        If another process took this one for dead, it has added its counts to the past.
        """
        lock = self._store.try_lock(_lock_of(name))
        if lock is None:
            raise OSError(f"another process believes that {self.host}/{self.pid} is dead")
        self._lock.close()
        self._lock = lock
        if self._written is not None and self._store.version(name) is None:
            self._folded = self._written

    def close(self) -> None:
        """Release the lock, because the process no longer uses the adapter. Its counts stay."""
        self._lock.close()


def is_process_alive(state: Path | StateStore, token: str) -> bool:
    """Whether the process with this token is alive, according to its lock."""
    store, stem = store_at(state), token.partition(":")[0]
    if not _is_alive(store, f"{FOLDER}/{stem}.json"):
        return False
    if store.folder is None:  # only one process has a name
        return True
    try:
        held_by = (store.folder / FOLDER / f"{stem}.lock").read_text().strip()
    except OSError:
        return True
    return held_by == token or ":" not in held_by  # a process writes its token right after it has taken the lock


def _is_alive(store: StateStore, name: str) -> bool:
    """Whether the process of a status file is alive.

    If hosts share a state, a process that was cut off from it has lost its lock. It counts as alive until it has been
    silent for long enough.
    """
    if store.is_locked(_lock_of(name)):
        return True
    if store.folder is not None or store.age_s(name) >= SILENT_S:
        return False
    report = _read(store, name, alive=True)
    return report is None or report.ended is None


def _lock_of(name: str) -> str:
    return f"{name.removesuffix('.json')}.lock"


def fold(state: Path | StateStore, *, now: datetime | None = None) -> None:
    """Add the counts of dead processes to `past.json` and remove their files."""
    store = store_at(state)
    if store.folder is not None and not (store.folder / FOLDER).is_dir():
        return
    alone = store.try_lock(f"{FOLDER}/fold.lock")
    if alone is None:  # another process is doing this
        return
    with alone, ExitStack() as held:
        dead = list(_dead(store, held))
        if not dead:
            return
        counted = [_read(store, name, alive=False) for name in (PAST, *dead)]
        total = _sum([report for report in counted if report is not None], now or datetime.now(UTC))
        store.write(PAST, json.dumps(total.to_json()).encode())
        for name in dead:
            store.remove(name)
            store.remove(_lock_of(name))


def _dead(store: StateStore, held: ExitStack) -> Iterator[str]:
    """Status files of dead processes; `held` keeps their locks, so that no new process takes such a name meanwhile."""
    for name in store.names(FOLDER):
        if name == PAST or (store.folder is None and _is_alive(store, name)):
            continue
        lock = store.try_lock(_lock_of(name))
        if lock is not None:
            held.callback(lock.close)
            yield name


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
        unnoted=sum(report.unnoted for report in each),
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


def _read(store: StateStore, name: str, *, alive: bool) -> ProcessStatus | None:
    try:
        data = store.read(name)
        return None if data is None else ProcessStatus.from_json(json.loads(data[:_MOST_BYTES]), alive=alive)
    except MigrateError:
        raise
    except (OSError, ValueError, RecursionError):
        return None


def _take_name(store: StateStore, stem: str) -> tuple[str, Lock]:
    """`<stem>`, or the next free name: containers that share a directory may have the same process number."""
    for suffix in ["", *(f"-{number}" for number in range(1, 1000))]:
        lock = store.try_lock(f"{FOLDER}/{stem}{suffix}.lock")
        if lock is not None:
            return f"{stem}{suffix}", lock
    raise OSError("no free name")
