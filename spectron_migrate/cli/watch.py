"""`status --watch`: a screen that is redrawn every second, made of the same parts that commands show themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, TypeVar

from spectron_migrate.cli.log import read_tail
from spectron_migrate.cli.migration_state import STATES, State, counts_by_state, headline, phase_text, read_state
from spectron_migrate.cli.progress import Progress, span
from spectron_migrate.cli.runner import Invocation
from spectron_migrate.cli.tables import Wrapped, facts, number, plain
from spectron_migrate.errors import MigrateError
from spectron_migrate.records import Json, counted, parse_time
from spectron_migrate.state.store import StateStore

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from spectron_migrate.cutover.gate_result import GateResult
    from spectron_migrate.settings import Settings
    from spectron_migrate.state.running import RunningCommand

T = TypeVar("T")
EVERY_S = 1.0
SHARE = 0.05
"""Whatever takes longer in a larger state is read so rarely that it takes at most this share of the time."""
EVENTS = 12
EVENTS_NARROW = 6
LANES = 5
BAR = 40
WIDE = 130
"""A terminal with at least this many columns gets two columns."""


@dataclass(frozen=True)
class Snapshot:
    """The data of one screen."""

    now: datetime
    running: list[RunningCommand] = field(default_factory=list)
    state: State | None = None
    cutover: dict[str, Json] | None = None
    gates: list[GateResult] = field(default_factory=list)
    """The gates that the next step needs."""
    max_lag_s: float | None = None
    events: list[dict[str, Json]] = field(default_factory=list)


class Paced(Generic[T]):
    """Reads something again from time to time: the longer that takes, the less often."""

    def __init__(self, read: Callable[[], T], *, every_s: float, clock: Callable[[], float]) -> None:
        """`clock` in seconds, monotonic."""
        self._read = read
        self._every_s = every_s
        self._clock = clock
        self._due = float("-inf")
        self._value: T | None = None

    def get(self) -> T | None:
        """The newest value, or the one before if it cannot be read now."""
        began = self._clock()
        if began >= self._due:
            with suppress(MigrateError, OSError):
                self._value = self._read()
            took = self._clock() - began
            self._due = self._clock() + max(self._every_s, took / SHARE)
        return self._value


class Watcher:
    """Takes snapshots of one state."""

    def __init__(
        self,
        settings: Settings,
        store: StateStore,
        *,
        complete_hint: Callable[[str], str],
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        """`complete_hint`: completes the commands in a hint. `clock` in seconds, monotonic; `now` with its zone."""
        self._settings = settings
        self._store = store
        self._complete_hint = complete_hint
        self._now = now
        self._state = Paced(self._read_state, every_s=2.0, clock=clock)
        self._gates = Paced(self._read_gates, every_s=5.0, clock=clock)

    def snapshot(self) -> Snapshot:
        """Read what there is to see now. Writes nothing and asks no server."""
        from spectron_migrate.cutover.status import cutover_status
        from spectron_migrate.state.running import read_running

        now = self._now()
        cutover = cutover_status(self._store, now=now)
        return Snapshot(
            now,
            read_running(self._store, now=now),
            self._state.get(),
            cutover,
            (self._gates.get() or []) if cutover is not None and cutover["phase"] not in ("mem0", "complete") else [],
            self._settings.cutover.max_lag_s,
            list(read_tail(self._store.work_folder, EVENTS)),
        )

    def _read_state(self) -> State:
        return read_state(self._store, None, dump=self._settings.dump)

    def _read_gates(self) -> list[GateResult]:
        from spectron_migrate.cutover.evidence import gather
        from spectron_migrate.cutover.gates import evaluate_gates, gates_before
        from spectron_migrate.cutover.next_step import next_gated_step
        from spectron_migrate.mapping import load_mapping

        settings = self._settings
        evidence = asyncio.run(
            gather(
                self._store,
                settings.dump,
                api=None,
                mapping=load_mapping(settings.mapping).digest,
                max_lag_s=settings.cutover.max_lag_s,
                max_age_s=settings.cutover.max_age_s,
                soak_s=settings.cutover.soak_s,
                now=self._now(),
            )
        )
        gates = [gate for gate in evaluate_gates(evidence) if gate.name != "key"]  # this gate would ask Spectron
        needed = gates_before(gates, next_gated_step(evidence.state))
        return [replace(gate, hint=self._complete_hint(gate.hint)) for gate in needed]


def watch(
    invocation: Invocation,
    settings: Settings,
    *,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Draw until Ctrl-C. `clock` in seconds, monotonic; `now` with its zone."""
    from rich.live import Live

    watcher = Watcher(settings, invocation.state, complete_hint=invocation.complete_hint, clock=clock, now=now)
    console = invocation.console
    live = Live(console=console, screen=True, auto_refresh=False)
    try:
        live.start()  # no `with`, because Ctrl-C while it begins must restore the screen too
        while True:
            live.update(draw(watcher.snapshot(), console.width), refresh=True)
            sleep(EVERY_S)
    except KeyboardInterrupt:
        pass
    finally:
        live.stop()


