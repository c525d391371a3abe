"""`spectron-migrate init`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli.options import GlobalOptions, with_global_options
from spectron_migrate.cli.runner import CommandResult, Invocation, run_command
from spectron_migrate.cli.tables import Wrapped, facts, number
from spectron_migrate.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.init import InitSummary


@with_global_options
def command(
    options: GlobalOptions,
    mem0_config: Annotated[
        str | None,
        typer.Option(
            "--mem0-config", help="Mem0's own config (JSON or YAML); `default`: what Memory() opens.", metavar="FILE"
        ),
    ] = None,
) -> int:
    """Write spectron-migrate.yaml and mapping.yaml, with comments, from what is found here.

    It looks at the environment, Mem0's config and the ids of the memories. It overwrites nothing: if one of the
    files exists, it writes the other. It writes down no key and changes nothing in Mem0.

    Example: spectron-migrate init --mem0-config mem0.yaml
    """
    return run_command("init", options, lambda invocation: run(invocation, mem0_config))


def run(invocation: Invocation, mem0_config: str | None) -> CommandResult:
    """Write both files, or the one that is missing; raises InputError if both exist."""
    from spectron_migrate.init import run_init
    from spectron_migrate.settings import DEFAULT_FILE

    summary = run_init(
        settings_file=invocation.options.config or DEFAULT_FILE,
        mem0_config=mem0_config,
        env=invocation.environment,
        now=datetime.now(UTC),
        reporter=invocation.reporter,
    )
    next_ = "spectron-migrate doctor" if summary.found.mem0 is not None else None
    return CommandResult(ExitCode.DONE, summary.to_json(), draw(summary), next=next_)


def draw(summary: InitSummary) -> Iterator[RenderableType]:
    """What was found, and the files written from it."""
    found = summary.found
    verb = "will be read from" if found.unset else "read from"
    rows: list[tuple[str, object]] = [("Mem0", found.why), ("Spectron", f"{verb} {', '.join(found.variables)}")]
    if found.unset:
        rows.append(("not set yet", ", ".join(found.unset)))
    if found.owners is not None:
        rows.append(("memories seen", number(found.owners.rows)))
        rows += [
            (" and ".join(ids) or "without an owner", number(count))
            for ids, count in sorted(found.owners.together.items())
        ]
    rows += [("written", str(file)) for file in summary.files]
    rows += [("kept as it was", str(file)) for file in summary.kept]
    yield facts("Settings", rows)
    if found.mem0 is None:
        yield Wrapped(
            "Name your Mem0 in the settings, or delete both files and run spectron-migrate init --mem0-config FILE;"
            " then run spectron-migrate doctor",
            style="yellow",
        )
