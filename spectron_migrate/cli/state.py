"""`spectron-migrate state`: where the state is kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli.options import GlobalOptions, SectionedCommand, with_global_options
from spectron_migrate.cli.runner import CommandResult, Invocation, run_command
from spectron_migrate.cli.tables import facts, number, plain
from spectron_migrate.database.location import PostgresLocation, is_url, parse_location
from spectron_migrate.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.migration.state_copy import CopiedState

app = typer.Typer(
    help="Move the state (ledger, cutover, outbox and all else) to another place, or back it up.\n\n"
    "\b\nExample: spectron-migrate state copy .spectron-migrate postgresql://migrator@db/app\n"
    "         spectron-migrate state copy --backup .spectron-migrate backup",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_DIGITS = 12
"""How many digits of a SHA-256 people see."""


@app.callback()
def state() -> None:
    """Move the state to another place, or back it up."""


@app.command("copy", cls=SectionedCommand, short_help="Copy all of it, compare both sides, seal the place it left.")
@with_global_options
def copy(
    options: GlobalOptions,
    source: Annotated[str, typer.Argument(metavar="FROM", help="Directory or postgresql://…", show_default=False)],
    target: Annotated[
        str, typer.Argument(metavar="TO", help="Another place, which is empty or does not exist.", show_default=False)
    ],
    backup: Annotated[
        bool, typer.Option("--backup", help="Copy while FROM stays in use; a replay from the copy needs --adopt.")
    ] = False,
) -> int:
    """Copy a state as a whole: from a directory to Postgres, back, or to another directory.

    Nobody may use FROM meanwhile. Rows and digests of both sides are compared, then FROM is sealed: commands that use
    it afterwards are refused, and say where the state went. If the copy is killed, run it again. Ledgers that an
    earlier version began in shards become one. With --backup nothing is sealed, and FROM stays in use.

    Example: spectron-migrate state copy .spectron-migrate postgresql://migrator@db/app?schema=memories
    """
    return run_command("state", options, lambda invocation: run(invocation, source, target, backup=backup))


def run(invocation: Invocation, source: str, target: str, *, backup: bool) -> CommandResult:
    """Copy the state; raises what `move_state` and `back_up_state` do."""
    from spectron_migrate.migration.state_copy import back_up_state, move_state

    copied = (back_up_state if backup else move_state)(
        _place(source), _place(target), now=lambda: datetime.now(UTC), reporter=invocation.reporter
    )
    return CommandResult(ExitCode.DONE, copied.to_json(), draw(copied))


def draw(copied: CopiedState) -> Iterator[RenderableType]:
    """What was copied, and which place is the state now."""
    from rich.table import Table

    title = "The state is backed up" if copied.is_backup else "The state has moved"
    sealed = "still in use" if copied.is_backup else "sealed: no longer in use"
    rows = [("from", f"{copied.source} ({sealed})"), ("to", copied.target)]
    if copied.shards:
        rows.append(("shards", f"{copied.shards} ledgers became one"))
    if not copied.tables:
        rows.append(("copied", "by an earlier run"))
    yield facts(title, rows)
    if copied.tables:
        table = Table(box=None, pad_edge=False)
        table.add_column("on both sides")
        table.add_column("rows", justify="right")
        table.add_column("SHA-256")
        for each in copied.tables:
            if each.rows:
                table.add_row(plain(each.name), number(each.rows), each.sha256[:_DIGITS])
        yield table
    yield (
        "a replay from the backup first asks for --adopt"
        if copied.is_backup
        else f"name the new place as `state` in the settings, or --state {copied.target}"
    )


def _place(text: str) -> Path | PostgresLocation:
    return parse_location(text) if is_url(text) else Path(text)
