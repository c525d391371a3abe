"""`spectron-migrate doctor`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli import options
from spectron_migrate.cli.conduct import Outcome, Stage, conduct, run_loop
from spectron_migrate.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from spectron_migrate.doctor import Diagnosis
    from spectron_migrate.doctor.probe import Found
    from spectron_migrate.records import Json
    from spectron_migrate.settings import Settings


def command(
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Write a few memories under a scope of its own, see what the server does, erase."),
    ] = False,
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Check that everything is in place, and say how to mend what is not.

    \b
    Example: spectron-migrate doctor
             spectron-migrate doctor --probe
    """

    def work(stage: Stage) -> Outcome:
        settings = stage.settings()
        diagnosis = _diagnose(stage, settings)
        found = _probe(stage, settings) if probe else None
        return _outcome(diagnosis, found, dump=settings.dump)

    return conduct("doctor", options.common(config, state, as_json, quiet, verbose), work)


def _diagnose(stage: Stage, settings: Settings) -> Diagnosis:
    """Every check; nothing is written."""
    from datetime import UTC, datetime

    from spectron_migrate.cli.export import mem0_section
    from spectron_migrate.cli.replay import open_api
    from spectron_migrate.doctor import run_doctor

    return run_loop(
        run_doctor(
            mem0=None if settings.mem0 is None else partial(mem0_section, settings.mem0),
            mapping=settings.mapping,
            dump=settings.dump,
            state=settings.state,
            api=lambda: open_api(settings, max_connections=1),
            now=datetime.now(UTC),
            reporter=stage.reporter,
        )
    )


def _probe(stage: Stage, settings: Settings) -> list[Found]:
    from spectron_migrate.cli.replay import open_api
    from spectron_migrate.doctor.probe import Probe
    from spectron_migrate.ledger import Ledger

    async def run() -> list[Found]:
        with Ledger.open_for_writing(settings.state) as ledger:
            async with open_api(settings, max_connections=4) as api:
                made = Probe(api, ledger, stage.reporter)
                stage.line(f"writing to {api.endpoint}, context {api.context}, under {made.under} (erased at the end)")
                return await made.run()

    return run_loop(run())


def _outcome(diagnosis: Diagnosis, found: list[Found] | None, *, dump: Path) -> Outcome:
    broken = [one for one in found or [] if one.fits is False and one.needed]
    code = diagnosis.exit_code or (ExitCode.NO_GO if broken else ExitCode.DONE)
    body: dict[str, Json] = {
        **diagnosis.to_json(),
        "probe": None if found is None else [one.to_json() for one in found],
        "broken": [one.question for one in broken],
    }
    return Outcome(
        code,
        body,
        lambda console: draw(console, diagnosis, found),
        next=_next(dump) if code == ExitCode.DONE else None,
    )


def _next(dump: Path) -> str:
    return "spectron-migrate replay --dry-run" if dump.exists() else "spectron-migrate export"


def draw(console: Console, diagnosis: Diagnosis, found: list[Found] | None) -> None:
    """The checks, and what the probe found beside what is assumed."""
    from spectron_migrate.cli.draw import Wrapped, listing

    for check in diagnosis.checks:
        mark, style = _STATUS[check.status]
        console.print(Wrapped(f"{check.name}: {check.said}", f"{mark:4} ", lead_style=style))
        if check.hint and check.status != "ok":
            console.print(Wrapped(check.hint, "     hint: "))
    if found is None:
        return
    rows = [(_MARKS[one.fits], one.question, one.answer, one.assumed) for one in found]
    console.print(listing("What this Spectron does, and what is assumed", ["", "question", "answer", "assumed"], rows))
    for one in found:
        if one.meaning:
            style = "bold red" if one.needed else ""
            console.print(Wrapped(f"{one.question}: {one.meaning}", style=style))
    if any(one.needed and one.fits is False for one in found):
        console.print("The promise rests on what is marked: look at it before a replay.", style="bold red")


_STATUS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red"), "unknown": ("?", "dim")}
_MARKS = {True: "ok", None: "", False: "NO"}
