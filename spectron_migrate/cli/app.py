"""The commands under one roof. What goes wrong before a command runs is told here, in the same two forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from spectron_migrate import __version__
from spectron_migrate.cli import cutover, doctor, dual_verify, erase, export, init, local, rehearse, replay, status
from spectron_migrate.cli.conduct import fail
from spectron_migrate.cli.ending import interrupted
from spectron_migrate.cli.help import Sectioned
from spectron_migrate.errors import InputError

app = typer.Typer(
    name="spectron-migrate",
    help="Move an AI agent's memory from Mem0 to Spectron (SurrealDB Agent Memory): nothing lost, nothing twice,"
    " nothing in the wrong scope, nothing older over newer.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
_COMMANDS = (
    ("rehearse", rehearse.command, "Play the whole migration against a local Spectron."),
    ("init", init.command, "Write both settings files from what is found here."),
    ("doctor", doctor.command, "Find what would fail later, and say how to mend it."),
    ("export", export.command, "Read Mem0 completely, prove it, and write the dump."),
    ("replay", replay.command, "Write what is not yet in Spectron, exactly once, in order."),
    ("dual-verify", dual_verify.command, "Prove that all arrived and recall is as good: a verdict."),
    ("status", status.command, "Show where the migration stands, and what is next."),
    ("erase", erase.command, "Take back what a replay wrote, where that is exact."),
    ("local", local.command, "Serve a local Spectron."),
)
for _name, _command, _short in _COMMANDS:
    app.command(_name, cls=Sectioned, short_help=_short)(_command)
app.add_typer(cutover.app, name="cutover", short_help="Move reads, then writes, to Spectron; and back at once.")


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    """Check, do, check again: `export`, `replay --dry-run`, `replay`, `dual-verify`."""
    if version:
        typer.echo(f"spectron-migrate {__version__}")
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. A wrong option is told like any other bad input."""
    try:
        result: Any = app(args=list(arguments), prog_name="spectron-migrate", standalone_mode=False)
    except Exception as error:
        # Typer carries its own copy of Click from one version on, so its errors are known by shape alone.
        said, code = getattr(error, "format_message", None), getattr(error, "exit_code", None)
        if said is None or code is None:
            if type(error).__name__ == "Abort":
                return fail("", interrupted(), as_json="--json" in arguments)
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(said(), err=True)
            return int(code)
        message = str(said()).rstrip(".")
        if not message:
            return int(code)
        command = next((word for word in arguments if not word.startswith("-")), "")
        named = [command] if command in _commands() else []
        hint = " ".join(["spectron-migrate", *named, "--help"])
        return fail("".join(named), InputError(message, hint=hint), as_json="--json" in arguments)
    return int(result or 0)


def _commands() -> list[str]:
    return [str(each.name) for each in app.registered_commands] + [str(each.name) for each in app.registered_groups]