# -- drawing ----------------------------------------------------------------------------------------------------


def draw(shown: Snapshot, width: int) -> RenderableType:
    """One screen for a terminal of this many columns."""
    from rich.console import Group
    from rich.table import Table

    left = [*_progress(shown, width // 2 - 2 if width >= WIDE else width), *_memories(shown), *_following(shown)]
    right = [*_gates(shown), *_lanes(shown), *_events(shown, EVENTS if width >= WIDE else EVENTS_NARROW)]
    if width < WIDE:
        return Group(_title(shown), *left, *right, *_help())
    columns = Table.grid(expand=True, padding=(0, 2))
    columns.add_column(ratio=1)
    columns.add_column(ratio=1)
    columns.add_row(Group(*left), Group(*right))
    return Group(_title(shown), columns, *_help())


def _title(shown: Snapshot) -> RenderableType:
    migration = shown.state.ledger.migration if shown.state is not None else None
    which = migration.id if migration is not None else "no migration yet"
    cutover = shown.cutover
    phase = "no cutover" if cutover is None or cutover["phase"] == "mem0" else f"phase {cutover['phase']}"
    return plain(f"spectron-migrate  {which}  {phase}  {shown.now:%H:%M:%S} UTC", style="bold reverse")


def _help() -> Iterator[RenderableType]:
    yield plain("")
    yield plain("Ctrl-C ends it; nothing is changed", style="dim")


def progress_line(command: str, progress: Progress, width: int) -> Table:
    """A command, its bar and its counts, as the command shows them itself."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    says_all = progress.stage.startswith((command, "following"))
    name = progress.stage if says_all else f"{command}: {progress.stage}"
    cells: list[RenderableType] = [plain(name, style="bold")]
    if progress.share is not None:
        room = max(10, min(BAR, width - len(progress.counts) - len(name) - 4))
        bar = ProgressBar(
            total=max(1, progress.total or 1),
            completed=progress.done,
            width=room,
            style="dim",
            complete_style="green",
            finished_style="green",
        )
        cells.append(bar)
    cells.append(plain(progress.counts))
    table.add_row(*cells)
    return table


def _progress(shown: Snapshot, width: int) -> Iterator[RenderableType]:
    yield plain("")
    if not shown.running:
        yield plain("no command is at work", style="dim")
    for each in shown.running:
        with suppress(KeyError, TypeError, ValueError):
            progress = Progress.from_json(each.progress)
            yield progress_line(each.command, progress, width)
            if progress.gauges is not None and progress.gauges.slowed:
                yield plain(f"  {progress.gauges.slowed}", style="italic")


def _memories(shown: Snapshot) -> Iterator[RenderableType]:
    if shown.state is None:
        return
    ledger = shown.state.ledger
    # An intent without an answer is in doubt only if no process is sending it any more.
    is_sending = any(each.progress.get("in_flight") is not None for each in shown.running)
    labels = {**STATES, "intended": "being sent"} if is_sending else STATES
    counts = [f"{label} {number(count)}" for label, count in counts_by_state(ledger, labels).items() if count]
    if ledger.states.get("stored_not_extracted"):
        counts[0] += f" ({number(ledger.states['stored_not_extracted'])} {STATES['stored_not_extracted']})"
    if ledger.skipped:
        counts.append(f"skipped {number(sum(ledger.skipped.values()))}")
    yield plain("")
    yield Wrapped(headline(shown.state), style="bold")
    yield Wrapped("; ".join(counts) or "none planned", "  ", style="")


def _following(shown: Snapshot) -> Iterator[RenderableType]:
    cutover = shown.cutover
    if cutover is None:
        return
    lag = "nothing caught up yet"
    if cutover["lag_s"] is not None:
        limit = f" of at most {span(shown.max_lag_s)}" if shown.max_lag_s is not None else ""
        lag = f"{span(cutover['lag_s'])}{limit}"
    behind = {None: "everybody", 0: "nobody"}.get(cutover["behind"], counted(cutover["behind"] or 0, "id"))
    rows = [
        ("following", "yes" if cutover["following"] else "no"),
        ("lag", lag),
        ("behind", behind),
        ("read from Spectron", f"{cutover['percent']:g} % of users"),
    ]
    if cutover["problem"]:
        rows.append(("problem", cutover["problem"]))
    yield plain("")
    yield facts(f"Cutover: {phase_text(cutover)}", rows)


def _gates(shown: Snapshot) -> Iterator[RenderableType]:
    is_over = shown.cutover is not None and shown.cutover["phase"] == "complete"
    if not shown.gates or is_over:
        return
    closed = [gate for gate in shown.gates if not gate.passed]
    yield plain("")
    passed = len(shown.gates) - len(closed)
    yield plain(
        f"Gates before the next step: {passed} of {len(shown.gates)} pass (the key is asked by cutover check)",
        style="bold" if closed else "bold green",
    )
    for gate in closed:
        yield Wrapped(gate.hint, f"  {gate.name}: ", lead_style="yellow", indent=4)


def _lanes(shown: Snapshot) -> Iterator[RenderableType]:
    if shown.state is None or not shown.state.ledger.lanes:
        return
    ledger = shown.state.ledger
    yield plain("")
    yield facts(
        f"{counted(ledger.lanes_left, 'unfinished lane', 'unfinished lanes')}, the largest first",
        [(lane.lane, number(lane.remaining)) for lane in ledger.lanes[:LANES]],
    )


def _events(shown: Snapshot, most: int) -> Iterator[RenderableType]:
    if not shown.events:
        return
    yield plain("")
    yield plain("Last events", style="bold")
    for event in shown.events[-most:]:
        line = plain(f"  {_event_line(event)}", style=_EVENT_STYLES.get(str(event.get("event")), ""))
        line.no_wrap, line.overflow = True, "ellipsis"
        yield line


_EVENT_STYLES = {"bug": "red", "refused": "red", "undecidable": "red", "doubt": "magenta"}


def _event_line(event: dict[str, Json]) -> str:
    """Such as `12:00:03 doubt m1, why 500` or `12:00:04 command replay ended, exit code 7`."""
    if event.get("event") == "progress":
        with suppress(KeyError, TypeError, ValueError):
            return f"{_time_of(event)} {Progress.from_json(event).line}"
    command, code, about = event.get("command"), event.get("exit_code"), f"{_time_of(event)} "
    if event.get("event") == "begin":
        return f"{about}command {command} began"
    if event.get("event") == "end":
        return f"{about}command {command} ended" + (f", exit code {code}" if code else "")
    hidden = ("at", "version", "pid", "event", "traceback")
    words = [f"{name} {value}" for name, value in event.items() if name not in hidden and value is not None]
    return f"{_time_of(event)} {event.get('event', '?')} {', '.join(words)}"


def _time_of(event: dict[str, Json]) -> str:
    try:
        return f"{parse_time(str(event['at'])):%H:%M:%S}"
    except (KeyError, ValueError):
        return "        "
