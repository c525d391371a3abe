"""`spectron-migrate erase`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli import completion
from spectron_migrate.cli.migration_state import carry_last_replay
from spectron_migrate.cli.opening import open_api
from spectron_migrate.cli.options import GlobalOptions, with_global_options
from spectron_migrate.cli.runner import CommandResult, Invocation, run_async, run_command
from spectron_migrate.cli.tables import listing, number
from spectron_migrate.errors import ExitCode, NotConfirmed
from spectron_migrate.records import counted, format_time

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.migration.erase import Erasable, Eraser


@with_global_options
def command(
    options: GlobalOptions,
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
            help="Scope to erase, with every scope below it; may be repeated.",
            metavar="PATH",
            autocompletion=completion.scopes,
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be erased; erase nothing.")] = False,
    yes: Annotated[
        list[str] | None,
        typer.Option("--yes", help="Confirm a scope by repeating it; may be repeated.", metavar="PATH"),
    ] = None,
) -> int:
    """Remove what a replay wrote to a scope, where nothing else is stored there.

    It refuses a scope with 50 passages (pieces of text) or more. It refuses every scope while `replay --follow` runs,
    during a cutover until `cutover abort`, and for good once a read was shifted to Spectron.

    Afterwards its memories are planned again: the next replay writes them again.

    \b
    Example: spectron-migrate erase --migration 387bc241adff8ede --scope user/alice --dry-run
             spectron-migrate erase --migration 387bc241adff8ede --scope user/alice --yes user/alice
    """
    return run_command(
        "erase", options, lambda invocation: run(invocation, migration, scope, confirmed=yes or [], dry_run=dry_run)
    )


def run(
    invocation: Invocation, migration: str, scopes: list[str], *, confirmed: list[str], dry_run: bool
) -> CommandResult:
    """Examine the scopes and erase those that are confirmed.

    If any is not, raises NotConfirmed before the first erase.
    """
    return run_async(invocation, _erase(invocation, migration, scopes, confirmed, dry_run=dry_run))


async def _erase(
    invocation: Invocation, migration: str, scopes: list[str], confirmed: list[str], *, dry_run: bool
) -> CommandResult:
    from spectron_migrate.ledger import Ledger
    from spectron_migrate.ledger.runs import last_runs
    from spectron_migrate.migration.erase import CANNOT_SEE, Eraser

    settings = invocation.settings()
    settings.spectron.require()
    reporter = invocation.reporter
    server = f"{settings.spectron.endpoint}, context {settings.spectron.context}"
    reporter.info(f"{'looking at' if dry_run else 'erasing in'} {server}: {', '.join(scopes)}")
    forgotten = 0
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger.open_for_writing(invocation.state, create=False))
        async with open_api(settings, max_connections=4) as api:
            now = format_time(datetime.now(UTC))
            eraser = Eraser(ledger, api, invocation.state, migration=migration, now=now, reporter=reporter)
            erasable = await eraser.examine(scopes)
            reporter.warn(f"cannot be seen, and {'would' if dry_run else 'will'} be erased too: {CANNOT_SEE}")
            if not dry_run:
                forgotten = await _erase_confirmed(invocation, eraser, erasable, confirmed, server)
                carry_last_replay(invocation, last_runs(ledger))
    return CommandResult(
        ExitCode.DONE,
        {
            "scopes": [one.to_json() for one in erasable],
            "erased": not dry_run,
            "forgotten": forgotten,
            "dry_run": dry_run,
            "cannot_see": CANNOT_SEE,
        },
        draw(erasable, dry_run=dry_run, forgotten=forgotten),
        migration=migration,
        next=None if dry_run else "spectron-migrate replay",
    )


async def _erase_confirmed(
    invocation: Invocation, eraser: Eraser, erasable: Sequence[Erasable], confirmed: Sequence[str], server: str
) -> int:
    given = {path.strip("/") for path in confirmed}
    for one in erasable:
        if one.path not in given and not _is_confirmed_by_typing(invocation, one, server):
            raise NotConfirmed(
                f"scope {one.path} was not confirmed, nothing was erased", hint=f"repeat it: --yes {one.path}"
            )
    return await eraser.carry_out(erasable)


def _is_confirmed_by_typing(invocation: Invocation, one: Erasable, server: str) -> bool:
    if not invocation.may_ask:
        return False
    below = f" and {counted(len(one.nodes), 'scope')} below it" if one.nodes else ""
    answer = invocation.ask(
        f"This erases scope {one.path}{below} in {server} for good: {counted(one.memories, 'memory')},"
        f" {counted(one.turns, 'turn')}.\n"
        f"Type the scope to confirm: "
    )
    return answer.strip("/") == one.path


def draw(erasable: Sequence[Erasable], *, dry_run: bool, forgotten: int) -> Iterator[RenderableType]:
    """The scopes, with the number of memories, sessions and turns of each."""
    title = "Would be erased" if dry_run else f"Erased: {counted(forgotten, 'row')}; the empty scopes remain"
    rows = [
        (one.path, number(len(one.nodes)), number(one.memories), number(len(one.sessions)), number(one.turns))
        for one in erasable
    ]
    yield listing(title, ["scope", "scopes below", "memories", "sessions", "turns"], rows)
