"""`spectron-migrate replay`."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spectron_migrate.cli import completion, options
from spectron_migrate.cli.conduct import Outcome, Stage, conduct, run_loop
from spectron_migrate.cli.help import LEFT_OVER, PACE
from spectron_migrate.errors import ExitCode, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from spectron_migrate.dump import Dump
    from spectron_migrate.migration.replay import Replay, ReplayOptions, ReplaySummary
    from spectron_migrate.settings import Settings
    from spectron_migrate.spectron.api import SpectronApi


LONGEST = 500
"""Letters of ids that a next command repeats."""


def command(
    dump: options.DumpOption = None,
    mapping: options.MappingOption = None,
    user: options.UserOption = None,
    agent: options.AgentOption = None,
    run: options.RunOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Send at most so many memories.", metavar="N")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only plan: needs no server, writes nothing.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try refused memories once more.", rich_help_panel=LEFT_OVER)
    ] = False,
    resolve: Annotated[
        list[str] | None,
        typer.Option(
            "--resolve",
            help="What you found out about an undecidable memory; may be repeated.",
            metavar="ID=present|absent",
            rich_help_panel=LEFT_OVER,
            autocompletion=completion.undecidable,
        ),
    ] = None,
    into_existing: Annotated[
        bool,
        typer.Option("--into-existing", help="Write also to scopes that were there before.", rich_help_panel=LEFT_OVER),
    ] = False,
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            "--max-in-flight",
            min=1,
            max=1024,
            help="Requests at once, at most (64).",
            metavar="N",
            rich_help_panel=PACE,
        ),
    ] = None,
    max_rps: Annotated[
        float | None,
        typer.Option("--max-rps", min=0.01, help="Requests a second, at most.", metavar="X", rich_help_panel=PACE),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            "--max-seconds",
            min=0.0,
            help="Stop after so many seconds; run it again to go on.",
            metavar="N",
            rich_help_panel=PACE,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            help="Only lanes of part i, from 0, of N; the others run beside it.",
            metavar="i/N",
            rich_help_panel=PACE,
        ),
    ] = None,
    accept_expiry: Annotated[
        bool,
        typer.Option(
            "--accept-expiry",
            help="With `write: batch` and extraction: facts may expire, times are lost.",
            rich_help_panel=LEFT_OVER,
        ),
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on for as long as Mem0 changes, round by round, until stopped.")
    ] = False,
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Write what is not yet in Spectron, oldest first, exactly once; resumes by itself.

    It may be stopped, or killed, at any moment; running it again goes on.

    \b
    Example: spectron-migrate replay --dry-run
             spectron-migrate replay --user alice
             spectron-migrate replay
    """

    def work(stage: Stage) -> Outcome:
        from spectron_migrate.ledger.shards import Shard
        from spectron_migrate.migration.replay import ReplayOptions

        settings = stage.settings({"mapping": mapping})
        chosen = ReplayOptions(
            filters=options.filters(user, agent, run),
            limit=limit,
            retry_failed=retry_failed,
            resolve=_resolutions(resolve or []),
            into_existing=into_existing,
            max_in_flight=max_in_flight or settings.replay.max_in_flight,
            max_rps=max_rps or settings.replay.max_rps,
            max_seconds=max_seconds if max_seconds is not None else settings.replay.max_seconds,
            max_tokens=settings.replay.max_tokens,
            max_refused=settings.replay.max_refused,
            shard=Shard.parse(shard) if shard is not None else None,
            accept_expiry=accept_expiry,
        )
        if follow:
            return _follow(stage, settings, dump, chosen, dry_run=dry_run)
        if not dry_run:
            _say_if_never_probed(stage, settings)
        return perform(stage, settings, dump or [settings.dump], chosen, dry_run=dry_run)

    return conduct("replay", options.common(config, state, as_json, quiet, verbose), work)


def _follow(
    stage: Stage, settings: Settings, dump: list[Path] | None, chosen: ReplayOptions, *, dry_run: bool
) -> Outcome:
    from spectron_migrate.cli import follow

    if dump or dry_run or chosen.shard:
        raise InputError(
            "--follow reads Mem0 itself and serves every shard: it takes no --dump, no --dry-run and no --shard",
            hint="the settings say which Mem0, and which directory its dump lies in",
        )
    return follow.perform(stage, settings, chosen)


def perform(stage: Stage, settings: Settings, dumps: list[Path], chosen: ReplayOptions, *, dry_run: bool) -> Outcome:
    """Run the step."""
    from spectron_migrate.mapping import load_mapping
    from spectron_migrate.migration.replay import Replay

    mapping = load_mapping(settings.mapping)
    with open_dumps(dumps) as dump:
        if dump.complete is False:
            stage.reporter.warn(f"the dump {dump.path} is not complete: what is missing in it will not be written")
        if dump.count == 0:
            raise InputError(f"there is no memory in {', '.join(map(str, dumps))}")
        replay = Replay(settings.state, dump, mapping, chosen, reporter=stage.reporter)
        if dry_run:
            summary = replay.dry_run(context=settings.spectron.context or "")
        else:
            settings.spectron.require()
            stage.line(f"writing to {settings.spectron.endpoint}, context {settings.spectron.context}")
            _say_what_does_not_come_along(stage, settings, dump)
            summary = run_loop(_run(replay, settings, chosen))
    return Outcome(
        summary.exit_code,
        summary.to_json(),
        lambda console: draw(console, summary),
        migration=summary.migration or None,
        next=_next(summary, chosen, _told_apart(stage, settings, dumps)),
    )


