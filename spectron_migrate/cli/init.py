"""`spectron-migrate init`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli import options
from spectron_migrate.cli.conduct import Outcome, Stage, conduct
from spectron_migrate.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from spectron_migrate.init import InitSummary


def command(
    mem0_config: Annotated[
        str | None,
        typer.Option(
            "--mem0-config", help="Mem0's own config (JSON or YAML); `default` = what Memory() opens.", metavar="FILE"
        ),
    ] = None,
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Write spectron-migrate.yaml and mapping.yaml, with comments, from what is found here.

    Looked at are the environment, Mem0's config and the memories' ids. Nothing is overwritten, no key is written
    down, and of Mem0 nothing is changed.

    Example: spectron-migrate init --mem0-config mem0.yaml
    """

    def work(stage: Stage) -> Outcome:
        from datetime import UTC, datetime

        from spectron_migrate.init import run_init
        from spectron_migrate.settings import DEFAULT_FILE

        summary = run_init(
            settings_file=config or DEFAULT_FILE,
            mem0_config=mem0_config,
            env=stage.environment,
            now=datetime.now(UTC),
            reporter=stage.reporter,
        )
        return Outcome(
            ExitCode.DONE, summary.to_json(), lambda console: draw(console, summary), next="spectron-migrate doctor"
        )

    return conduct("init", options.common(config, state, as_json, quiet, verbose), work)


def draw(console: Console, summary: InitSummary) -> None:
    """What was found, and where it stands now."""
    from spectron_migrate.cli.draw import facts, number

    found = summary.found
    rows: list[tuple[str, object]] = [("Mem0", found.why), ("Spectron", f"asked for by {', '.join(found.variables)}")]
    if found.owners is not None:
        rows.append(("memories seen", number(found.owners.rows)))
        rows += [
            (" and ".join(ids) or "belonging to nobody", number(n)) for ids, n in sorted(found.owners.together.items())
        ]
    rows += [("written", str(file)) for file in summary.files]
    console.print(facts("Settings", rows))
