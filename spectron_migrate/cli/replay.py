"""`spectron-migrate replay`. `replay_plan.py` draws what `--dry-run` shows, `replay_follow.py` runs `--follow`,
`replay_late_writers.py` runs `--late-writers`, `replay_preview.py` runs `--preview`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spectron_migrate.cli import (
    completion,
    replay_adopt,
    replay_follow,
    replay_late_writers,
    replay_preview,
    replay_screen,
)
from spectron_migrate.cli.opening import exporting, open_api, open_dump
from spectron_migrate.cli.options import (
    PACE,
    REMAINDER,
    AgentOption,
    DumpOption,
    GlobalOptions,
    MappingOption,
    RunOption,
    UserOption,
    read_filters,
    with_global_options,
)
from spectron_migrate.cli.runner import CommandResult, Invocation, run_async, run_command
from spectron_migrate.cli.signals import stop_gracefully_with
from spectron_migrate.errors import ExitCode, InputError, MigrateError

if TYPE_CHECKING:
    from spectron_migrate.dump import Dump
    from spectron_migrate.mapping import ScopeMapping
    from spectron_migrate.metrics.exporter import Exporter
    from spectron_migrate.migration.replay import Replay
    from spectron_migrate.migration.replay_options import ReplayOptions
    from spectron_migrate.migration.replay_summary import ReplaySummary
    from spectron_migrate.settings import Settings

LONGEST = 500
"""The most characters of ids that the next command repeats."""


@with_global_options
def command(
    options: GlobalOptions,
    dump: DumpOption = None,
    mapping: MappingOption = None,
    user: UserOption = None,
    agent: AgentOption = None,
    run_id: RunOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Send at most this many memories.", metavar="N")
    ] = None,
    preview: Annotated[
        int | None,
        typer.Option(
            "--preview",
            min=1,
            max=1000,
            help="Only show what Spectron would make of N memories; stores nothing, costs tokens.",
            metavar="N",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only plan: needs no server, writes nothing.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Send refused memories again.", rich_help_panel=REMAINDER)
    ] = False,
    resolve: Annotated[
        list[str] | None,
        typer.Option(
            "--resolve",
            help="Decide about a memory: whether an undecidable one is in Spectron, or whether the text of a"
            " pending one is newer. If several of its texts are undecidable, ID@2=… is the second. May be repeated.",
            metavar="ID=present|absent|newer|older",
            rich_help_panel=REMAINDER,
            autocompletion=completion.undecidable,
        ),
    ] = None,
    into_existing: Annotated[
        bool,
        typer.Option("--into-existing", help="Also write to scopes that existed before.", rich_help_panel=REMAINDER),
    ] = False,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt",
            help="The ledger or the server was lost, restored or copied: look for each memory on the server before it"
            " is written.",
            rich_help_panel=REMAINDER,
        ),
    ] = False,
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            "--max-in-flight",
            min=1,
            max=1024,
            help="Maximum number of concurrent requests (64).",
            metavar="N",
            rich_help_panel=PACE,
        ),
    ] = None,
    max_rps: Annotated[
        float | None,
        typer.Option(
            "--max-rps", min=0.01, help="Maximum number of requests per second.", metavar="X", rich_help_panel=PACE
        ),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            "--max-seconds",
            min=0.0,
            help="Stop after this many seconds; run it again to continue.",
            metavar="N",
            rich_help_panel=PACE,
        ),
    ] = None,
    accept_expiry: Annotated[
        bool,
        typer.Option(
            "--accept-expiry",
            help="Allow `write: batch` with extraction, though facts may expire and lose their times.",
            rich_help_panel=REMAINDER,
        ),
    ] = False,
    late_writers: Annotated[
        bool,
        typer.Option(
            "--late-writers",
            help="After `cutover complete`: write what was still written to Mem0; it supersedes nothing.",
            rich_help_panel=REMAINDER,
        ),
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep writing what changes in Mem0, round by round, until stopped.")
    ] = False,
) -> int:
    """Write what is not yet in Spectron, oldest first, exactly once.

    It can be stopped or killed at any moment: run it again and it continues.

    \b
    Example: spectron-migrate replay --dry-run
             spectron-migrate replay --user alice
             spectron-migrate replay
    """

    def run_with_options(invocation: Invocation) -> CommandResult:
        from spectron_migrate.migration.replay_options import ReplayOptions

        settings = invocation.settings({"mapping": mapping})
        _carry(invocation, settings, dump or [settings.dump])
        invocation.carry("--max-in-flight", max_in_flight)
        invocation.carry("--max-rps", None if max_rps is None else f"{max_rps:g}")
        resolutions, choices = _parse_resolutions(resolve or [])
        replay_options = ReplayOptions(
            filters=read_filters(user, agent, run_id, dumps=dump or [settings.dump]),
            limit=limit,
            retry_failed=retry_failed,
            resolve=resolutions,
            choices=choices,
            into_existing=into_existing,
            adopt=adopt,
            max_in_flight=max_in_flight or settings.replay.max_in_flight,
            max_rps=max_rps or settings.replay.max_rps,
            max_seconds=max_seconds if max_seconds is not None else settings.replay.max_seconds,
            max_tokens=settings.replay.max_tokens,
            max_refused=settings.replay.max_refused,
            accept_expiry=accept_expiry,
            called_with=tuple(invocation.carried),
        )
        if preview is not None and (dry_run or follow or late_writers):
            raise InputError("--preview goes with none of --dry-run, --follow and --late-writers")
        dumps = dump or [settings.dump]
        if late_writers and follow:
            raise InputError("--late-writers is for after `cutover complete`, --follow for before it")
        if late_writers or follow:
            option = "--late-writers" if late_writers else "--follow"
            replay_follow.check_options(option, replay_options, dump=bool(dump), dry_run=dry_run)
        elif not dry_run:
            _warn_if_never_probed(invocation, settings)
        try:
            if late_writers:
                return replay_late_writers.run(invocation, settings, replay_options)
            if follow:
                return replay_follow.run(invocation, settings, replay_options)
            if not dump and not dry_run and preview is None and _is_planned_elsewhere(invocation, settings):
                return _deliver(invocation, settings, None, replay_options)
            return run(invocation, settings, dumps, replay_options, dry_run=dry_run, preview=preview)
        except MigrateError as error:
            error.hint = replay_adopt.name_adoption(invocation, error.hint)
            raise

    return run_command("replay", options, run_with_options)


def _parse_resolutions(
    words: list[str],
) -> tuple[dict[str, Literal["present", "absent"]], dict[str, Literal["newer", "older"]]]:
    """Answers about undecidable memories, and about pending ones."""
    resolutions: dict[str, Literal["present", "absent"]] = {}
    choices: dict[str, Literal["newer", "older"]] = {}
    for word in words:
        mem0_id, _, answer = word.rpartition("=")
        match mem0_id and answer:
            case "present" | "absent" as outcome:
                resolutions[mem0_id] = outcome
            case "newer" | "older" as choice:
                choices[mem0_id] = choice
            case _:
                raise InputError(
                    f"--resolve is {word}, it must be ID=present, ID=absent, ID=newer or ID=older",
                    hint="spectron-migrate status names the memories that wait for an answer",
                )
    return resolutions, choices


def run(
    invocation: Invocation,
    settings: Settings,
    dumps: list[Path],
    replay_options: ReplayOptions,
    *,
    dry_run: bool,
    preview: int | None = None,
) -> CommandResult:
    """Replay the dumps, or only plan it; raises InputError if they contain no memory."""
    from spectron_migrate.dump.manifest import describe_relations
    from spectron_migrate.mapping import load_mapping
    from spectron_migrate.mapping.unused import describe_unused

    mapping = load_mapping(settings.mapping)
    reporter = invocation.reporter
    beside = [Path(), *([settings.file.parent] if settings.file else [])]
    for text in describe_unused(beside, mapping, settings.mapping):
        reporter.warn(text)
    with open_dump(dumps) as dump:
        if dump.complete is False:
            reporter.warn(f"the dump {dump.path} is not complete: memories missing in it will not be written")
        elif dump.complete is None and not dump.raw:
            reporter.warn(f"nothing shows that the dump {dump.path} is complete, and nothing that it is not")
        if dump.relations:
            reporter.warn(describe_relations(dump.relations))
        if dump.count == 0:
            raise InputError(f"there is no memory in {', '.join(map(str, dumps))}")
        if preview is not None:
            again = shlex.join(["spectron-migrate", "replay", *_filter_options(replay_options)])
            return replay_preview.run(invocation, settings, dump, mapping, replay_options, most=preview, replay=again)
        if not dry_run:
            return _deliver(invocation, settings, dump, replay_options)
        return _forecast(invocation, settings, dump, mapping, replay_options)


def _forecast(
    invocation: Invocation, settings: Settings, dump: Dump, mapping: ScopeMapping, replay_options: ReplayOptions
) -> CommandResult:
    """Plan the dump without sending anything."""
    from spectron_migrate.migration.dry_run import DryRun

    dry_run = DryRun(invocation.state, dump, mapping, replay_options, reporter=invocation.reporter)
    return _result(dry_run.run(context=settings.spectron.context or ""), replay_options)


def _is_planned_elsewhere(invocation: Invocation, settings: Settings) -> bool:
    """Whether there is no dump here, but a ledger that other hosts share has a plan, so that none is needed."""
    from spectron_migrate.ledger import Ledger

    return invocation.state.folder is None and not settings.dump.exists() and Ledger.exists(invocation.state)


def _deliver(
    invocation: Invocation, settings: Settings, dump: Dump | None, replay_options: ReplayOptions
) -> CommandResult:
    """Deliver the dump or, without one, what is planned."""
    from spectron_migrate.mapping import load_mapping
    from spectron_migrate.migration.replay import Replay
    from spectron_migrate.state.journal import read_journal

    mapping, reporter = load_mapping(settings.mapping), invocation.reporter
    replay = Replay(invocation.state, dump, mapping, replay_options, reporter=reporter)
    settings.spectron.require()
    reporter.info(f"writing to {settings.spectron.endpoint}, context {settings.spectron.context}")
    if dump is None:
        reporter.info(f"no dump at {settings.dump}: this delivers what is planned in {invocation.state}")
    else:
        _mention_later_writes(invocation, settings, dump)
    with exporting(settings, invocation.state, mapping.digest, warn=reporter.warn) as exporter:
        summary = run_async(invocation, _replay(replay, settings, replay_options, exporter))
    return _result(summary, replay_options, complete=read_journal(invocation.state).state.phase == "complete")


def _result(summary: ReplaySummary, replay_options: ReplayOptions, *, complete: bool = False) -> CommandResult:
    """`complete`: whether the cutover is complete, after which nothing is verified."""
    return CommandResult(
        summary.exit_code,
        summary.to_json(),
        replay_screen.draw(summary),
        migration=summary.migration or None,
        next=_next(summary, replay_options, complete=complete),
    )


async def _replay(
    replay: Replay, settings: Settings, replay_options: ReplayOptions, exporter: Exporter | None
) -> ReplaySummary:
    stop_gracefully_with(replay.interrupt)
    async with open_api(settings, max_connections=replay_options.max_in_flight) as api:
        if exporter is not None:
            exporter.traffic = api.wire.traffic
        return await replay.run(api)


def _mention_later_writes(invocation: Invocation, settings: Settings, dump: Dump) -> None:
    from spectron_migrate.state.journal import read_journal

    cutover = read_journal(invocation.state).state
    if dump.source.kind != "files" and not cutover.is_under_way:
        way = "replay --late-writers" if cutover.phase == "complete" else "cutover start, then replay --follow"
        invocation.reporter.info(
            f"this dump contains nothing that was written to Mem0 after {dump.manifest.scan_began[:19]}Z;"
            f" for an application that keeps writing: {way}"
        )


def _warn_if_never_probed(invocation: Invocation, settings: Settings) -> None:
    """Servers differ in what is not documented.

    It is better to test that with five memories than with a million. This is shown before the first run; after it,
    `status` shows whether there was a probe.
    """
    from spectron_migrate.ledger import Ledger, probes, runs

    context = settings.spectron.context
    if context is not None and Ledger.exists(invocation.state):
        with Ledger.open_for_reading(invocation.state) as ledger:
            if probes.probe_answers(ledger, context, settings.spectron.endpoint) or runs.last_run(ledger) is not None:
                return
    invocation.reporter.warn(
        "this Context was never probed: spectron-migrate doctor --probe tests it with a few memories"
    )


def _carry(invocation: Invocation, settings: Settings, dumps: list[Path]) -> None:
    """Carry over to the next command the options by which this run differs from the settings."""
    defaults = invocation.settings()
    if dumps != [defaults.dump]:
        invocation.carry("--dump", *dumps)
    if settings.mapping != defaults.mapping:
        invocation.carry("--mapping", settings.mapping)


def _filter_options(replay_options: ReplayOptions) -> list[str]:
    filters = replay_options.filters
    by_option = (("--user", filters.users), ("--agent", filters.agents), ("--run", filters.runs))
    words = [word for option, ids in by_option for each in sorted(ids) for word in (option, each)]
    return words if replay_options.limit is None else [*words, "--limit", str(replay_options.limit)]


def _next(summary: ReplaySummary, replay_options: ReplayOptions, *, complete: bool) -> str | None:
    again = "spectron-migrate replay"
    filters = shlex.join(_filter_options(replay_options))
    if summary.dry_run:
        again = f"{again} --adopt" if replay_options.adopt else again
        return f"{again} {filters}".rstrip() if len(filters) <= LONGEST else None
    if summary.exit_code == ExitCode.DONE and filters:
        return again  # for the memories that filters left out
    if summary.exit_code == ExitCode.DONE and complete:
        return "spectron-migrate cutover check"
    if summary.exit_code == ExitCode.DONE:
        return "spectron-migrate dual-verify"
    if summary.exit_code in (ExitCode.SIGINT, ExitCode.SIGTERM, ExitCode.UNREACHABLE, ExitCode.LIMIT):
        return f"{again} --adopt" if replay_options.adopt and not replay_adopt.is_finished(summary) else again
    return "spectron-migrate status"
