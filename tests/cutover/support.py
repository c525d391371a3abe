"""Evidence that passes every gate, and an operator who takes the steps of a cutover on a scene."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from spectron_migrate.cutover import ungated_steps
from spectron_migrate.cutover.evidence import Evidence, KeyGrants, LedgerEvidence, VerificationReport
from spectron_migrate.cutover.gate_result import GateResult
from spectron_migrate.cutover.gated_steps import Cutover
from spectron_migrate.cutover.gates import gates_before
from spectron_migrate.cutover.next_step import next_gated_step
from spectron_migrate.cutover.phases import StepResult
from spectron_migrate.dump import Manifest
from spectron_migrate.ledger import migration_id
from spectron_migrate.ledger.read.cutover import Undecided
from spectron_migrate.mem0.open import mem0_source_info
from spectron_migrate.migration.late_writers import bring_late_writes
from spectron_migrate.migration.reconcile import Reconciled
from spectron_migrate.migration.round_result import Round
from spectron_migrate.records import SourceInfo, format_time
from spectron_migrate.state.cutover_state import CutoverState, Step, StepName
from spectron_migrate.state.heartbeat_files import APPLICATIONS
from spectron_migrate.state.journal import read_journal, record_step
from spectron_migrate.state.late_writes import LateWrites
from spectron_migrate.state.routing import Phase, Routing, read_routing
from spectron_migrate.state.store import store_at, write_object
from tests.support.scene import Scene
from tests.verify.support import verify


def at(minute: int) -> str:
    return f"2026-11-22T10:{minute:02d}:00.000000Z"


FENCE, SCANNED, VERIFIED = at(1), at(5), at(20)
NOW = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)

DUMP = Manifest(
    tool="",
    source=SourceInfo("oss", "here"),
    native_count=3,
    began=SCANNED,
    ended=SCANNED,
    scan_id="",
    scan_began=SCANNED,
    complete=True,
    whole=True,
    memories=3,
    users={},
    agents=0,
    runs=0,
    skipped={},
)
LEDGER = LedgerEvidence("m", "mapping", Undecided(0, 0, 0), {}, {})
REPORT = VerificationReport("GO", "m", "mapping", at(19), VERIFIED, leaks=0, scan_began=SCANNED)
AGREED = Reconciled(True, True, at(26), at(27), rounds=2, memories=3, waiting=0, differences=0)
GOOD = Evidence(
    state=CutoverState(phase="shift", percent=100, migration="m", fence=FENCE, all_read_since=at(10)),
    now=NOW,
    max_lag_s=60,
    max_age_s=86400,
    mapping="mapping",
    dump=DUMP,
    ledger=LEDGER,
    as_of="2026-11-22T10:29:30.000000Z",
    reconciled=AGREED,
    report=REPORT,
    key=KeyGrants("me"),
    calls={},
    last_reads={"web-1": at(29)},
    soak_s=1200,
)

STEPS_TO: dict[Phase, tuple[StepName, ...]] = {
    "mem0": (),
    "started": ("start",),
    "shift": ("start", "shift"),
    "closing": ("start", "shift", "closing"),
    "complete": ("start", "shift", "closing", "complete"),
}
"""The steps that lead to each phase."""


def gate(result: StepResult, name: str) -> GateResult:
    return next(each for each in result.gates if each.name == name)


def failing(result: StepResult) -> set[str]:
    """The names of the gates that do not pass and that the next step needs."""
    return {each.name for each in gates_before(result.gates, next_gated_step(result.state)) if not each.passed}


@dataclass
class Operator:
    """Somebody who takes the steps of a cutover on a scene."""

    scene: Scene

    @property
    def signature(self) -> dict[str, Any]:
        return {"now": format_time(self.scene.time.now()), "who": "anna@host (1)", "reporter": self.scene.reporter}

    @property
    def migration(self) -> str:
        return migration_id(self.scene.server.context, mem0_source_info(self.scene.store.config).identity)

    @property
    def state(self) -> CutoverState:
        """What the journal says now."""
        return read_journal(self.scene.state).state

    @property
    def routing(self) -> Routing:
        """What applications read now."""
        routing = read_routing(self.scene.state)
        assert routing is not None
        return routing

    def cutover(self, **named: Any) -> Cutover:
        scene = self.scene
        given: dict[str, Any] = {"now": scene.time.now, "sleep": scene.time.sleep, "soak_s": 0, **named}
        return Cutover(
            scene.state, lambda: scene.settings, max_age_s=86400, reporter=scene.reporter, who="anna@host (1)", **given
        )

    def start(self) -> StepResult:
        return ungated_steps.start(self.scene.state, self.migration, "follow", **self.signature)

    def revert(self) -> StepResult:
        return ungated_steps.revert(self.scene.state, **self.signature)

    def abort(self, *, yes: bool = True) -> StepResult:
        return ungated_steps.abort(self.scene.state, yes=yes, **self.signature)

    def shift(self, percent: float, *users: str, **named: Any) -> StepResult:
        return asyncio.run(self.cutover(**named).shift(self.scene.api, percent, users))

    def complete(self, migration: str | None = None, *, yes: bool = True, **named: Any) -> StepResult:
        return asyncio.run(self.cutover(**named).complete(self.scene.api, migration or self.migration, yes=yes))

    def check(self, **named: Any) -> StepResult:
        return self._with_api(self.cutover(**named).check)

    def bring_late_writes(self) -> tuple[Round, LateWrites]:
        """What `replay --late-writers` does."""
        scene = self.scene

        async def run() -> tuple[Round, LateWrites]:
            async with scene.api() as api:
                return await bring_late_writes(
                    scene.rounds(), api, reporter=scene.reporter, now=scene.time.now, sleep=scene.time.sleep
                )

        scene.settle_s = 0.0
        return asyncio.run(run())

    def accept(self, gate: str, *ids: str, **named: Any) -> StepResult:
        return self._with_api(lambda api: self.cutover(**named).accept(api, gate, ids, why="seen by hand"))

    def beat(self, host: str = "web-1", *, pid: int = 1, **more: Any) -> None:
        """A process of an application in another language publishes its heartbeat; it has read just now."""
        now = format_time(self.scene.time.now())
        store_at(self.scene.state).prepare()
        epoch = read_journal(self.scene.state).state.epoch
        fields = {
            "schema": 1,
            "host": host,
            "pid": pid,
            "heartbeat": now,
            "last_read": now,
            "epoch": epoch,
            "calls": {},
        }
        write_object(self.scene.state, f"{APPLICATIONS}/{host}-{pid}.json", fields | more)

    def record(self, *names: StepName, **more: Any) -> None:
        """Write steps into the journal, whether they are legal or not."""
        for name in names:
            given = {"start": {"migration": self.migration}, "shift": {"percent": 100.0}}.get(name, {}) | more
            record_step(self.scene.state, Step(name, format_time(self.scene.time.now()), "anna", **given))

    def make_ready(self, *, attached: bool = True) -> None:
        """Start, follow, verify and accept until a shift is possible; with an application that is `attached`."""
        self.start()
        if attached:  # it has ended, so that it needs no further heartbeats while the clock moves
            self.beat(ended=format_time(self.scene.time.now()))
        self.scene.follow(max_seconds=12)
        verify(self.scene.server, self.scene.state, [self.scene.settings.dump], now=self.scene.time.now)
        if not gate(self.check(), "verdict").passed:
            self.accept("verdict")

    def _with_api(self, work: Callable[[Any], Any]) -> StepResult:
        async def run() -> StepResult:
            async with self.scene.api() as api:
                result: StepResult = await work(api)
                return result

        return asyncio.run(run())
