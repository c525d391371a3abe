"""Runs one command: settings, reporter, errors, the summary as tables or JSON, the log, the exit code."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spectron_migrate import __version__
from spectron_migrate.cli.disk import disk_error
from spectron_migrate.cli.options import GlobalOptions
from spectron_migrate.cli.signals import interrupted
from spectron_migrate.cli.terminal import TerminalReporter, make_printable, printable
from spectron_migrate.errors import ExitCode, MigrateError
from spectron_migrate.records import Json, format_time

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from spectron_migrate.settings import Settings

T = TypeVar("T")
SECRET_VARIABLES = ("SPECTRON_API_KEY", "AGENT_MEMORY_API_KEY", "SURREAL_MEMORY_API_KEY", "MEM0_API_KEY")


@dataclass(frozen=True)
class CommandResult:
    """What a command ends with."""

    exit_code: ExitCode
    body: dict[str, Json]
    """The command's own fields of `--json`."""
    tables: Iterable[RenderableType] = ()
    """The summary for people, printed at most once: a generator draws nothing under `--json`."""
    migration: str | None = None
    next: str | None = None
    """The command line to run next."""


@dataclass
class Invocation:
    """One invocation of a command: its global options, where it prints, and the environment variables."""

    options: GlobalOptions
    console: Console
    reporter: TerminalReporter
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    state: Path = Path(".spectron-migrate")
    """The state directory, as far as it is known."""

    @property
    def shows_tables(self) -> bool:
        """Whether a summary is printed for people."""
        return not self.options.as_json and not self.options.quiet

    @property
    def may_ask(self) -> bool:
        """Whether a person can answer a question; scripts confirm by options."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.options.as_json

    def settings(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """The settings of options, environment and file; raises InputError naming all problems."""
        from spectron_migrate.settings import load_settings

        given = {**(overrides or {}), "state": self.options.state}
        settings = load_settings(self.options.config, env=self.environment, overrides=given)
        self.state = settings.state
        return settings

    def ask(self, question: str) -> str:
        """Ask on stderr; the answer without surrounding spaces."""
        sys.stderr.write(question)
        sys.stderr.flush()
        return sys.stdin.readline().strip()


def run_command(command: str, options: GlobalOptions, run: Callable[[Invocation], CommandResult]) -> int:
    """Run a command and print its result; returns the exit code.

    People get tables on stdout. `--json` prints exactly one object there, also when the command fails. Everything
    else goes to stderr.
    """
    began = time.monotonic()
    make_printable()
    try:
        invocation = _prepare(options)
    except KeyboardInterrupt:  # importing rich takes a while
        return print_error(command, interrupted(), as_json=options.as_json, began=began)
    reporter = invocation.reporter
    try:
        result = run(invocation)
    except (MigrateError, KeyboardInterrupt) as error:
        reporter.close()
        reported = error if isinstance(error, MigrateError) else interrupted()
        return print_error(command, reported, as_json=options.as_json, warnings=reporter.warnings, began=began)
    except BrokenPipeError:
        return _discard_output()
    except Exception as error:
        reporter.close()
        of_disk = disk_error(error, state=invocation.state)
        if of_disk is not None:
            return print_error(command, of_disk, as_json=options.as_json, warnings=reporter.warnings, began=began)
        return _print_bug(command, error, options, began=began)
    reporter.close()
    _append_to_log(options, {"event": "end", "command": command, "exit_code": int(result.exit_code)})
    next_ = _as_found_here(repeat_global_options(result.next, options))
    if options.as_json:
        _print_json(command, result, next_=next_, warnings=reporter.warnings, began=began)
    elif not options.quiet:
        _print_tables(invocation.console, result, next_)
    return int(result.exit_code)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`; asyncio is imported here because `--help` and `status` do not need it."""
    import asyncio

    return asyncio.run(work)


def _prepare(options: GlobalOptions) -> Invocation:
    from rich.console import Console

    return Invocation(
        options,
        Console(soft_wrap=True, highlight=False, markup=False, emoji=False),
        TerminalReporter(quiet=options.quiet or options.as_json, verbose=options.verbose),
        state=options.state or Path(".spectron-migrate"),
    )


