"""`spectron-migrate export`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli.opening import mem0_section
from spectron_migrate.cli.options import (
    AgentOption,
    GlobalOptions,
    RunOption,
    UserOption,
    read_filters,
    with_global_options,
)
from spectron_migrate.cli.runner import CommandResult, Invocation, run_command
from spectron_migrate.cli.signals import interrupted
from spectron_migrate.cli.tables import facts, listing, number
from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.records import Filters

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.migration.export import ExportSummary
    from spectron_migrate.settings import Settings

SHOWN = 10
"""The most skipped rows that the summary lists."""


@with_global_options
def command(
    options: GlobalOptions,
    source: Annotated[
        str | None,
        typer.Option("--source", help="oss, platform, server or file, if it is ambiguous.", metavar="KIND"),
    ] = None,
    mem0_config: Annotated[
        str | None,
        typer.Option(
            "--mem0-config",
            help="Mem0's own config (JSON or YAML); `default`: what Memory() opens; -: standard input.",
            metavar="FILE",
        ),
    ] = None,
    from_: Annotated[
        list[str] | None, typer.Option("--from", help="Raw Mem0 files or patterns; may be repeated.", metavar="FILE")
    ] = None,
    user: UserOption = None,
    agent: AgentOption = None,
    run_id: RunOption = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Only memories changed since this time: 2026-01-31, or RFC 3339.", metavar="TIME"),
    ] = None,
    history: Annotated[bool, typer.Option("--history", help="Keep Mem0's history in the dump.")] = False,
    dump: Annotated[Path | None, typer.Option("--dump", help="Directory of the dump (dump).", metavar="DIR")] = None,
) -> int:
    """Read Mem0 completely, verify the count, and write the dump or bring it up to date.

    It changes nothing in Mem0, locks nothing and opens nothing for writing.

    Example: spectron-migrate export --mem0-config mem0.yaml
    """

    def run_with_options(invocation: Invocation) -> CommandResult:
        if mem0_config is not None and from_:
            raise InputError("--mem0-config and --from name two sources", hint="export them one after the other")
        settings = invocation.settings(
            {"mem0.source": source, "mem0.oss.config": mem0_config, "mem0.files": from_ or None, "dump": dump}
        )
        if settings.dump != invocation.settings().dump:
            invocation.carry("--dump", settings.dump)
        filters = read_filters(user, agent, run_id, dumps=[settings.dump])
        return run(invocation, settings, filters, since=_parse_since(since), keep_history=history)

    return run_command("export", options, run_with_options)


def _parse_since(since: str | None) -> str | None:
    """The time in the spelling of a dump. Raises InputError for anything else, because then nothing would be newer."""
    from spectron_migrate.mem0.times import utc_time

    if since is None:
        return None
    time, _ = utc_time(since)
    if time is None:
        raise InputError(
            f"--since is {since!r}, which is not a time", hint="write 2026-01-31, or 2026-01-31T12:00:00+02:00"
        )
    return time


def run(
    invocation: Invocation,
    settings: Settings,
    filters: Filters,
    *,
    since: str | None = None,
    keep_history: bool = False,
) -> CommandResult:
    """Export the Mem0 of the settings; raises InputError if they name none."""
    from spectron_migrate.dump.exported_with import remember_config
    from spectron_migrate.mem0.open import open_reader
    from spectron_migrate.migration.export import run_export

    if settings.mem0 is None:
        raise InputError(
            "no Mem0 is named that could be read",
            hint="--mem0-config FILE, --from FILE, or the section `mem0` of spectron-migrate.yaml",
        )
    try:
        with open_reader(mem0_section(settings.mem0), now=datetime.now(UTC)) as reader:
            what = "files" if reader.info.kind == "files" else f"{reader.info.kind} {reader.info.place}"
            invocation.reporter.info(f"reading {what} into {settings.dump}")
            summary = run_export(
                reader,
                settings.dump,
                filters=filters,
                since=since,
                keep_history=keep_history,
                reporter=invocation.reporter,
                clock=lambda: datetime.now(UTC),
            )
    except KeyboardInterrupt:
        raise interrupted(
            f"interrupted; the dump in {settings.dump} is whole: as it was before, or up to date", hint="run it again"
        ) from None
    remember_config(settings.dump, settings.mem0.config if settings.mem0.kind == "oss" else None)
    return CommandResult(summary.exit_code, summary.to_json(), draw(summary), next=_next(invocation, summary))


def _next(invocation: Invocation, summary: ExportSummary) -> str | None:
    """What a migration does next with the dump. After `complete`, a state without a ledger, or a backup, adopts."""
    from spectron_migrate.ledger import Ledger
    from spectron_migrate.ledger.read.adoption_steps import backup_of
    from spectron_migrate.state.journal import read_journal

    if summary.exit_code != ExitCode.DONE:
        return None
    state = invocation.state
    if state.folder is None or read_journal(state).state.phase != "complete":
        return "spectron-migrate replay --dry-run"
    if Ledger.exists(state):
        with Ledger.open_for_reading(state) as ledger:
            if backup_of(ledger) is None:
                return "spectron-migrate cutover check"
    return "spectron-migrate replay --dry-run --adopt"


def draw(summary: ExportSummary) -> Iterator[RenderableType]:
    """The counts, then the rows that were skipped."""
    rows: list[tuple[str, object]] = [
        ("source", summary.source),
        ("rows the source counts", number(summary.native_count)),
        ("memories in the dump", number(summary.memories)),
        ("users, agents, runs", f"{number(summary.users)}, {number(summary.agents)}, {number(summary.runs)}"),
        ("new", number(summary.new)),
        ("changed", _changed(summary)),
        ("deleted", number(summary.deleted)),
    ]
    if summary.returned:
        rows.append(("returned", f"{number(len(summary.returned))} that had been deleted"))
    if summary.relations:
        rows.append(("graph relations, not moved", number(summary.relations)))
    if summary.filtered:
        rows.append(("left out by filters", number(summary.filtered)))
    yield facts(f"Export: {_completeness(summary)}", [*rows, ("dump", summary.dump)])
    if summary.skipped:
        rest = f", all in {summary.dump}/skipped.jsonl" if summary.skipped_count > SHOWN else ""
        yield listing(
            f"Skipped rows: {number(summary.skipped_count)}{rest}",
            ["id", "reason"],
            [(row.id, row.reason) for row in summary.skipped[:SHOWN]],
        )


def _changed(summary: ExportSummary) -> str:
    if not summary.changed:
        return "0"
    return f"{summary.changed:,} (text {summary.changed_text:,}, only metadata or state {summary.changed_otherwise:,})"


def _completeness(summary: ExportSummary) -> str:
    if summary.complete is False:
        return "NOT complete"
    if summary.complete is None:
        return "done; not provable that nothing is missing"
    if summary.source == "files":
        return "complete: every total that the files announce was met"
    return "complete: every row of the source is accounted for"
