"""`spectron-migrate replay --follow`, and the settings of catching up, which the steps of a cutover use too."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from spectron_migrate.cli import replay
from spectron_migrate.cli.conduct import Outcome, Stage, run_loop
from spectron_migrate.cli.export import mem0_section
from spectron_migrate.errors import ExitCode, InputError

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from spectron_migrate.mem0.reader import Reader
    from spectron_migrate.migration.follow import Follow, FollowSummary
    from spectron_migrate.migration.replay import ReplayOptions
    from spectron_migrate.migration.rounds import CatchUpSettings
    from spectron_migrate.settings import Settings


def perform(stage: Stage, settings: Settings, chosen: ReplayOptions) -> Outcome:
    """Run the step; raises InputError for options that following has no use for."""
    from spectron_migrate.migration.follow import Follow

    useless = {
        "--user, --agent and --run": bool(chosen.filters),
        "--limit": chosen.limit is not None,
        "--retry-failed": chosen.retry_failed,
        "--resolve": bool(chosen.resolve),
        "--shard": chosen.shard is not None,
    }
    named = [name for name, given in useless.items() if given]
    if named:
        raise InputError(
            f"--follow brings all of Mem0 along and takes no {', no '.join(named)}",
            hint="run them by themselves; following gives way for that long",
        )
    follow_settings = catch_up_settings(stage, settings, chosen)
    stage.line(f"writing to {settings.spectron.endpoint}, context {settings.spectron.context}")
    settle_s, max_lag_s = follow_settings.settle_s, follow_settings.max_lag_s
    stage.line(
        f"following: a text is sent {settle_s:g} s after it last changed; reads from Spectron are at most"
        f" {max_lag_s:g} s behind Mem0, and users with changes on their way are read from Mem0"
    )
    follow = Follow(follow_settings, reporter=stage.reporter, max_seconds=chosen.max_seconds)
    summary = run_loop(_run(follow, settings, chosen))
    return Outcome(
        summary.exit_code,
        summary.to_json(),
        lambda console: draw(console, summary),
        migration=summary.migration or None,
        next="spectron-migrate status",
    )


async def _run(follow: Follow, settings: Settings, chosen: ReplayOptions) -> FollowSummary:
    import asyncio

    loop = asyncio.get_running_loop()
    for sent, code in ((signal.SIGINT, ExitCode.SIGINT), (signal.SIGTERM, ExitCode.SIGTERM)):
        loop.add_signal_handler(sent, follow.interrupt, code)
    async with replay.open_api(settings, max_connections=chosen.max_in_flight) as api:
        return await follow.run(api)


def catch_up_settings(stage: Stage, settings: Settings, chosen: ReplayOptions | None = None) -> CatchUpSettings:
    """What is caught up; raises InputError where the settings don't say which Mem0, KeyRefused without a key."""
    from spectron_migrate.mapping import load_mapping
    from spectron_migrate.mem0.open import open_reader
    from spectron_migrate.migration.rounds import CatchUpSettings

    settings.spectron.require()
    if settings.mem0 is None:
        raise InputError(
            "which Mem0 is to be followed is not said",
            hint="the section `mem0` of spectron-migrate.yaml says it",
        )
    if settings.mem0.kind == "files":
        raise InputError("files do not change by themselves: there is nothing to follow", hint="name the Mem0 itself")
    section = mem0_section(settings.mem0)

    def open_source(now: datetime) -> Reader:
        return open_reader(section, now=now)

    return CatchUpSettings(
        state=settings.state,
        dump=settings.dump,
        mapping=load_mapping(settings.mapping),
        open_reader=open_source,
        settle_s=settings.cutover.settle_s,
        max_lag_s=settings.cutover.max_lag_s,
        max_in_flight=chosen.max_in_flight if chosen else settings.replay.max_in_flight,
        max_rps=chosen.max_rps if chosen else settings.replay.max_rps,
        into_existing=chosen.into_existing if chosen else False,
        accept_expiry=chosen.accept_expiry if chosen else False,
    )


def draw(console: Console, summary: FollowSummary) -> None:
    """The summary for people."""
    from spectron_migrate.cli.draw import facts, number

    rows: list[tuple[str, object]] = [
        ("rounds", number(summary.rounds)),
        ("Mem0 had new, changed, deleted", f"{summary.new:,}, {summary.changed:,}, {summary.deleted:,}"),
        ("written", number(summary.written)),
        ("late (superseded nothing)", number(summary.late)),
        ("too young to be sent", number(summary.waiting)),
        ("remaining", number(summary.remaining)),
        ("in doubt", number(summary.in_doubt)),
        ("undecidable", number(summary.undecidable)),
        ("refused", number(summary.refused)),
        ("Spectron has all of", summary.as_of or "nothing yet"),
    ]
    console.print(facts(f"Following ended: {summary.ended}", [row for row in rows if row[1] != "0"]))
