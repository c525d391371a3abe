"""`spectron-migrate doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli.opening import mem0_section, open_api
from spectron_migrate.cli.options import GlobalOptions, with_global_options
from spectron_migrate.cli.runner import CommandResult, Invocation, run_async, run_command
from spectron_migrate.cli.tables import Wrapped, listing, plain
from spectron_migrate.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.doctor import Diagnosis
    from spectron_migrate.doctor.probe_questions import ProbeFinding
    from spectron_migrate.settings import Settings

_STATUS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red"), "unknown": ("?", "dim")}
_FITS = {True: "ok", None: "", False: "NO"}


@with_global_options
def command(
    options: GlobalOptions,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Write a few memories to a scope of its own, test what the server does, erase them."
        ),
    ] = False,
) -> int:
    """Check settings, Mem0, Spectron and mapping, and say how to fix what is wrong.

    \b
    Example: spectron-migrate doctor
             spectron-migrate doctor --probe
    """
    return run_command("doctor", options, lambda invocation: run(invocation, probe=probe))


def run(invocation: Invocation, *, probe: bool) -> CommandResult:
    """Check everything; with `probe` also write to Spectron."""
    settings = invocation.settings()
    diagnosis = _diagnose(invocation, settings)
    checks = (replace(check, hint=invocation.complete_hint(check.hint)) for check in diagnosis.checks)
    diagnosis = replace(diagnosis, checks=tuple(checks))
    answers = _probe(invocation, settings) if probe else None
    broken = [answer.question for answer in answers or [] if answer.fits is False and answer.needed]
    code = diagnosis.exit_code or (ExitCode.NO_GO if broken else ExitCode.DONE)
    return CommandResult(
        code,
        {
            **diagnosis.to_json(),
            "probe": None if answers is None else [answer.to_json() for answer in answers],
            "broken": broken,
        },
        draw(diagnosis, answers),
        next=_next(settings.dump) if code == ExitCode.DONE else None,
    )


def _diagnose(invocation: Invocation, settings: Settings) -> Diagnosis:
    from spectron_migrate.doctor import run_doctor

    return run_async(
        invocation,
        run_doctor(
            mem0=None if settings.mem0 is None else partial(mem0_section, settings.mem0),
            mapping=settings.mapping,
            dump=settings.dump,
            state=invocation.state,
            api=lambda: open_api(settings, max_connections=1),
            now=datetime.now(UTC),
            reporter=invocation.reporter,
        ),
    )


def _probe(invocation: Invocation, settings: Settings) -> list[ProbeFinding]:
    from spectron_migrate.doctor.probe import Probe
    from spectron_migrate.ledger import Ledger

    async def run_probe() -> list[ProbeFinding]:
        with Ledger.open_for_writing(invocation.state) as ledger:
            async with open_api(settings, max_connections=4) as api:
                probe = Probe(api, ledger, invocation.reporter)
                invocation.reporter.info(
                    f"writing to {api.endpoint}, context {api.context}, under {probe.scope.path} (erased at the end)"
                )
                return await probe.run()

    return run_async(invocation, run_probe())


def _next(dump: Path) -> str:
    return "spectron-migrate replay --dry-run" if dump.exists() else "spectron-migrate export"


def draw(diagnosis: Diagnosis, answers: list[ProbeFinding] | None) -> Iterator[RenderableType]:
    """The checks, then the answers of the probe and what a replay assumes."""
    for check in diagnosis.checks:
        if answers is not None and (check.name, check.status) == ("extraction", "unknown"):
            continue  # the probe has tested this, see below
        mark, style = _STATUS[check.status]
        yield Wrapped(f"{check.name}: {check.finding}", f"{mark:4} ", lead_style=style)
        if check.hint and check.status != "ok":
            yield Wrapped(check.hint, "     hint: ")
    if answers is None:
        return
    rows = [(_FITS[answer.fits], answer.question, answer.answer, answer.assumed) for answer in answers]
    yield listing("What this Spectron does, and what a replay assumes", ["", "question", "answer", "assumed"], rows)
    for answer in answers:
        if answer.meaning:
            style = "bold red" if answer.needed else ""
            yield Wrapped(f"{answer.question}: {answer.meaning}", style=style)
    if any(answer.needed and answer.fits is False for answer in answers):
        yield plain("A replay relies on every answer marked NO: look into them before you run one.", style="bold red")
