"""`spectron-migrate cutover …`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from spectron_migrate.cli import completion, options, replay
from spectron_migrate.cli.conduct import Common, Outcome, Stage, conduct, run_loop
from spectron_migrate.cli.follow import catch_up_settings
from spectron_migrate.cli.help import Sectioned
from spectron_migrate.records import counted

if TYPE_CHECKING:
    from rich.console import Console

    from spectron_migrate.cutover.at_once import Stand
    from spectron_migrate.cutover.steps import Cutover
    from spectron_migrate.records import Reporter
    from spectron_migrate.settings import Settings
    from spectron_migrate.spectron.api import SpectronApi

app = typer.Typer(
    help="Move the application's reads, then its writes, from Mem0 to Spectron: step by step, and back in a second.\n\n"
    "\b\nExample: spectron-migrate cutover start\n         spectron-migrate cutover shift 10\n"
    "         spectron-migrate cutover revert",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is recorded with the step.", metavar="TEXT")]


@app.command("start", cls=Sectioned, short_help="Begin: from now on what is written to Mem0 comes along.")
def start(
    reason: ReasonOption = "",
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Begin: from now on what is written to Mem0 comes along. Reads stay where they are.

    Example: spectron-migrate cutover start; spectron-migrate replay --follow
    """

    def step(player: _Player) -> Stand:
        from spectron_migrate.cutover import at_once

        settings = player.settings
        catch_up = settings.cutover.catch_up
        return at_once.start(player.folder, _migration(settings), catch_up, why=reason, **player.signed)

    return _play(options.common(config, state, as_json, quiet, verbose), step)


