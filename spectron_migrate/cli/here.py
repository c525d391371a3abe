"""`spectron-migrate` without a command: how far the migration in this directory is, and what to run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from spectron_migrate.cli import status
from spectron_migrate.cli.options import GlobalOptions
from spectron_migrate.cli.runner import CommandResult, Invocation, run_command
from spectron_migrate.cli.tables import facts
from spectron_migrate.errors import ExitCode
from spectron_migrate.state.journal import FILE as JOURNAL

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.settings import Settings

_MORE = "every command, by what it is for: spectron-migrate --help"


def command() -> int:
    """Show the state of a migration that has begun; before that, what is here and what to do first."""
    return run_command("status", GlobalOptions(), run)


def run(invocation: Invocation) -> CommandResult:
    """Show what `status` shows, once there is a state directory. Writes nothing and asks no server."""
    from spectron_migrate.ledger import Ledger

    settings = invocation.settings()
    if Ledger.exists(invocation.state) or invocation.state.has_journal(JOURNAL):
        return status.run(invocation)
    if settings.dump.exists():
        return _result(settings, "the dump is made; nothing was written to Spectron", next_="replay --dry-run")
    if settings.file is not None:
        return _result(settings, "the settings are written; nothing was read from Mem0", next_="doctor")
    return _result(
        settings,
        "there are no settings and no dump in this directory",
        choices={"rehearse": "try it: the whole migration, on this machine alone", "init": "begin with your Mem0"},
    )


def _result(
    settings: Settings, where: str, *, next_: str | None = None, choices: dict[str, str] | None = None
) -> CommandResult:
    return CommandResult(
        ExitCode.DONE,
        {},
        _draw(settings, where),
        next=f"spectron-migrate {next_}" if next_ else None,
        choices={f"spectron-migrate {name}": when for name, when in (choices or {}).items()},
    )


def _draw(settings: Settings, where: str) -> Iterator[RenderableType]:
    yield facts(
        "Move an AI agent's memory from Mem0 to Spectron",
        [
            ("here", where),
            ("settings", str(settings.file) if settings.file else "none"),
            ("dump", str(settings.dump) if settings.dump.exists() else "none"),
        ],
    )
    yield _MORE
