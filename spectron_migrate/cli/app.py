"""All commands, and the errors that occur before one of them runs (an unknown command or option).

A new command: copy `init.py`, the smallest one, and add it to `COMMANDS` and `_function_of`. Every command file has the
same parts in the same order: `command` (its options, with the global ones, and its help), `run` (the step; returns the
result), `draw` (the summary for people). Libraries that would slow down start-up are imported inside `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from spectron_migrate import __version__
from spectron_migrate.cli.options import GroupedCommands, SectionedCommand
from spectron_migrate.cli.runner import print_error
from spectron_migrate.cli.signals import interrupted
from spectron_migrate.errors import InputError

GONE = {
    "--shard": (
        "--shard is gone: several replay processes share the work by themselves, with one state in Postgres",
        "start as many as you like: spectron-migrate replay --state postgresql://…; what was begun in shards is"
        " gathered first: spectron-migrate state copy FROM TO",
    ),
}
"""Options of earlier versions: a sentence about each, and what to do instead."""

COMMANDS = {
    "rehearse": "Run the whole migration against a local Spectron.",
    "init": "Write both settings files from what is found here.",
    "doctor": "Check settings, Mem0, Spectron and mapping.",
    "export": "Read Mem0 completely, verify the count, write the dump.",
    "replay": "Write what is not yet in Spectron, exactly once, in order.",
    "dual-verify": "Compare Mem0 and Spectron: a verdict.",
    "status": "Show the state of the migration and the next command.",
    "explain": "Show what became of a memory or a user, with the evidence.",
    "erase": "Remove what a replay wrote, from small scopes that hold nothing else.",
    "local": "Serve a local Spectron.",
    "state": "Move the state to another place, or back it up.",
    "cutover": "Move reads to Spectron, and back within a second; then writes, for good.",
}
"""Each command's line in `--help`. `cutover` and `state` have commands of their own."""


def build_app(called: str | None = None) -> typer.Typer:
    """The program. If `called` is given, the other commands exist only by name, because importing all takes 0.1 s."""
    app = typer.Typer(
        name="spectron-migrate",
        help="Move an AI agent's memory from Mem0 to Spectron (SurrealDB Agent Memory): no memory lost, none written"
        " twice, none in the wrong scope, no older one over a newer one.",
        cls=GroupedCommands,
        invoke_without_command=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(root)
    for name, line in COMMANDS.items():
        if called not in (None, name):
            app.command(name, short_help=line)(_not_called)
        elif name == "cutover":
            from spectron_migrate.cli import cutover

            app.add_typer(cutover.app, name=name, short_help=line)
        elif name == "state":
            from spectron_migrate.cli import state

            app.add_typer(state.app, name=name, short_help=line)
        else:
            app.command(name, cls=SectionedCommand, short_help=line)(_function_of(name))
    return app


def root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    """Options of the program itself."""
    if version:
        typer.echo(f"spectron-migrate {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        from spectron_migrate.cli import here

        raise typer.Exit(here.command())


def _not_called() -> None:
    """Stands for a command that was not called."""


def _function_of(name: str) -> Callable[..., int]:
    """The function that runs a command and declares its options. Only its own module is imported."""
    match name:
        case "rehearse":
            from spectron_migrate.cli.rehearse import command
        case "init":
            from spectron_migrate.cli.init import command
        case "doctor":
            from spectron_migrate.cli.doctor import command
        case "export":
            from spectron_migrate.cli.export import command
        case "replay":
            from spectron_migrate.cli.replay import command
        case "dual-verify":
            from spectron_migrate.cli.dual_verify import command
        case "status":
            from spectron_migrate.cli.status import command
        case "explain":
            from spectron_migrate.cli.explain import command
        case "erase":
            from spectron_migrate.cli.erase import command
        case "local":
            from spectron_migrate.cli.local import command
        case _:
            raise ValueError(name)
    return command


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. A usage error is printed like any other bad input."""
    try:
        app = build_app(arguments[0] if arguments else None)  # completion in a shell passes none
        result: Any = app(args=list(arguments), prog_name="spectron-migrate", standalone_mode=False)
    except Exception as error:
        # Newer versions of Typer bring their own copy of Click, so errors are recognized by their attributes.
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
        if gone := GONE.get(getattr(error, "option_name", "")):
            return print_error(_command_in(arguments), InputError(gone[0], hint=gone[1]), as_json=as_json)
        return _print_usage_error(message, arguments, as_json=as_json) if message else int(code)
    return int(result or 0)


def _command_in(arguments: Sequence[str]) -> str:
    first = next((word for word in arguments if not word.startswith("-")), "")
    return first if first in COMMANDS else ""


def _print_usage_error(message: str, arguments: Sequence[str], *, as_json: bool) -> int:
    command = _command_in(arguments)
    hint = " ".join(["spectron-migrate", *([command] if command else []), "--help"])
    return print_error(command, InputError(message.rstrip("."), hint=hint), as_json=as_json)
