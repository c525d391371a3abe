"""The steps that ask for something first: reads go to Spectron only through them, while all gates pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from spectron_migrate.cutover import at_once
from spectron_migrate.cutover.at_once import Command, Stand
from spectron_migrate.cutover.evidence import gather
from spectron_migrate.cutover.gates import Gate, acceptance, exit_code_of, gates_of
from spectron_migrate.cutover.privacy import write_report
from spectron_migrate.errors import ExitCode, NotConfirmed, NotLegal
from spectron_migrate.migration.reconcile import Reconciled, reconcile
from spectron_migrate.migration.rounds import CatchUpSettings, Rounds, hold_ledgers, round_lock
from spectron_migrate.records import Json, Reporter, counted, format_time
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state import processes
from spectron_migrate.state.journal import CutoverState, Step, publish, read_journal, record, whoami

TURN_PATIENCE_S = 120.0
GO_OVER_S = 2.0
"""In which applications on this host have seen that Spectron is the truth: they look twice a second."""
PROCESSES_PATIENCE_S = 30.0
"""For those that use the adapter and say what they have seen."""


class Cutover:
    """The cutover of one state directory."""

    def __init__(
        self,
        folder: Path,
        settings: Callable[[], CatchUpSettings],
        *,
        max_age_s: float,
        reporter: Reporter,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        who: str | None = None,
    ) -> None:
        """Nothing happens yet; `who` is recorded with every step.

        `folder` is the state directory; `settings` is asked for only where Mem0 or Spectron are: no broken setting
        keeps anybody from going back.
        """
        self._make_settings = settings
        self._folder = folder
        self._max_age_s = max_age_s
        self._reporter = reporter
        self._now = now
        self._sleep = sleep
        self._who = who or whoami()

    # -- on to Spectron --

    async def check(self, api: SpectronApi | None) -> Stand:
        """Look at every gate; changes nothing but a routing.json that a crash left behind the journal."""
        publish(self._folder, now=self._stamp())
        state = read_journal(self._folder).state
        if state.phase == "complete":
            privacy = write_report(self._folder, now=self._stamp())
            if state.sealed:
                return Stand(state, privacy=privacy, note="Spectron is the truth; nothing is left to check")
            note = "Spectron is the truth, but what came in meanwhile is not carried over yet: run complete again"
            return Stand(state, privacy=privacy, exit_code=ExitCode.NO_GO, note=note)
        gates = await self._gates(api)
        privacy = write_report(self._folder, now=self._stamp()) if state.ever_began else None
        return Stand(state, gates, privacy=privacy, exit_code=exit_code_of(gates))

    async def accept(self, api: SpectronApi | None, gate: str, ids: Sequence[str], *, why: str) -> Stand:
        """Let a gate pass for what it shows now, by name. Raises InputError for what cannot be accepted."""
        self._legal("accept")
        named, about = acceptance(await self._gates(api), gate, ids)
        step = Step("accept", self._stamp(), self._who, why, gate=gate, ids=named, about=about)
        state = self._record(None, step)
        gates = await self._gates(api)
        what = f", {counted(len(named), 'memory')}" if named else ""
        return Stand(state, gates, note=f"accepted: {gate}{what}")

    async def shift(
        self, api: Callable[[], SpectronApi], percent: float, users: Sequence[str] = (), *, why: str = ""
    ) -> Stand:
        """Read so many per cent of users, or just these, from Spectron.

        Back to Mem0 at once; towards Spectron only after all of Mem0 was reconciled and while every gate passes,
        else the stand tells which does not, and nothing was changed. Raises NotLegal, InputError.
        """
        step = at_once.shift_step(percent, users, now=self._stamp(), who=self._who, why=why)
        back = at_once.shift_back(self._folder, step, reporter=self._reporter)
        if back is not None:
            return back
        state = self._legal("shift")
        async with round_lock(self._folder, sleep=self._sleep, patience_s=TURN_PATIENCE_S), api() as wire:
            reconciled = await self._reconcile(wire)
            gates = await self._gates(wire)
            if exit_code_of(gates) != ExitCode.DONE:
                note = "nothing was changed: the gates do not let it pass"
                return Stand(state, gates, reconciled, exit_code=exit_code_of(gates), note=note)
            state = self._record(state, replace(step, at=self._stamp(), gates=_kept(gates)))
        return Stand(state, gates, reconciled, note=at_once.shifted(state))

    async def complete(
        self, api: Callable[[], SpectronApi], migration: str | None, *, yes: bool, why: str = ""
    ) -> Stand:
        """Make Spectron the truth; there is no way back.

        Waits until Mem0 stands still and two readings agree, flips, and carries over what still came into Mem0 while
        applications went over. Running it again finishes what a crash cut short. Raises NotLegal, NotConfirmed.
        """
        state = self._legal("complete")
        if state.phase == "complete" and state.sealed:
            return Stand(state, note=f"it is complete since {state.since}; nothing was changed")
        self._everybody_is_over(state)
        if migration != state.migration or not yes:
            raise NotConfirmed(
                "from `complete` no way leads back to Mem0; it was not confirmed",
                hint=f"spectron-migrate cutover complete --migration {state.migration} --yes",
            )
        async with round_lock(self._folder, sleep=self._sleep, patience_s=TURN_PATIENCE_S), api() as wire:
            gates: tuple[Gate, ...] = ()
            if state.phase != "complete":
                if state.phase != "closing":
                    state = self._record(state, Step("closing", self._stamp(), self._who, why))
                reconciled = await self._reconcile(wire, quiet=True)
                # A replay that begins now would still supersede when Spectron is the truth.
                with hold_ledgers(self._folder):
                    gates = self._with_quiet(await self._gates(wire), reconciled)
                    if exit_code_of(gates) != ExitCode.DONE:
                        note = "Mem0 is still the truth: the gates do not let it pass"
                        return Stand(state, gates, reconciled, exit_code=exit_code_of(gates), note=note)
                    state = self._record(state, Step("complete", self._stamp(), self._who, why, gates=_kept(gates)))
            return await self._seal(wire, state, gates)

    async def _seal(self, wire: SpectronApi, state: CutoverState, gates: tuple[Gate, ...]) -> Stand:
        """What came into Mem0 while applications went over is carried over too; it supersedes nothing any more."""
        await self._everybody_sees(state.epoch)
        reconciled = await self._reconcile(wire, quiet=True, supersede=False)
        privacy = write_report(self._folder, now=self._stamp())
        if not (reconciled.agree and reconciled.quiet):
            note = "Spectron is the truth, but something still writes to Mem0: stop it, then run this again"
            return Stand(state, gates, reconciled, privacy, ExitCode.NO_GO, note)
        state = self._record(state, Step("sealed", self._stamp(), self._who))
        return Stand(state, gates, reconciled, privacy, note="Spectron is the truth; Mem0 is no longer needed")

    async def _everybody_sees(self, epoch: int) -> None:
        """Applications write to Spectron from the moment they see the flip: wait for those that tell."""
        await self._sleep(GO_OVER_S)
        waited = GO_OVER_S
        while (
            late := processes.read_processes(self._folder, now=self._now()).not_on(epoch)
        ) and waited < PROCESSES_PATIENCE_S:
            await self._sleep(1.0)
            waited += 1.0
        if late:
            named = ", ".join(f"{report.pid} on {report.host}" for report in late[:10])
            who = counted(len(late), "process has", "processes have")
            self._reporter.warn(f"{who} not seen that Spectron is the truth: {named}")

    # -- how --

    @cached_property
    def _settings(self) -> CatchUpSettings:
        return self._make_settings()

    def _legal(self, command: Command) -> CutoverState:
        return at_once.legal(self._folder, command, now=self._stamp(), reporter=self._reporter)

    def _everybody_is_over(self, state: CutoverState) -> None:
        if state.phase == "complete":
            return
        if state.percent != 100 or state.to_mem0:
            pinned = f", with {counted(len(state.to_mem0), 'user')} pinned to Mem0" if state.to_mem0 else ""
            raise NotLegal(
                f"`cutover complete` is not legal while {state.percent:g} % are read from Spectron{pinned}",
                hint="spectron-migrate cutover shift 100, and shift 100 --user ID for who is pinned",
            )

    async def _reconcile(self, wire: SpectronApi, *, quiet: bool = False, supersede: bool = True) -> Reconciled:
        rounds = Rounds(self._settings, reporter=self._reporter, now=self._now, sleep=self._sleep)
        return await reconcile(
            rounds,
            wire,
            quiet=quiet,
            supersede=supersede,
            reporter=self._reporter,
            now=self._now,
            sleep=self._sleep,
        )

    async def _gates(self, api: SpectronApi | None) -> tuple[Gate, ...]:
        evidence = await gather(
            self._folder,
            self._settings.dump,
            api=api,
            mapping=self._settings.mapping.digest,
            max_lag_s=self._settings.max_lag_s,
            max_age_s=self._max_age_s,
            now=self._now(),
        )
        return tuple(gates_of(evidence))

    def _with_quiet(self, gates: Sequence[Gate], reconciled: Reconciled) -> tuple[Gate, ...]:
        """To leave Mem0 for good it is not enough that what is old has arrived."""
        if reconciled.agree and reconciled.quiet:
            return tuple(gates)
        hint = "Mem0 is still written to: stop its writers, or let them wait, and run this again"
        return tuple(
            replace(gate, outcome="failed", hint=gate.hint if reconciled.differences else hint)
            if gate.name == "reconciled"
            else gate
            for gate in gates
        )

    def _record(self, decided_in: CutoverState | None, step: Step) -> CutoverState:
        return record(self._folder, step, expect=decided_in)

    def _stamp(self) -> str:
        return format_time(self._now())


def _kept(gates: Sequence[Gate]) -> tuple[dict[str, Json], ...]:
    """As the journal keeps them: without long lists."""
    return tuple(
        {"name": gate.name, "value": gate.value, "limit": gate.limit, "accepted_by": gate.accepted_by} for gate in gates
    )
