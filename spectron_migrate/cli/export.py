"""`spectron-migrate export`."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectron_migrate.cli import options
from spectron_migrate.cli.conduct import Outcome, Stage, conduct
from spectron_migrate.errors import ExitCode, InputError, Interrupted
from spectron_migrate.records import Filters

if TYPE_CHECKING:
    from rich.console import Console

    from spectron_migrate.migration.export import ExportSummary
    from spectron_migrate.settings import Mem0Settings, Settings

_SHOWN = 10


def command(
    source: Annotated[
        str | None,
        typer.Option("--source", help="oss, platform, server or file, where it isn't plain.", metavar="KIND"),
    ] = None,
    mem0_config: Annotated[
        str | None,
        typer.Option(
            "--mem0-config",
            help="Mem0's own config (JSON or YAML); `default` = what Memory() opens; - = stdin.",
            metavar="FILE",
        ),
    ] = None,
    from_: Annotated[
        list[str] | None, typer.Option("--from", help="Raw Mem0 files or patterns; may be repeated.", metavar="FILE")
    ] = None,
    user: options.UserOption = None,
    agent: options.AgentOption = None,
    run: options.RunOption = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Only what changed since this time: 2026-01-31, or RFC 3339.", metavar="TIME"),
    ] = None,
    history: Annotated[bool, typer.Option("--history", help="Keep Mem0's history in the dump.")] = False,
    dump: Annotated[Path | None, typer.Option("--dump", help="Directory of the dump (dump).", metavar="DIR")] = None,
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Read Mem0 completely, prove it, and write the dump or bring it up to date.

    Nothing of Mem0 is changed, locked or opened for writing.

    Example: spectron-migrate export --mem0-config mem0.yaml
    """

    def work(stage: Stage) -> Outcome:
        if mem0_config is not None and from_:
            raise InputError("--mem0-config and --from name two sources", hint="export them one after the other")
        settings = stage.settings(
            {"mem0.source": source, "mem0.oss.config": mem0_config, "mem0.files": from_ or None, "dump": dump}
        )
        return perform(stage, settings, options.filters(user, agent, run), since=_moment(since), keep_history=history)

    return conduct("export", options.common(config, state, as_json, quiet, verbose), work)


def perform(
    stage: Stage, settings: Settings, filters: Filters, *, since: str | None = None, keep_history: bool = False
) -> Outcome:
    """Run the step; raises InputError where it isn't plain which Mem0 is meant."""
    from datetime import UTC, datetime

    from spectron_migrate.mem0.open import open_reader
    from spectron_migrate.migration.export import run_export

    if settings.mem0 is None:
        raise InputError(
            "which Mem0 is to be read is not said",
            hint="--mem0-config FILE, --from FILE, or the section `mem0` of spectron-migrate.yaml",
        )
    section = mem0_section(settings.mem0)
    with _ended_by_a_signal(settings.dump), open_reader(section, now=datetime.now(UTC)) as reader:
        what = "files" if reader.info.kind == "files" else f"{reader.info.kind} {reader.info.place}"
        stage.line(f"reading {what} into {settings.dump}")
        summary = run_export(
            reader,
            settings.dump,
            filters=filters,
            since=since,
            keep_history=keep_history,
            reporter=stage.reporter,
            clock=lambda: datetime.now(UTC),
        )
    return Outcome(
        summary.exit_code,
        summary.to_json(),
        lambda console: draw(console, summary),
        next=_next(stage, settings, summary),
    )


def _moment(since: str | None) -> str | None:
    """In our spelling; raises InputError for what is no time, because nothing would be newer than it."""
    from spectron_migrate.mem0.times import utc_time

    if since is None:
        return None
    moment, _ = utc_time(since)
    if moment is None:
        raise InputError(
            f"--since is {since!r}, which is no time",
            hint="2026-01-31, or 2026-01-31T12:00:00+02:00",
        )
    return moment


def _next(stage: Stage, settings: Settings, summary: ExportSummary) -> str | None:
    if summary.exit_code != ExitCode.DONE:
        return None
    by_itself = stage.settings().dump == settings.dump
    named = "" if by_itself else f"--dump {shlex.quote(str(settings.dump))} "
    return f"spectron-migrate replay {named}--dry-run"


@contextmanager
def _ended_by_a_signal(dump: Path) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM end the export in order: what it put beside the dump goes away."""

    def stop(number: int, frame: object) -> None:
        raise Interrupted(
            f"interrupted; the dump in {dump} is whole, as it was before or up to date",
            hint="run it again",
            sigterm=number == signal.SIGTERM,
        )

    before = {sent: signal.signal(sent, stop) for sent in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sent, handler in before.items():
            signal.signal(sent, handler)


def mem0_section(mem0: Mem0Settings) -> dict[str, Any]:
    """The settings as the readers take them."""
    match mem0.kind:
        case "oss":
            return {"oss": {"config": mem0.config}}
        case "files":
            return {"files": list(mem0.files)}
        case kind:
            return {kind: {"base_url": mem0.require_base_url(), "api_key": mem0.require_key().reveal()}}


def draw(console: Console, summary: ExportSummary) -> None:
    """The summary for people."""
    from spectron_migrate.cli.draw import facts, listing, number

    rows = [
        ("source", summary.source),
        ("rows the source counts", number(summary.native_count)),
        ("memories in the dump", number(summary.memories)),
        ("users, agents, runs", f"{number(summary.users)}, {number(summary.agents)}, {number(summary.runs)}"),
        ("new", number(summary.new)),
        ("changed", _changed(summary)),
        ("deleted", number(summary.deleted)),
    ]
    if summary.returned:
        rows.append(("returned", f"{number(len(summary.returned))} that were deleted before"))
    if summary.filtered:
        rows.append(("left out by filters", number(summary.filtered)))
    console.print(facts(f"Export: {_proof(summary)}", [*rows, ("dump", summary.dump)]))
    if summary.skipped:
        whole = f", all in {summary.dump}/skipped.jsonl" if summary.skipped_count > _SHOWN else ""
        console.print(
            listing(
                f"Skipped rows: {number(summary.skipped_count)}{whole}",
                ["id", "reason"],
                [(row.id, row.reason) for row in summary.skipped[:_SHOWN]],
            )
        )


def _changed(summary: ExportSummary) -> str:
    if not summary.changed:
        return "0"
    return f"{summary.changed:,} (text {summary.changed_text:,}, metadata or state alone {summary.changed_otherwise:,})"


def _proof(summary: ExportSummary) -> str:
    if not summary.complete:
        return "NOT complete"
    if summary.source == "files":
        return "every row of the files is accounted for"
    return "complete: every row of the source is accounted for"
