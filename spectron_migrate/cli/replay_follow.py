"""`spectron-migrate replay --follow`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from spectron_migrate.cli.opening import catch_up_settings, exporting, open_api
from spectron_migrate.cli.runner import CommandResult, Invocation, run_async
from spectron_migrate.cli.signals import stop_gracefully_with
from spectron_migrate.cli.tables import facts, number
from spectron_migrate.errors import InputError
from spectron_migrate.records import format_time

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.metrics.exporter import Exporter
    from spectron_migrate.migration.follow import Follow
    from spectron_migrate.migration.follow_summary import FollowSummary
    from spectron_migrate.migration.replay_options import ReplayOptions
    from spectron_migrate.settings import Settings


def check_options(option: str, replay_options: ReplayOptions, *, dump: bool, dry_run: bool) -> None:
    """Raise InputError for options that make no sense with `option`: `--follow` or `--late-writers`."""
    if dump or dry_run:
        raise InputError(
            f"{option} reads Mem0 itself: it takes no --dump and no --dry-run",
            hint="the settings say which Mem0 it reads and where its dump is",
        )
    useless = {
        "--user, --agent and --run": bool(replay_options.filters),
        "--limit": replay_options.limit is not None,
        "--retry-failed": replay_options.retry_failed,
        "--adopt": replay_options.adopt,
        "--resolve": bool(replay_options.resolve or replay_options.choices),
    }
    given = [name for name, is_given in useless.items() if is_given]
    if given:
        raise InputError(
            f"{option} writes all of Mem0 and takes no {', no '.join(given)}",
            hint="use them in a replay of its own; following waits until it has ended",
        )


def run(invocation: Invocation, settings: Settings, replay_options: ReplayOptions) -> CommandResult:
    """Follow Mem0 until a signal, a limit or the end of the cutover."""
    from spectron_migrate.cutover.privacy import renew_privacy_report
    from spectron_migrate.migration.follow import Follow

    reporter = invocation.reporter
    catch_up = catch_up_settings(settings, invocation.state, replay_options)
    reporter.info(f"writing to {settings.spectron.endpoint}, context {settings.spectron.context}")
    reporter.info(
        f"following: a text is sent {catch_up.settle_s:g} s after it last changed; reads from Spectron are at most"
        f" {catch_up.max_lag_s:g} s behind Mem0, and users with unsent changes are read from Mem0"
    )

    def renew_privacy() -> None:
        renew_privacy_report(invocation.state, now=format_time(datetime.now(UTC)))

    follow = Follow(catch_up, reporter=reporter, max_seconds=replay_options.max_seconds, after_changes=renew_privacy)
    with exporting(settings, invocation.state, catch_up.mapping.digest, warn=reporter.warn) as exporter:
        summary = run_async(invocation, _follow(follow, settings, replay_options, exporter))
    return CommandResult(
        summary.exit_code,
        summary.to_json(),
        draw(summary),
        migration=summary.migration or None,
        next="spectron-migrate status",
    )


async def _follow(
    follow: Follow, settings: Settings, replay_options: ReplayOptions, exporter: Exporter | None
) -> FollowSummary:
    stop_gracefully_with(follow.interrupt)
    async with open_api(settings, max_connections=replay_options.max_in_flight) as api:
        if exporter is not None:
            exporter.traffic = api.wire.traffic
        return await follow.run(api)


def draw(summary: FollowSummary) -> Iterator[RenderableType]:
    """The counts of all rounds together."""
    rows: list[tuple[str, object]] = [
        ("rounds", number(summary.rounds)),
        ("new, changed, deleted in Mem0", f"{summary.new:,}, {summary.changed:,}, {summary.deleted:,}"),
        ("written", number(summary.written)),
        ("late: superseded nothing", number(summary.late)),
        ("too young to be sent", number(summary.waiting)),
        ("remaining", number(summary.remaining)),
        ("in doubt", number(summary.in_doubt)),
        ("undecidable", number(summary.undecidable)),
        ("refused", number(summary.refused)),
        ("Spectron is complete up to", summary.as_of or "nothing yet"),
    ]
    yield facts(f"Following ended: {summary.ended}", [row for row in rows if row[1] != "0"])