def _say_what_does_not_come_along(stage: Stage, settings: Settings, dump: Dump) -> None:
    from spectron_migrate.state.journal import read_journal

    if dump.source.kind != "files" and not read_journal(settings.state).state.under_way:
        stage.line(
            f"what was written to Mem0 after {dump.manifest.scan_began[:19]}Z is not in this dump and does not come"
            " along; for an application at work: cutover start, then replay --follow"
        )


def _say_if_never_probed(stage: Stage, settings: Settings) -> None:
    """What is unpublished differs from server to server: better tried with five memories than with a million."""
    from spectron_migrate.ledger import Ledger, probes

    context = settings.spectron.context
    if context is not None and (settings.state / "ledger.db").exists():
        with Ledger.open_for_reading(settings.state) as ledger:
            if probes.probe_answers(ledger, context, settings.spectron.endpoint):
                return
    stage.reporter.warn("this Context was never probed: spectron-migrate doctor --probe tries it with a few memories")


def _resolutions(words: list[str]) -> dict[str, Literal["present", "absent"]]:
    found: dict[str, Literal["present", "absent"]] = {}
    for word in words:
        mem0_id, _, answer = word.rpartition("=")
        if not mem0_id or answer not in ("present", "absent"):
            raise InputError(
                f"--resolve is {word}, it must be ID=present or ID=absent",
                hint="spectron-migrate status names the memories that wait for an answer",
            )
        found[mem0_id] = "present" if answer == "present" else "absent"
    return found


def open_dumps(paths: list[Path]) -> Dump:
    """A dump directory or raw files; raises InputError naming what isn't there."""
    from spectron_migrate.dump import open_any

    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError.of_all(
            [f"there is no dump at {path}" for path in missing],
            hint="spectron-migrate export makes one; --dump takes any raw Mem0 file too",
        )
    return open_any(paths)


def open_api(settings: Settings, *, max_connections: int) -> SpectronApi:
    """The wire, as the settings say; raises InputError or KeyRefused for what is missing."""
    from spectron_migrate.spectron.api import SpectronApi

    access = settings.spectron.require()
    return SpectronApi(
        access.endpoint,
        access.context,
        api_key=access.api_key.reveal(),
        timeout_s=access.timeout_s,
        max_connections=max_connections,
    )


async def _run(replay: Replay, settings: Settings, chosen: ReplayOptions) -> ReplaySummary:
    import asyncio

    loop = asyncio.get_running_loop()
    for sent, code in ((signal.SIGINT, ExitCode.SIGINT), (signal.SIGTERM, ExitCode.SIGTERM)):
        loop.add_signal_handler(sent, replay.interrupt, code)
    async with open_api(settings, max_connections=chosen.max_in_flight) as api:
        return await replay.run(api)


def _told_apart(stage: Stage, settings: Settings, dumps: list[Path]) -> list[str]:
    """The options that say what the settings alone do not: the next command needs them too."""
    alone = stage.settings()
    words = [] if dumps == [alone.dump] else [word for path in dumps for word in ("--dump", str(path))]
    return words if settings.mapping == alone.mapping else [*words, "--mapping", str(settings.mapping)]


def _chosen_part(chosen: ReplayOptions) -> list[str]:
    filters = chosen.filters
    asked = (("--user", filters.users), ("--agent", filters.agents), ("--run", filters.runs))
    words = [word for option, ids in asked for each in sorted(ids) for word in (option, each)]
    return words if chosen.limit is None else [*words, "--limit", str(chosen.limit)]


def _next(summary: ReplaySummary, chosen: ReplayOptions, named: list[str]) -> str | None:
    shard = ["--shard", str(chosen.shard)] if chosen.shard else []
    again = shlex.join(["spectron-migrate", "replay", *named, *shard])
    part = shlex.join(_chosen_part(chosen))
    if summary.dry_run:
        return f"{again} {part}".rstrip() if len(part) <= LONGEST else None
    if summary.exit_code == ExitCode.DONE and part:
        return again  # what was left out
    if summary.exit_code == ExitCode.DONE:
        return "spectron-migrate status" if shard else shlex.join(["spectron-migrate", "dual-verify", *named])
    if summary.exit_code in (ExitCode.SIGINT, ExitCode.SIGTERM, ExitCode.UNREACHABLE, ExitCode.LIMIT):
        return again
    return "spectron-migrate status"


def draw(console: Console, summary: ReplaySummary) -> None:
    """The summary for people."""
    from spectron_migrate.cli import draw_replay

    for part in draw_replay.draw(summary):
        console.print(part)
