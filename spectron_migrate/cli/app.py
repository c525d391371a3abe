"""All commands, and the errors that occur before one of them runs (an unknown command or option).

A new command: copy `init.py`, the smallest one, and add it to `_COMMANDS`. Every command file has the same parts in
the same order: `command` (its options, with the global ones, and its help), `run` (the step; returns the result),
`draw` (the summary for people). Libraries that start-up must not pay for are imported inside `run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from spectron_migrate import __version__
from spectron_migrate.cli import (
    cutover,
    doctor,
    dual_verify,
    erase,
    explain,
    export,
    init,
    local,
    rehearse,
    replay,
    status,
)
from spectron_migrate.cli.options import SectionedCommand
from spectron_migrate.cli.runner import print_error
from spectron_migrate.cli.signals import interrupted
from spectron_migrate.errors import InputError

app = typer.Typer(
    name="spectron-migrate",
    help="Move an AI agent's memory from Mem0 to Spectron (SurrealDB Agent Memory): no memory lost, none written"
    " twice, none in the wrong scope, no older one over a newer one.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
_COMMANDS = (
    ("rehearse", rehearse.command, "Run the whole migration against a local Spectron."),
    ("init", init.command, "Write both settings files from what is found here."),
    ("doctor", doctor.command, "Check settings, Mem0, Spectron and mapping."),
    ("export", export.command, "Read Mem0 completely, verify the count, write the dump."),
    ("replay", replay.command, "Write what is not yet in Spectron, exactly once, in order."),
    ("dual-verify", dual_verify.command, "Compare Mem0 and Spectron: a verdict."),
    ("status", status.command, "Show the state of the migration and the next command."),
    ("explain", explain.command, "Show what became of a memory or a user, with the evidence."),
    ("erase", erase.command, "Remove what a replay wrote, where that can be done exactly."),
    ("local", local.command, "Serve a local Spectron."),
)
for _name, _command, _short in _COMMANDS:
    app.command(_name, cls=SectionedCommand, short_help=_short)(_command)
app.add_typer(cutover.app, name="cutover", short_help="Move reads, then writes, to Spectron, and back within a second.")


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    """Options of the program itself."""
    if version:
        typer.echo(f"spectron-migrate {__version__}")
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. A usage error is printed like any other bad input."""
    try:
        result: Any = app(args=list(arguments), prog_name="spectron-migrate", standalone_mode=False)
    except Exception as error:
        # Newer versions of Typer bring their own copy of Click: its errors are recognized by their attributes.
        format_message, code = getattr(error, "format_message", None), getattr(error, "exit_code", None)
        as_json = "--json" in arguments
        if type(error).__name__ == "Abort":
            return print_error("", interrupted(), as_json=as_json)
        if format_message is None or code is None:
            raise
        message = str(format_message())
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(message, err=True)
            return int(code)
        return _print_usage_error(message, arguments, as_json=as_json) if message else int(code)
    return int(result or 0)


def _print_usage_error(message: str, arguments: Sequence[str], *, as_json: bool) -> int:
    first = next((word for word in arguments if not word.startswith("-")), "")
    command = first if first in _command_names() else ""
    hint = " ".join(["spectron-migrate", *([command] if command else []), "--help"])
    return print_error(command, InputError(message.rstrip("."), hint=hint), as_json=as_json)


def _command_names() -> list[str]:
    return [*(str(each.name) for each in app.registered_commands), *(str(each.name) for each in app.registered_groups)]
