"""`spectron-migrate cutover`: one subcommand per step; all steps run and draw alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from spectron_migrate.cli import completion
from spectron_migrate.cli.gates_screen import draw_gates, value_text
from spectron_migrate.cli.opening import catch_up_settings, migration_of, open_api
from spectron_migrate.cli.options import GlobalOptions, SectionedCommand, read_filters, with_global_options
from spectron_migrate.cli.runner import CommandResult, Invocation, run_async, run_command
from spectron_migrate.cli.tables import facts, plain
from spectron_migrate.errors import ExitCode, InputError, KeyRefused, Unreachable
from spectron_migrate.records import counted, format_time
from spectron_migrate.reporter import Reporter

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.cutover.gated_steps import Cutover
    from spectron_migrate.cutover.phases import StepResult
    from spectron_migrate.settings import Settings
    from spectron_migrate.spectron.api import SpectronApi
    from spectron_migrate.state.store import StateStore

app = typer.Typer(
    help="Move the application's reads to Spectron step by step, and back in a second; then its writes, for good.\n\n"
    "\b\nExample: spectron-migrate cutover start\n         spectron-migrate cutover shift 10\n"
    "         spectron-migrate cutover revert",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; recorded with the step.", metavar="TEXT")]
SCORES = {
    "rank": "scores: a result from Spectron has its rank as `score` (1.0 for the first, falling evenly); an application"
    " that compares scores with a number has to be changed",
    "spectron": "scores: results from Spectron have Spectron's own `score`, far below Mem0's; an application that"
    " compares scores with a number has to be changed",
}


@app.command("start", cls=SectionedCommand, short_help="Begin: from now on, changes in Mem0 are written to Spectron.")
@with_global_options
def start(options: GlobalOptions, reason: ReasonOption = "") -> int:
    """Begin: from now on, changes in Mem0 are written to Spectron too. Reads stay with Mem0.

    Example: spectron-migrate cutover start; spectron-migrate replay --follow
    """

    def step(inputs: StepInputs) -> StepResult:
        from spectron_migrate.cutover import ungated_steps

        inputs.learn_completion()
        migration = migration_of(inputs.settings, inputs.state)
        catch_up = inputs.settings.cutover.catch_up
        return ungated_steps.start(inputs.state, migration, catch_up, why=reason, **inputs.signature)

    return run_command("cutover", options, partial(run, step=step))


@app.command("check", cls=SectionedCommand, short_help="Show every gate, and what to do about it.")
@with_global_options
def check(options: GlobalOptions) -> int:
    """Show every gate, and what to do about those that do not pass: exit code 0, 4 to 7 or 11.

    Example: spectron-migrate cutover check --json
    """

    def step(inputs: StepInputs) -> StepResult:
        return inputs.with_api_if_set(inputs.cutover.check)

    return run_command("cutover", options, partial(run, step=step, is_check=True))


@app.command("shift", cls=SectionedCommand, short_help="Read a percentage of users from Spectron.")
@with_global_options
def shift(
    options: GlobalOptions,
    percent: Annotated[
        float,
        typer.Argument(help="Percentage of users to read from Spectron, 0 to 100.", min=0, max=100, metavar="PERCENT"),
    ],
    user: Annotated[
        list[str] | None,
        typer.Option(
            "--user",
            help="Pin these users to Mem0 (0) or Spectron (100); @FILE: one id per line.",
            metavar="ID|@FILE",
        ),
    ] = None,
    reason: ReasonOption = "",
) -> int:
    """Read a percentage of users from Spectron: up only while every gate passes, down immediately.

    Example: spectron-migrate cutover shift 100 --user alice; spectron-migrate cutover shift 5
    """

    def step(inputs: StepInputs) -> StepResult:
        from spectron_migrate.cutover import ungated_steps

        users = sorted(read_filters(user).users)
        signature = inputs.signature
        wanted = ungated_steps.shift_step(percent, users, now=signature["now"], who=signature["who"], why=reason)
        back = ungated_steps.shift_back(inputs.state, wanted, reporter=inputs.invocation.reporter)
        if back is not None:
            return back
        result = run_async(inputs.invocation, inputs.cutover.shift(inputs.open_api, percent, users, why=reason))
        if result.exit_code == ExitCode.DONE:
            inputs.invocation.reporter.info(SCORES[inputs.settings.adapter.score])
        return result

    return run_command("cutover", options, partial(run, step=step))


@app.command("accept", cls=SectionedCommand, short_help="Let a gate pass with the value it has now, for a reason.")
@with_global_options
def accept(
    options: GlobalOptions,
    gate: Annotated[
        str,
        typer.Argument(
            help="base, refused, moved, verdict, will_not_expire, marker, application, calls, processes or soak;"
            " GATE=ID: only this memory or process of it.",
            metavar="GATE[=ID]",
        ),
    ],
    more: Annotated[list[str] | None, typer.Argument(help="More of them, after GATE=ID.", metavar="[ID…]")] = None,
    reason: Annotated[
        str, typer.Option("--reason", help="Why; recorded with the step.  [required]", metavar="TEXT")
    ] = "",
) -> int:
    """Let a gate pass with the value it has now; who, when and why is recorded.

    Example: spectron-migrate cutover accept verdict --reason "only 20 users, checked by hand"
    """

    def step(inputs: StepInputs) -> StepResult:
        if not reason.strip():
            hint = f"spectron-migrate cutover accept {gate} --reason TEXT"
            raise InputError("--reason is missing: it is recorded why a gate was accepted", hint=hint)
        name, _, first = gate.partition("=")
        ids = [each for word in (first, *(more or ())) for each in word.split(",") if each]
        return inputs.with_api_if_set(lambda api: inputs.cutover.accept(api, name, ids, why=reason))

    return run_command("cutover", options, partial(run, step=step))


@app.command("revert", cls=SectionedCommand, short_help="Read everything from Mem0 again, immediately.")
@with_global_options
def revert(options: GlobalOptions, reason: ReasonOption = "") -> int:
    """Read everything from Mem0 again, immediately; following continues. With --state it needs no settings.

    Example: spectron-migrate cutover revert --reason "support reports wrong answers"
    """

    def step(inputs: StepInputs) -> StepResult:
        from spectron_migrate.cutover import ungated_steps

        return ungated_steps.revert(inputs.state, why=reason, **inputs.signature)

    return run_command("cutover", options, partial(run, step=step))


@app.command("complete", cls=SectionedCommand, short_help="Make Spectron the only store: this cannot be undone.")
@with_global_options
def complete(
    options: GlobalOptions,
    migration: Annotated[
        str | None,
        typer.Option(
            "--migration",
            help="The migration's id, as a confirmation.",
            metavar="ID",
            autocompletion=completion.migrations,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm that this cannot be undone.")] = False,
    reason: ReasonOption = "",
) -> int:
    """Make Spectron the only store: from now on applications write there. This cannot be undone.

    Example: spectron-migrate cutover complete --migration 0123456789abcdef --yes
    """

    def step(inputs: StepInputs) -> StepResult:
        named, is_confirmed = migration, yes
        if not yes and inputs.invocation.may_ask:
            named = inputs.invocation.ask(
                "Spectron becomes the only store, for good. Type the migration's id to confirm: "
            )
            is_confirmed = True
        completing = inputs.cutover.complete(inputs.open_api, named, yes=is_confirmed, why=reason)
        return run_async(inputs.invocation, completing)

    return run_command("cutover", options, partial(run, step=step))


@app.command("abort", cls=SectionedCommand, short_help="End the cutover: everything stays with Mem0.")
@with_global_options
def abort(
    options: GlobalOptions,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    reason: ReasonOption = "",
) -> int:
    """End the cutover: everything is read from Mem0, and its changes are no longer written to Spectron.

    Example: spectron-migrate cutover abort --yes
    """

    def step(inputs: StepInputs) -> StepResult:
        from spectron_migrate.cutover import ungated_steps

        ask = inputs.invocation.ask
        sure = yes or (
            inputs.invocation.may_ask and ask("End the cutover? The next one starts over. (yes/no) ") == "yes"
        )
        return ungated_steps.abort(inputs.state, yes=sure, why=reason, **inputs.signature)

    return run_command("cutover", options, partial(run, step=step))


class Signature(TypedDict):
    """What the journal records with every step, and where warnings go."""

    now: str
    who: str
    reporter: Reporter


@dataclass
class StepInputs:
    """What a step works with; settings are read only by the steps that need them."""

    invocation: Invocation

    @cached_property
    def settings(self) -> Settings:
        """The settings of options, environment and file."""
        return self.invocation.settings()

    @cached_property
    def state(self) -> StateStore:
        """With `--state` no settings are read: a broken file must not prevent a revert."""
        from spectron_migrate.settings.state import named_state

        named = named_state(self.invocation.options.state, self.invocation.environment)
        return self.invocation.state if named is None else self.invocation.open_state(named)

    @property
    def signature(self) -> Signature:
        """Now, by this user."""
        from spectron_migrate.state.journal import whoami

        return {"now": format_time(datetime.now(UTC)), "who": whoami(), "reporter": self.invocation.reporter}

    @property
    def cutover(self) -> Cutover:
        """The cutover, for steps that need more than the state directory."""
        from spectron_migrate.cutover.gated_steps import Cutover

        return Cutover(
            self.invocation.state,
            lambda: catch_up_settings(self.settings, self.invocation.state),
            max_age_s=self.settings.cutover.max_age_s,
            soak_s=self.settings.cutover.soak_s,
            reporter=self.invocation.reporter,
            migration=lambda: migration_of(self.settings, self.invocation.state),
        )

    def learn_completion(self) -> None:
        """If the state knows of no cutover, ask Spectron whether it is complete; see `Cutover.learn_completion`.

        If the settings name no Spectron, nothing is asked. If it does not answer, a warning says so.
        """
        from spectron_migrate.state.journal import read_journal

        if read_journal(self.state).state.phase != "mem0":
            return

        async def ask() -> None:
            with suppress(InputError, KeyRefused):
                async with open_api(self.settings, max_connections=1) as api:
                    try:
                        await self.cutover.learn_completion(api)
                    except (Unreachable, KeyRefused) as error:
                        self.invocation.reporter.warn(
                            f"{error.message}: so nobody knows whether this migration is complete already"
                        )

        run_async(self.invocation, ask())

    def open_api(self) -> SpectronApi:
        """Open the API, and print host and context before anything is written."""
        settings = self.settings
        settings.spectron.require()
        self.invocation.reporter.info(f"Spectron at {settings.spectron.endpoint}, context {settings.spectron.context}")
        return open_api(settings, max_connections=settings.replay.max_in_flight)

    def with_api_if_set(self, work: Callable[[SpectronApi | None], Awaitable[StepResult]]) -> StepResult:
        """Run work with the API, or with None if the settings name no Spectron or no key."""

        async def run_work() -> StepResult:
            try:
                api = self.open_api()
            except (InputError, KeyRefused):
                return await work(None)
            async with api:
                return await work(api)

        return run_async(self.invocation, run_work())


def run(invocation: Invocation, step: Callable[[StepInputs], StepResult], *, is_check: bool = False) -> CommandResult:
    """Take one step of a cutover. `is_check`: the step is about gates, so each is shown in full."""
    inputs = StepInputs(invocation)
    result = step(inputs)
    gates = tuple(replace(gate, hint=invocation.complete_hint(gate.hint)) for gate in result.gates)
    result = replace(result, gates=gates)
    return CommandResult(
        result.exit_code,
        result.to_json(),
        draw(result, is_check=is_check),
        migration=result.state.migration or None,
        next=_next(inputs, result),
    )


def _next(inputs: StepInputs, result: StepResult) -> str | None:
    """The command to run next. After a step that moved reads, the next such step is suggested for later."""
    from spectron_migrate.cutover.status import next_command
    from spectron_migrate.ledger import Ledger
    from spectron_migrate.state.following import is_followed

    state, following = result.state, is_followed(inputs.state)
    if state.phase == "complete" and not Ledger.exists(inputs.state):
        return "spectron-migrate export"
    following_step = next_command(state, following=following, ready=result.ready, late=result.late_writes)
    if result.exit_code in _AFTER_NO_ANSWER:
        return _AFTER_NO_ANSWER[result.exit_code]
    if not result.moved or not result.ready or following_step is None:
        return following_step
    later = inputs.invocation.complete(following_step)
    inputs.invocation.reporter.info(f"wait and see what users say, for example for a day, before: {later}")
    return "spectron-migrate cutover check"


_AFTER_NO_ANSWER = {ExitCode.KEY: "spectron-migrate doctor", ExitCode.UNREACHABLE: "spectron-migrate cutover check"}


def draw(result: StepResult, *, is_check: bool = False) -> Iterator[RenderableType]:
    """The phase, the gates, and what to do about those that do not pass."""
    yield facts(f"Cutover: {result.note or result.state.phase}", _rows(result))
    from spectron_migrate.cutover.gates import gates_before
    from spectron_migrate.cutover.next_step import next_gated_step

    if result.gates:
        needed = gates_before(result.gates, result.refused or next_gated_step(result.state))
        yield from draw_gates(result.gates, needed, later_in_full=is_check)
    if result.ready is False:
        yield plain("reads, and in the end writes, move to Spectron only when these gates pass", style="bold")


def _rows(result: StepResult) -> list[tuple[str, object]]:
    state = result.state
    rows: list[tuple[str, object]] = [("phase", state.phase), ("read from Spectron", f"{state.percent:g} % of users")]
    if state.pinned_to_spectron or state.pinned_to_mem0:
        rows.append(
            (
                "pinned",
                f"{counted(len(state.pinned_to_spectron), 'user')} to Spectron, {len(state.pinned_to_mem0):,} to Mem0",
            )
        )
    if state.fence:
        rows.append(("began", f"{value_text(state.fence)} UTC"))
    if result.reconciled is not None:
        differ = counted(result.reconciled.differences, "memory differs", "memories differ")
        agreement = "agree" if result.reconciled.agree else differ
        rows.append(("Mem0 and the ledger", f"{agreement}, {counted(result.reconciled.memories, 'memory')} compared"))
    if result.privacy is not None and (result.privacy.deleted or result.privacy.replaced):
        deleted = counted(result.privacy.deleted, "memory")
        replaced = counted(result.privacy.replaced, "older text")
        rows.append(("gone from Mem0, still in Spectron", f"{deleted}, {replaced} of others"))
        rows.append(("", f"{result.privacy.exact:,} can be erased exactly; listed in {result.privacy.path}"))
    return rows
