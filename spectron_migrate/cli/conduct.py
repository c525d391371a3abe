"""Conducting one command: settings, reporter, errors, the summary on screen or as JSON, the log, the exit code."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spectron_migrate import __version__
from spectron_migrate.cli.draw import visible
from spectron_migrate.cli.ending import interrupted
from spectron_migrate.errors import ExitCode, MigrateError
from spectron_migrate.records import Json, format_time

if TYPE_CHECKING:
    from rich.console import Console

    from spectron_migrate.cli.progress import TerminalReporter
    from spectron_migrate.settings import Settings

T = TypeVar("T")
SECRET_NAMES = ("SPECTRON_API_KEY", "AGENT_MEMORY_API_KEY", "MEM0_API_KEY")


@dataclass(frozen=True)
class Common:
    """What every command takes."""

    config: Path | None
    state: Path | None
    as_json: bool
    quiet: bool
    verbose: bool


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    exit_code: ExitCode
    body: dict[str, Json]
    draw: Callable[[Console], None]
    migration: str | None = None
    next: str | None = None
    """What to run next, as a command line."""


@dataclass
class Stage:
    """What a command plays on: its console, its reporter, the environment."""

    common: Common
    console: Console
    reporter: TerminalReporter
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def settings(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """The settings as options, environment and file give them; raises InputError with all problems."""
        from spectron_migrate.settings import load_settings

        given = {**(overrides or {}), "state": self.common.state}
        return load_settings(self.common.config, env=self.environment, overrides=given)

    def line(self, text: str) -> None:
        """A line for a person, before the work begins."""
        self.reporter.info(text)


def conduct(command: str, common: Common, work: Callable[[Stage], Outcome]) -> int:
    """Run the work and tell what came of it; returns the exit code.

    People get tables on stdout; `--json` prints exactly one object there, also on failure. All else goes to stderr.
    """
    began = time.monotonic()
    try:
        stage = _stage(common)
    except KeyboardInterrupt:  # its libraries take a while to come in
        return fail(command, interrupted(), as_json=common.as_json, began=began)
    try:
        outcome = work(stage)
    except MigrateError as error:
        stage.reporter.close()
        return fail(command, error, as_json=common.as_json, warnings=stage.reporter.warnings, began=began)
    except KeyboardInterrupt:
        stage.reporter.close()
        return fail(command, interrupted(), as_json=common.as_json, warnings=stage.reporter.warnings, began=began)
    except BrokenPipeError:
        return _quietly_closed()
    except Exception as error:
        stage.reporter.close()
        return _bug(command, error, common, began=began)
    stage.reporter.close()
    _log(common, {"event": "end", "command": command, "exit_code": int(outcome.exit_code)})
    next_ = _in_the_same_place(outcome.next, common)
    if common.as_json:
        _print_json(
            command,
            outcome.exit_code,
            outcome.body,
            migration=outcome.migration,
            warnings=stage.reporter.warnings,
            next_=next_,
            began=began,
        )
    elif not common.quiet:
        outcome.draw(stage.console)
        if next_:
            stage.console.print(f"next: {visible(next_)}", style="bold")
    return int(outcome.exit_code)


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, which only those pay for who use it: `--help` and `status` do not."""
    import asyncio

    return asyncio.run(work)


def _stage(common: Common) -> Stage:
    from rich.console import Console

    from spectron_migrate.cli.progress import TerminalReporter

    return Stage(
        common,
        Console(soft_wrap=True, highlight=False, markup=False, emoji=False),
        TerminalReporter(quiet=common.quiet or common.as_json, verbose=common.verbose),
    )


def _in_the_same_place(next_: str | None, common: Common) -> str | None:
    """The next command with the `--config` and `--state` of this one: it is about the same migration."""
    given = [
        word
        for name, path in (("--config", common.config), ("--state", common.state))
        if path
        for word in (name, str(path))
    ]
    if next_ is None or not given:
        return next_
    return re.sub(
        r"spectron-migrate (?:cutover )?[a-z-]+", lambda found: f"{found[0]} {shlex.join(given)}", next_, count=1
    )


def fail(
    command: str,
    error: MigrateError,
    *,
    as_json: bool,
    warnings: list[str] | None = None,
    began: float | None = None,
) -> int:
    """Tell an error of the user's world: one sentence, then what to do about it."""
    if as_json:
        said = {"kind": error.kind, "message": error.message, "hint": error.hint}
        _print_json(command, error.exit_code, {"error": said}, warnings=warnings or [], began=began)
    else:
        sys.stderr.write(f"error: {visible(error.message)}\n")
        if error.hint:
            sys.stderr.write(f"hint: {visible(error.hint)}\n")
    return int(error.exit_code)


def _bug(command: str, error: Exception, common: Common, *, began: float) -> int:
    """A bug of ours: the traceback goes to the log, people get one sentence."""
    trace = _scrub("".join(traceback.format_exception(error)))
    where = _log(common, {"event": "bug", "command": command, "traceback": trace}, create=True)
    told = MigrateError(
        f"this is a bug of spectron-migrate: {type(error).__name__}",
        hint=f"the traceback is in {where}; nothing that was recorded is lost, running again is safe",
    )
    if common.verbose:
        sys.stderr.write(trace)
    return fail(command, told, as_json=common.as_json, began=began)


def _print_json(
    command: str,
    exit_code: ExitCode,
    body: dict[str, Json],
    *,
    migration: str | None = None,
    warnings: list[str],
    next_: str | None = None,
    began: float | None = None,
) -> None:
    envelope: dict[str, Json] = {
        "schema": 1,
        "command": command,
        "version": __version__,
        "migration": migration,
        "exit_code": int(exit_code),
        "warnings": warnings,
        "next": next_,
        "seconds": round(time.monotonic() - began, 3) if began is not None else 0.0,
        **body,
    }
    try:
        sys.stdout.write(json.dumps(envelope, ensure_ascii=True) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _quietly_closed()


def _log(common: Common, record: dict[str, Json], *, create: bool = False) -> Path:
    """Append to `log.jsonl` of the state directory; counts and codes, never a memory's text or a key."""
    state = common.state or Path(".spectron-migrate")
    path = state / "log.jsonl"
    if create:
        from spectron_migrate.files.private import make_private_directory

        make_private_directory(state)
    if state.is_dir():
        line = json.dumps({"at": format_time(datetime.now(UTC)), "version": __version__, **record})
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, (line + "\n").encode())
        finally:
            os.close(descriptor)
    return path


def _scrub(text: str) -> str:
    for name in SECRET_NAMES:
        value = os.environ.get(name)
        if value:
            text = text.replace(value, "***")
    return text


def _quietly_closed() -> int:
    """Whoever read our output has gone; that is their right."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(ExitCode.DONE)
