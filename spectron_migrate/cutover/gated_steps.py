"""Steps of a cutover that evaluate the gates: check, accept, shift and complete.

Only `shift` moves reads to Spectron and only `complete` moves writes there, each after a reconcile and while every
gate passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from shlex import quote

from spectron_migrate.cutover import ungated_steps
from spectron_migrate.cutover.evidence import gather
from spectron_migrate.cutover.gate_result import GateResult
from spectron_migrate.cutover.gates import evaluate_gates, exit_code_of, gates_before, prepare_acceptance
from spectron_migrate.cutover.next_step import GatedStep, next_gated_step
from spectron_migrate.cutover.phases import Command, StepResult, describe_reads, require_legal
from spectron_migrate.cutover.privacy import write_privacy_report
from spectron_migrate.delivery.marker import RunMarker
from spectron_migrate.errors import ExitCode, InputError, KeyRefused, NotConfirmed, NotLegal, ScopeRefused, Unreachable
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.cutover_note import note_cutover
from spectron_migrate.migration.completion_marker import MarkedMigration, learn_completion, mark_completion
from spectron_migrate.migration.late_writers import read_late_writes
from spectron_migrate.migration.ledger_access import round_lock
from spectron_migrate.migration.reconcile import Reconciled, reconcile, reconcile_beside
from spectron_migrate.migration.rounds import CatchUpSettings, Rounds
from spectron_migrate.records import Json, counted, format_time, name_first
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state import processes
from spectron_migrate.state.cutover_state import CutoverState, Step
from spectron_migrate.state.following import compares_beside
from spectron_migrate.state.journal import publish_routing, read_journal, record_step, whoami
from spectron_migrate.state.store import StateStore, store_at

ROUND_PATIENCE_S = 120.0
"""How long a step waits for another process to end its round."""
ROUTING_SEEN_S = 2.0
"""After this time, applications on this host have read a changed `routing.json`: they check it twice a second."""
PROCESSES_PATIENCE_S = 30.0
"""How long `complete` waits for processes that use the adapter to report that they have seen it."""


class Cutover:
    """The cutover of one state."""

    def __init__(
        self,
        store: Path | StateStore,
        settings: Callable[[], CatchUpSettings],
        *,
        max_age_s: float,
        soak_s: float,
        reporter: Reporter,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        who: str | None = None,
        migration: Callable[[], str] | None = None,
    ) -> None:
        """`store`: the state, or its directory. `who` is recorded with every step, by default user, host and process.

        `settings` is called only when Mem0 or Spectron is needed, so broken settings never prevent reads from going
        back to Mem0. `max_age_s`: how old a verdict and a comparison may be. `soak_s`: how long all users must have
        been read from Spectron before `complete`. `migration`: the migration's id, for a state that does not know it
        yet.
        """
        self._find_migration = migration
        self._make_settings = settings
        self._store = store
        self._max_age_s = max_age_s
        self._soak_s = soak_s
        self._reporter = reporter
        self._now = now
        self._sleep = sleep
        self._who = who or whoami()

    async def check(self, api: SpectronApi | None) -> StepResult:
        """Evaluate every gate.

        Changes nothing, with two exceptions: a `routing.json` that a crash left behind the journal is brought up to
        date, and a state may learn of a completion (`learn_completion`).
        """
        problem: Unreachable | KeyRefused | None = None
        try:
            await self.learn_completion(api)
        except (Unreachable, KeyRefused) as error:
            problem = error
        publish_routing(self._store, now=self._stamp())
        state = read_journal(self._store).state
        if state.phase == "complete":
            privacy = write_privacy_report(self._store, now=self._stamp())
            if state.sealed:
                return await self._check_late_writes(api, StepResult(state, privacy=privacy))
            note = "Spectron is the only store, but late writes to Mem0 are not carried over yet: run complete again"
            return StepResult(state, privacy=privacy, exit_code=ExitCode.NO_GO, note=note)
        gates = await self._evaluate_gates(api, unasked=api is None or problem is not None)
        privacy = write_privacy_report(self._store, now=self._stamp()) if state.ever_began else None
        needed = gates_before(gates, next_gated_step(state))
        if problem is not None and state.phase == "mem0":
            note = f"nobody knows whether this migration is complete already: {problem.message}"
            return StepResult(state, gates, privacy=privacy, ready=False, exit_code=problem.exit_code, note=note)
        code = exit_code_of(needed)
        return StepResult(state, gates, privacy=privacy, ready=code == ExitCode.DONE, exit_code=code)

    async def _check_late_writes(self, api: SpectronApi | None, result: StepResult) -> StepResult:
        """Read Mem0 once more and name what is newer there, because somebody still writes to it.

        If Spectron lacks the marker of the completion, for instance after a restore, leave it there.
        """
        try:
            settings = self._settings
        except (InputError, KeyRefused) as error:
            note = f"Spectron is the only store; Mem0 was not read again, because {error.message}"
            return replace(result, note=note)
        if not Ledger.exists(self._store):
            note = (
                "Spectron is the only store, but this state has no ledger: export, then spectron-migrate replay --adopt"
            )
            return replace(result, exit_code=ExitCode.NO_GO, note=note)
        if api is not None:
            with suppress(Unreachable, KeyRefused):
                await self._mark_completion(api)
        async with round_lock(self._store, sleep=self._sleep, patience_s=ROUND_PATIENCE_S):
            with closing(Rounds(settings, reporter=self._reporter, now=self._now, sleep=self._sleep)) as rounds:
                late = await read_late_writes(rounds, now=self._now)
        if late.count:
            newer = counted(late.count, "memory in Mem0 is newer", "memories in Mem0 are newer")
            note = (
                f"Spectron is the only store, but {newer}, among them {', '.join(late.ids[:3])}: something still writes"
                " to Mem0; stop it, then run spectron-migrate replay --late-writers"
            )
            return replace(result, late_writes=late, exit_code=ExitCode.NO_GO, note=note)
        gone = f"; {counted(late.gone, 'memory that it no longer has stays', 'memories that it no longer has stay')}"
        kept = f"{gone} in Spectron" if late.gone else ""
        note = f"Spectron is the only store; Mem0 was read again and holds nothing newer{kept}"
        return replace(result, late_writes=late, note=note)

    async def accept(self, api: SpectronApi | None, gate: str, ids: Sequence[str], *, why: str) -> StepResult:
        """Let a gate pass for what it shows now. Raises InputError if it cannot be accepted."""
        with suppress(Unreachable, KeyRefused):
            await self.learn_completion(api)
        self._require_legal("accept")
        chosen, about = prepare_acceptance(await self._evaluate_gates(api), gate, ids)
        step = Step("accept", self._stamp(), self._who, why, gate=gate, ids=chosen, about=about)
        state = record_step(self._store, step)
        gates = await self._evaluate_gates(api)
        memories = f", {counted(len(chosen), 'memory')}" if chosen else ""
        needed = gates_before(gates, next_gated_step(state))
        ready = exit_code_of(needed) == ExitCode.DONE
        return StepResult(state, gates, ready=ready, note=f"accepted: {gate}{memories}")

    async def shift(
        self, api: Callable[[], SpectronApi], percent: float, users: Sequence[str] = (), *, why: str = ""
    ) -> StepResult:
        """Read `percent` % of users, or only `users`, from Spectron.

        A shift back to Mem0 happens at once. A shift towards Spectron reconciles first, and happens only if every gate
        passes; otherwise nothing changes and the result shows the gates. Raises NotLegal, InputError.
        """
        step = ungated_steps.shift_step(percent, users, now=self._stamp(), who=self._who, why=why)
        back = ungated_steps.shift_back(self._store, step, reporter=self._reporter)
        if back is not None:
            return back
        state = self._require_legal("shift")
        async with api() as wire:
            reconciled = await self._reconcile_beside()
            async with round_lock(self._store, sleep=self._sleep, patience_s=ROUND_PATIENCE_S):
                if await self._has_learned_completion(wire):
                    self._require_legal("shift")
                reconciled = reconciled or await self._reconcile(wire)
                gates = await self._evaluate_gates(wire)
                moves_all = state.after(step).all_read_since is not None
                asked: GatedStep = "all" if moves_all else "shift"
                code = exit_code_of(gates_before(gates, asked))
                if code != ExitCode.DONE:
                    note = "nothing was changed: not every gate passes"
                    return StepResult(state, gates, reconciled, ready=False, exit_code=code, note=note, refused=asked)
                step = replace(step, at=self._stamp(), gates=_for_the_journal(gates))
                state = record_step(self._store, step, decided_in=state)
                gates = await self._evaluate_gates(wire)  # the gates that hold back the step after this one
        ready = exit_code_of(gates_before(gates, next_gated_step(state))) == ExitCode.DONE
        return StepResult(state, gates, reconciled, ready=ready, moved=True, note=describe_reads(state))

    async def complete(
        self, api: Callable[[], SpectronApi], migration: str | None, *, yes: bool, why: str = ""
    ) -> StepResult:
        """Make Spectron the only store. This cannot be undone.

        Waits until Mem0 no longer changes and two scans agree, switches applications over, and then brings over what
        they still wrote to Mem0 while they switched. Run it again to finish what a crash interrupted. Raises NotLegal,
        NotConfirmed.
        """
        state = self._require_legal("complete")
        if state.phase == "complete" and state.sealed:
            return StepResult(
                state, note=f"the cutover has been complete since {state.changed_at}; nothing was changed"
            )
        if state.phase != "complete":
            _require_all_reads_shifted(state)
        if migration and migration != state.migration:
            raise NotConfirmed(
                f"this state is of migration {state.migration}, not {migration}: nothing was changed",
                hint="is this the right directory, or the right --state? spectron-migrate status shows what is there",
            )
        if migration != state.migration or not yes:
            raise NotConfirmed(
                "`complete` cannot be undone, and it was not confirmed",
                hint=f"spectron-migrate cutover complete --migration {state.migration} --yes",
            )
        async with round_lock(self._store, sleep=self._sleep, patience_s=ROUND_PATIENCE_S), api() as wire:
            gates: tuple[GateResult, ...] = ()
            if await self._has_learned_completion(wire):
                return StepResult(read_journal(self._store).state, note="the cutover was completed with another state")
            if state.phase != "complete":
                gates = await self._evaluate_gates(wire)
                code = exit_code_of(gate for gate in gates if gate.holds != "shift")
                if code != ExitCode.DONE:
                    note = "nothing was changed: not every gate passes"
                    return StepResult(state, gates, ready=False, exit_code=code, note=note, refused="complete")
                if not self._soak_s:
                    self._reporter.warn("cutover.soak is 0s: nobody waited to see how Spectron answers all users")
                if state.phase != "closing":
                    closing = Step("closing", self._stamp(), self._who, why)
                    state = record_step(self._store, closing, decided_in=state)
                reconciled = await self._reconcile(wire, quiet=True)
                # Otherwise a replay that begins now could supersede facts after applications have begun to write to
                # Spectron.
                with Ledger.open_for_writing(self._store, create=False) as ledger:
                    gates = _require_quiet(await self._evaluate_gates(wire), reconciled)
                    if exit_code_of(gates) != ExitCode.DONE:
                        note = "Mem0 cannot be left yet: not every gate passes"
                        code = exit_code_of(gates)
                        return StepResult(
                            state, gates, reconciled, ready=False, exit_code=code, note=note, refused="complete"
                        )
                    mapping = self._settings.mapping
                    step = Step(
                        "complete",
                        self._stamp(),
                        self._who,
                        why,
                        gates=_for_the_journal(gates),
                        mapping_digest=mapping.digest,
                        rules_digest=mapping.rules_digest,
                    )
                    note_cutover(ledger, "complete", step.at)
                    state = record_step(self._store, step, decided_in=state)
            await self._mark_completion(wire)
            return await self._seal(wire, state, gates)

    async def learn_completion(self, api: SpectronApi | None) -> bool:
        """If the state does not know of a completion, ask Spectron; if there is one, record it in the journal.

        True if the state learned of one. Raises what the wire raises, and ScopeRefused if the key may not list scopes.
        Nothing is asked without a wire, or if the migration is not known.
        """
        store = store_at(self._store)
        if api is None or read_journal(store).state.phase == "complete":
            return False
        migration = MarkedMigration.of_state(store)
        if migration is None and self._find_migration is not None:
            found = self._find_migration()
            migration = MarkedMigration(found, found)
        if migration is None:
            return False
        mapping, reporter = self._settings.mapping, self._reporter
        return await learn_completion(store, migration, api, mapping, now=self._stamp(), reporter=reporter) is not None

    async def _has_learned_completion(self, wire: SpectronApi) -> bool:
        """Like `learn_completion`, for a step that goes on if the key may not list scopes."""
        try:
            return await self.learn_completion(wire)
        except ScopeRefused:
            return False

    async def _mark_completion(self, wire: SpectronApi) -> None:
        """Leave the marker by which other states learn that the cutover is complete."""
        marker = RunMarker(sleep=self._sleep)
        await mark_completion(store_at(self._store), wire, self._settings.mapping, marker, reporter=self._reporter)

    async def _seal(self, wire: SpectronApi, state: CutoverState, gates: tuple[GateResult, ...]) -> StepResult:
        """Bring over what was written to Mem0 while applications switched. It no longer supersedes anything."""
        await self._wait_for_processes(state.epoch)
        reconciled = await self._reconcile(wire, quiet=True, supersede=False)
        privacy = write_privacy_report(self._store, now=self._stamp())
        if not (reconciled.agree and reconciled.quiet):
            note = "Spectron is the only store, but something still writes to Mem0: stop it, then run this again"
            return StepResult(state, gates, reconciled, privacy, exit_code=ExitCode.NO_GO, note=note)
        state = record_step(self._store, Step("sealed", self._stamp(), self._who), decided_in=state)
        note = "Spectron is now the only store; keep Mem0 until a check after a day has found nothing new there"
        return StepResult(state, gates, reconciled, privacy, note=note)

    async def _wait_for_processes(self, epoch: int) -> None:
        """Wait until applications write to Spectron. They do so from the moment when they see the new routing."""
        await self._sleep(ROUTING_SEEN_S)
        waited = ROUTING_SEEN_S
        while (
            late := processes.read_processes(self._store, now=self._now()).not_on(epoch)
        ) and waited < PROCESSES_PATIENCE_S:
            await self._sleep(1.0)
            waited += 1.0
        if late:
            who = counted(len(late), "process has", "processes have")
            pids = ", ".join(f"{report.pid} on {report.host}" for report in late[:10])
            self._reporter.warn(f"{who} not seen yet that the cutover is complete: {pids}")

    @cached_property
    def _settings(self) -> CatchUpSettings:
        return self._make_settings()

    def _require_legal(self, command: Command) -> CutoverState:
        return require_legal(self._store, command, now=self._stamp(), reporter=self._reporter)

    async def _reconcile(self, wire: SpectronApi, *, quiet: bool = False, supersede: bool = True) -> Reconciled:
        with closing(Rounds(self._settings, reporter=self._reporter, now=self._now, sleep=self._sleep)) as rounds:
            return await reconcile(
                rounds,
                wire,
                quiet=quiet,
                supersede=supersede,
                reporter=self._reporter,
                now=self._now,
                sleep=self._sleep,
            )

    async def _reconcile_beside(self) -> Reconciled | None:
        """Reconcile beside the rounds of the process that follows; None if that is not possible."""
        if not compares_beside(self._store):
            return None
        return await reconcile_beside(self._settings, reporter=self._reporter, now=self._now, sleep=self._sleep)

    async def _evaluate_gates(self, api: SpectronApi | None, *, unasked: bool = False) -> tuple[GateResult, ...]:
        evidence = await gather(
            self._store,
            self._settings.dump,
            api=api,
            unasked=unasked,
            mapping=self._settings.mapping.digest,
            max_lag_s=self._settings.max_lag_s,
            max_age_s=self._max_age_s,
            soak_s=self._soak_s,
            now=self._now(),
        )
        return tuple(evaluate_gates(evidence))

    def _stamp(self) -> str:
        return format_time(self._now())


def _require_all_reads_shifted(state: CutoverState) -> None:
    if state.percent == 100 and not state.pinned_to_mem0:
        return
    pinned = sorted(state.pinned_to_mem0)
    problems = [f"{state.percent:g} % of users are read from Spectron"] if state.percent != 100 else []
    if pinned:
        problems.append(f"{counted(len(pinned), 'user')} pinned to Mem0: {name_first(pinned)}")
    steps = ["cutover shift 100"] if state.percent != 100 else []
    steps += [f"cutover shift 100 --user {quote(pinned[0])}"] if pinned else []
    raise NotLegal(
        f"`cutover complete` needs that everybody is read from Spectron; {', '.join(problems)}",
        hint=", then ".join(f"spectron-migrate {each}" for each in steps),
    )


def _require_quiet(gates: Sequence[GateResult], reconciled: Reconciled) -> tuple[GateResult, ...]:
    """The gates, with `reconciled` failed if Mem0 still changes: agreement on the past is not enough to leave Mem0."""
    if reconciled.agree and reconciled.quiet:
        return tuple(gates)
    still_written = "Mem0 is still written to: stop or pause its writers, then run this again"
    return tuple(
        replace(gate, outcome="failed", hint=gate.hint if reconciled.differences else still_written)
        if gate.name == "reconciled"
        else gate
        for gate in gates
    )


def _for_the_journal(gates: Sequence[GateResult]) -> tuple[dict[str, Json], ...]:
    """The gates as a line of the journal holds them, without long lists."""
    return tuple(
        {"name": gate.name, "value": gate.value, "limit": gate.limit, "accepted_by": gate.accepted_by} for gate in gates
    )
