"""`spectron-migrate replay --preview N`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from spectron_migrate.cli.opening import open_api
from spectron_migrate.cli.runner import CommandResult, Invocation, run_async
from spectron_migrate.cli.tables import facts, listing, number, plain, without_zeros
from spectron_migrate.errors import ExitCode
from spectron_migrate.records import format_time

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.dump import Dump
    from spectron_migrate.mapping import ScopeMapping
    from spectron_migrate.migration.preview import PreviewSummary
    from spectron_migrate.migration.replay_options import ReplayOptions
    from spectron_migrate.settings import Settings

TEXT = 40
"""The most characters of a text in the table."""


def run(
    invocation: Invocation,
    settings: Settings,
    dump: Dump,
    mapping: ScopeMapping,
    options: ReplayOptions,
    *,
    most: int,
    replay: str,
) -> CommandResult:
    """Preview some memories; `replay` is the command that writes them."""
    settings.spectron.require()
    where = f"{settings.spectron.endpoint}, context {settings.spectron.context}"
    invocation.reporter.info(f"asking {where} for previews: they cost tokens and store nothing")
    summary = run_async(invocation, _preview(invocation, settings, dump, mapping, options, most))
    return CommandResult(ExitCode.DONE, summary.to_json(), draw(summary), next=replay)


async def _preview(
    invocation: Invocation, settings: Settings, dump: Dump, mapping: ScopeMapping, options: ReplayOptions, most: int
) -> PreviewSummary:
    from spectron_migrate.migration.preview import preview_plan

    async with open_api(settings, max_connections=options.max_in_flight) as api:
        return await preview_plan(
            invocation.state,
            dump,
            mapping,
            options.filters,
            api,
            most=most,
            now=format_time(datetime.now(UTC)),
            reporter=invocation.reporter,
        )


def draw(summary: PreviewSummary) -> Iterator[RenderableType]:
    """A row for each memory, then what all of them would cost."""
    from spectron_migrate.migration.preview import describe

    rows = [
        (
            plain(row.text, width=TEXT),
            row.refused or "; ".join((*row.attributes, *row.relations)) or "; ".join(row.entities) or "nothing",
            "; ".join(row.corrections),
            number(row.tokens),
        )
        for row in summary.rows
    ]
    if rows:
        yield listing("What Spectron would make of them", ("text", "facts", "corrects", "tokens"), rows)
    if not summary.of:
        yield plain(f"Preview: {describe(summary)}", style="bold")
        return
    estimate, low, high = summary.extrapolated()
    found = summary.to_json()
    stated = summary.is_stated
    source = "as the server says" if stated else "estimated at the upper end"
    interval = f"{number(low)} to {number(high)}" + (
        " at 95 %" if stated else " by their texts: the server does not say"
    )
    yield facts(
        f"Preview: {describe(summary)}",
        without_zeros(
            [
                ("give nothing", number(found["nothing"])),
                ("refused", number(found["refused"])),
                ("in scopes that do not exist yet", number(summary.without_scope)),
                ("tokens of these", f"{number(summary.tokens)}, {source}"),
                ("tokens of all", f"{number(estimate)} ({interval})"),
            ],
            keep=("tokens of these", "tokens of all"),
        ),
    )