@app.command("check", cls=Sectioned, short_help="Show every gate, and what to do about it.")
def check(
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Show every gate, and what to do about those that do not pass: exit 0, 4, 5 or 11.

    Example: spectron-migrate cutover check --json
    """
    return _play(
        options.common(config, state, as_json, quiet, verbose), lambda player: player.wired(player.cutover.check)
    )


@app.command("shift", cls=Sectioned, short_help="Read so many per cent of users from Spectron.")
def shift(
    percent: Annotated[
        float, typer.Argument(help="Share of users to read from Spectron, 0 to 100.", min=0, max=100, metavar="PERCENT")
    ],
    user: Annotated[
        list[str] | None,
        typer.Option(
            "--user", help="Only these users (with 0 or 100): they stay there; @FILE too.", metavar="ID|@FILE"
        ),
    ] = None,
    reason: ReasonOption = "",
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Read so many per cent of users from Spectron: up only while all gates pass, down at once.

    Example: spectron-migrate cutover shift 100 --user alice; spectron-migrate cutover shift 5
    """

    def step(player: _Player) -> Stand:
        from spectron_migrate.cutover import at_once

        users = sorted(options.filters(user, None, None).users)
        signed = player.signed
        wanted = at_once.shift_step(percent, users, now=signed["now"], who=signed["who"], why=reason)
        back = at_once.shift_back(player.folder, wanted, reporter=player.stage.reporter)
        if back is not None:
            return back
        return run_loop(player.cutover.shift(player.open_api, percent, users, why=reason))

    return _play(options.common(config, state, as_json, quiet, verbose), step)


@app.command("accept", cls=Sectioned, short_help="Let a gate pass for what it shows now, with a reason.")
def accept(
    gate: Annotated[str, typer.Argument(help="refused, verdict, will_not_expire or calls.", metavar="GATE[=ID…]")],
    more: Annotated[list[str] | None, typer.Argument(help="More ids.", metavar="[ID…]")] = None,
    reason: ReasonOption = "",
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Let a gate pass for what it shows now; who, when and why is recorded.

    Example: spectron-migrate cutover accept verdict --reason "20 users only, looked at by hand"
    """

    def step(player: _Player) -> Stand:
        from spectron_migrate.errors import InputError

        if not reason.strip():
            hint = f"spectron-migrate cutover accept {gate} --reason TEXT"
            raise InputError("--reason is missing: an acceptance says why", hint=hint)
        name, _, first = gate.partition("=")
        ids = [each for word in (first, *(more or ())) for each in word.split(",") if each]
        return player.wired(lambda api: player.cutover.accept(api, name, ids, why=reason))

    return _play(options.common(config, state, as_json, quiet, verbose), step)


@app.command("revert", cls=Sectioned, short_help="Read everything from Mem0 again, at once.")
def revert(
    reason: ReasonOption = "",
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Read everything from Mem0 again, at once; catching up goes on. With --state it needs no settings at all.

    Example: spectron-migrate cutover revert --reason "support reports wrong answers"
    """

    def step(player: _Player) -> Stand:
        from spectron_migrate.cutover import at_once

        return at_once.revert(player.folder, why=reason, **player.signed)

    return _play(options.common(config, state, as_json, quiet, verbose), step)


@app.command("complete", cls=Sectioned, short_help="Make Spectron the truth: no way leads back.")
def complete(
    migration: Annotated[
        str | None,
        typer.Option(
            "--migration", help="The migration's id, to be sure.", metavar="ID", autocompletion=completion.migrations
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="From here no way leads back, and that is meant.")] = False,
    reason: ReasonOption = "",
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Make Spectron the truth: the applications write there from now on. No way leads back.

    Example: spectron-migrate cutover complete --migration 0123456789abcdef --yes
    """

    def step(player: _Player) -> Stand:
        named, sure = migration, yes
        if not yes and player.may_ask:
            named = player.ask("Spectron becomes the truth, for good. The migration's id, to confirm: ")
            sure = True
        return run_loop(player.cutover.complete(player.open_api, named, yes=sure, why=reason))

    return _play(options.common(config, state, as_json, quiet, verbose), step)


@app.command("abort", cls=Sectioned, short_help="End the cutover: everything stays with Mem0.")
def abort(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    reason: ReasonOption = "",
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """End the cutover: everything is read from Mem0, nothing is caught up any more.

    Example: spectron-migrate cutover abort --yes
    """

    def step(player: _Player) -> Stand:
        from spectron_migrate.cutover import at_once

        sure = yes or (player.may_ask and player.ask("End the cutover? The next one begins anew. (yes/no) ") == "yes")
        return at_once.abort(player.folder, yes=sure, why=reason, **player.signed)

    return _play(options.common(config, state, as_json, quiet, verbose), step)


class _Signed(TypedDict):
    now: str
    who: str
    reporter: Reporter


@dataclass
class _Player:
    """One step at work: its settings, and the cutover that it belongs to."""

    stage: Stage

    @cached_property
    def settings(self) -> Settings:
        """What the settings file, the environment and the options say."""
        return self.stage.settings()

    @cached_property
    def folder(self) -> Path:
        """The state directory. With `--state` no settings are read for it: a broken file holds no revert up."""
        return self.stage.common.state or self.settings.state

    @property
    def signed(self) -> _Signed:
        """What every step is signed with."""
        from datetime import UTC, datetime

        from spectron_migrate.records import format_time
        from spectron_migrate.state.journal import whoami

        return {"now": format_time(datetime.now(UTC)), "who": whoami(), "reporter": self.stage.reporter}

    @property
    def cutover(self) -> Cutover:
        """The steps that need more than the state directory."""
        from spectron_migrate.cutover.steps import Cutover

        return Cutover(
            self.settings.state,
            lambda: catch_up_settings(self.stage, self.settings),
            max_age_s=self.settings.cutover.max_age_s,
            reporter=self.stage.reporter,
        )

    @property
    def may_ask(self) -> bool:
        """Whether a person sits there."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.stage.common.as_json

    def ask(self, question: str) -> str:
        """A question on stderr, and the answer to it."""
        sys.stderr.write(question)
        sys.stderr.flush()
        return sys.stdin.readline().strip()

    def open_api(self) -> SpectronApi:
        """The wire, told to the person before anything is written."""
        settings = self.settings
        settings.spectron.require()
        self.stage.line(f"Spectron at {settings.spectron.endpoint}, context {settings.spectron.context}")
        return replay.open_api(settings, max_connections=settings.replay.max_in_flight)

    def wired(self, work: Callable[[SpectronApi | None], Awaitable[Stand]]) -> Stand:
        """Work that asks Spectron where its settings are there."""

        async def run() -> Stand:
            from spectron_migrate.errors import InputError, KeyRefused

            try:
                api = self.open_api()
            except (InputError, KeyRefused):
                return await work(None)
            async with api:
                return await work(api)

        return run_loop(run())


def _play(common: Common, step: Callable[[_Player], Stand]) -> int:
    def work(stage: Stage) -> Outcome:
        from spectron_migrate.cutover.overview import next_step
        from spectron_migrate.state.following import is_followed

        player = _Player(stage)
        stand = step(player)
        return Outcome(
            stand.exit_code,
            stand.to_json(),
            lambda console: draw(console, stand),
            migration=stand.state.migration or None,
            next=next_step(stand.state, following=is_followed(player.folder), ready=stand.ready),
        )

    return conduct("cutover", common, work)


def _migration(settings: Settings) -> str:
    """The migration's id: of its ledger, or as the first replay will have it.

    Raises WrongLedger where the ledger is another's, InputError where the settings do not say enough.
    """
    from spectron_migrate.cli.export import mem0_section
    from spectron_migrate.errors import InputError, WrongLedger
    from spectron_migrate.ledger import Ledger, migration_id
    from spectron_migrate.ledger.shards import find
    from spectron_migrate.mem0.open import source_info

    if settings.mem0 is None or settings.spectron.context is None:
        raise InputError(
            "a cutover needs to know which Mem0 and which context it is about",
            hint="set SPECTRON_CONTEXT, and the section `mem0` of spectron-migrate.yaml",
        )
    ours = migration_id(settings.spectron.context, source_info(mem0_section(settings.mem0)).identity)
    try:
        folders = find(settings.state).folders
    except InputError:
        return ours
    with Ledger.open_for_reading(folders[0]) as ledger:
        theirs = ledger.migration()
    if theirs is not None and theirs.id != ours:
        raise WrongLedger(
            f"the ledger in {settings.state} belongs to context {theirs.context}, source {theirs.source}: that is not"
            " what the settings name",
            hint="is --state right? each migration has its own",
        )
    return ours


def draw(console: Console, stand: Stand) -> None:
    """The stand for people."""
    from spectron_migrate.cli.draw import facts, listing, plain

    state = stand.state
    rows: list[tuple[str, object]] = [("phase", state.phase), ("read from Spectron", f"{state.percent:g} % of users")]
    if state.to_spectron or state.to_mem0:
        pinned = f"{counted(len(state.to_spectron), 'user')} to Spectron, {len(state.to_mem0):,} to Mem0"
        rows.append(("pinned", pinned))
    rows += [("began", f"{_shown(state.fence)} UTC")] if state.fence else []
    if stand.reconciled is not None:
        differ = counted(stand.reconciled.differences, "memory differs", "memories differ")
        said = "agree" if stand.reconciled.agree else differ
        rows.append(("Mem0 and the ledger", f"{said}, {counted(stand.reconciled.memories, 'memory')} compared"))
    if stand.privacy is not None and (stand.privacy.deleted or stand.privacy.replaced):
        older = counted(stand.privacy.replaced, "older text")
        told = f"{counted(stand.privacy.deleted, 'memory')}, {older} of others"
        rows.append(("gone from Mem0, still in Spectron", told))
        rows.append(("", f"{stand.privacy.exact:,} can be erased exactly; named in {stand.privacy.path}"))
    console.print(facts(f"Cutover: {stand.note or state.phase}", rows))
    if stand.gates:
        console.print(
            listing(
                "All gates pass" if stand.ready else "Gates",
                ("gate", "value", "limit", ""),
                [(gate.name, _shown(gate.value), _shown(gate.limit), _WORDS[gate.outcome]) for gate in stand.gates],
            )
        )
    for gate in stand.gates:
        if not gate.passed:
            console.print(plain(f"{gate.name}: {gate.hint}"))
        elif gate.accepted_by:
            console.print(plain(f"{gate.name}: accepted by {gate.accepted_by}", style="dim"))
    if stand.ready is False:
        console.print(plain("reads do not move towards Spectron until every gate passes", style="bold"))


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, str) and len(value) == 27 and value.endswith("Z"):
        return f"{value[:10]} {value[11:19]}"  # a time; its microseconds are in the JSON
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


_WORDS = {"passed": "passed", "failed": "FAILED", "inconclusive": "undecided", "incomplete": "NOT COMPLETE"}