def repeat_global_options(next_: str | None, options: GlobalOptions) -> str | None:
    """The next command line with the `--config` and `--state` of this one: it is about the same migration."""
    given = [
        word
        for name, path in (("--config", options.config), ("--state", options.state))
        if path
        for word in (name, str(path))
    ]
    if next_ is None or not given:
        return next_
    return re.sub(
        r"spectron-migrate (?:cutover )?[a-z-]+", lambda found: f"{found[0]} {shlex.join(given)}", next_, count=1
    )


def _as_found_here(next_: str | None) -> str | None:
    """The next command line with the path by which this program was called, where its name alone is not found."""
    called = Path(sys.argv[0])
    if next_ is None or called.name != "spectron-migrate" or shutil.which(called.name):
        return next_
    return re.sub(r"^spectron-migrate\b", lambda _: shlex.quote(str(called)), next_)


def _print_tables(console: Console, result: CommandResult, next_: str | None) -> None:
    for part in result.tables:
        console.print(part)
    if next_:
        console.print(f"next: {printable(next_)}", style="bold")


def print_error(
    command: str,
    error: MigrateError,
    *,
    as_json: bool,
    warnings: Sequence[str] = (),
    began: float | None = None,
) -> int:
    """Print an error that ended a command, as its message and hint or as JSON; returns its exit code."""
    if as_json:
        body = {"error": {"kind": error.kind, "message": error.message, "hint": error.hint}}
        _print_json(command, CommandResult(error.exit_code, body), warnings=warnings, began=began)
    else:
        sys.stderr.write(f"error: {printable(error.message)}\n")
        if error.hint:
            sys.stderr.write(f"hint: {printable(error.hint)}\n")
    return int(error.exit_code)


def _print_bug(command: str, error: Exception, options: GlobalOptions, *, began: float) -> int:
    """Write the traceback of an unexpected error to the log; people get one sentence."""
    trace = _without_keys("".join(traceback.format_exception(error)))
    path = _append_to_log(options, {"event": "bug", "command": command, "traceback": trace}, create=True)
    where = f"the traceback is in {path}" if path else "no log can be written here: -v shows the traceback"
    bug = MigrateError(
        f"this is a bug in spectron-migrate: {type(error).__name__}",
        hint=f"{where}; everything that was recorded is kept, and running again is safe",
    )
    if options.verbose:
        sys.stderr.write(trace)
    return print_error(command, bug, as_json=options.as_json, began=began)


def _print_json(
    command: str,
    result: CommandResult,
    *,
    warnings: Sequence[str],
    next_: str | None = None,
    began: float | None = None,
) -> None:
    envelope: dict[str, Json] = {
        "schema": 1,
        "command": command,
        "version": __version__,
        "migration": result.migration,
        "exit_code": int(result.exit_code),
        "warnings": list(warnings),
        "next": next_,
        "seconds": round(time.monotonic() - began, 3) if began is not None else 0.0,
        **result.body,
    }
    try:
        sys.stdout.write(json.dumps(envelope, ensure_ascii=True) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()


def _append_to_log(options: GlobalOptions, record: dict[str, Json], *, create: bool = False) -> Path | None:
    """Append to `log.jsonl` in the state directory: counts and codes, never a memory's text or a key.

    Returns its path; None where the disk does not take it, which must not hide how the command ended.
    """
    state = options.state or Path(".spectron-migrate")
    path = state / "log.jsonl"
    line = json.dumps({"at": format_time(datetime.now(UTC)), "version": __version__, **record})
    try:
        if create:
            from spectron_migrate.files.private import make_private_directory

            make_private_directory(state)
        if state.is_dir():
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, (line + "\n").encode())
            finally:
                os.close(descriptor)
    except OSError:
        return None
    return path


def _without_keys(text: str) -> str:
    for name in SECRET_VARIABLES:
        value = os.environ.get(name)
        if value:
            text = text.replace(value, "***")
    return text


def _discard_output() -> int:
    """Discard the rest of stdout: its reader has closed the pipe, which is not an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(ExitCode.DONE)
