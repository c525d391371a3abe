"""`spectron-migrate erase`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli import completion, options
from spectron_migrate.cli.conduct import Outcome, Stage, conduct, run_loop
from spectron_migrate.errors import ExitCode, NotConfirmed
from spectron_migrate.records import counted

if TYPE_CHECKING:
    from rich.console import Console

    from spectron_migrate.migration.erase import Erasable, Eraser
    from spectron_migrate.settings import Settings


def command(
    migration: Annotated[
        str,
        typer.Option(
            "--migration",
            help="The migration's id, as status shows it.",
            metavar="ID",
            autocompletion=completion.migrations,
        ),
    ],
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            help="Scope to erase with all below it; may be repeated.",
            metavar="PATH",
            autocompletion=completion.scopes,
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look: nothing is erased.")] = False,
    yes: Annotated[
        list[str] | None, typer.Option("--yes", help="Confirm: repeat each scope; may be repeated.", metavar="PATH")
    ] = None,
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Take back what a replay wrote to a scope, where that hits nothing of anybody else.

    Afterwards the memories are planned again: the next replay writes them anew.

    \b
    Example: spectron-migrate erase --migration 387bc241adff8ede --scope user/alice --dry-run
             spectron-migrate erase --migration 387bc241adff8ede --scope user/alice --yes user/alice
    """

    def work(stage: Stage) -> Outcome:
        settings = stage.settings()
        settings.spectron.require()
        return run_loop(_run(stage, settings, migration, scope, yes or [], dry_run=dry_run))

    return conduct("erase", options.common(config, state, as_json, quiet, verbose), work)


async def _run(
    stage: Stage, settings: Settings, migration: str, scopes: list[str], yes: list[str], *, dry_run: bool
) -> Outcome:
    from spectron_migrate.cli.replay import open_api
    from spectron_migrate.ledger import Ledger
    from spectron_migrate.ledger.shards import find
    from spectron_migrate.migration.erase import CANNOT_SEE, Eraser
    from spectron_migrate.records import format_time

    where = f"{settings.spectron.endpoint}, context {settings.spectron.context}"
    stage.line(f"{'looking at' if dry_run else 'erasing in'} {where}: {', '.join(scopes)}")
    forgotten = 0
    with ExitStack() as open_things:
        folders = find(settings.state).complete().folders
        ledgers = [open_things.enter_context(Ledger.open_for_writing(folder, create=False)) for folder in folders]
        async with open_api(settings, max_connections=4) as api:
            eraser = Eraser(
                ledgers,
                api,
                settings.state,
                migration=migration,
                now=format_time(datetime.now(UTC)),
                reporter=stage.reporter,
            )
            found = await eraser.examine(scopes)
            stage.reporter.warn(CANNOT_SEE)
            if not dry_run:
                forgotten = await _confirmed(eraser, found, yes, where)
    body = {
        "scopes": [one.to_json() for one in found],
        "erased": not dry_run,
        "forgotten": forgotten,
        "dry_run": dry_run,
        "cannot_see": CANNOT_SEE,
    }
    return Outcome(
        ExitCode.DONE,
        body,
        lambda console: draw(console, found, dry_run=dry_run, forgotten=forgotten),
        migration=migration,
        next=None if dry_run else "spectron-migrate replay",
    )


async def _confirmed(eraser: Eraser, found: Sequence[Erasable], yes: Sequence[str], where: str) -> int:
    """Erase what was confirmed, scope by scope; raises NotConfirmed before the first where one is not."""
    given = {path.strip("/") for path in yes}
    for one in found:
        if one.path not in given and not _asked(one, where):
            raise NotConfirmed(
                f"scope {one.path} was not confirmed, nothing was erased", hint=f"repeat it: --yes {one.path}"
            )
    return await eraser.carry_out(found)


def _asked(one: Erasable, where: str) -> bool:
    """Only on a terminal: a script confirms with `--yes`."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    below = f" and {counted(len(one.nodes), 'scope')} below it" if one.nodes else ""
    sys.stderr.write(
        f"This erases scope {one.path}{below} in {where} for good: {counted(one.memories, 'memory')},"
        f" {counted(one.turns, 'turn')}.\n"
        f"Type the scope to confirm: "
    )
    sys.stderr.flush()
    return sys.stdin.readline().strip().strip("/") == one.path


def draw(console: Console, found: Sequence[Erasable], *, dry_run: bool, forgotten: int) -> None:
    """What goes, or went."""
    from spectron_migrate.cli.draw import listing, number

    title = "Would be erased, exactly" if dry_run else f"Erased: {counted(forgotten, 'row')}; the empty scopes stay"
    rows = [
        (one.path, number(len(one.nodes)), number(one.memories), number(len(one.sessions)), number(one.turns))
        for one in found
    ]
    console.print(listing(title, ["scope", "scopes below", "memories", "sessions", "turns"], rows))
