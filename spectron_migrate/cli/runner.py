"""Runs one command: settings, reporter, errors, the summary as tables or JSON, the log, the exit code."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spectron_migrate import __version__
from spectron_migrate.cli.disk import disk_error
from spectron_migrate.cli.log import EventLog
from spectron_migrate.cli.options import GlobalOptions
from spectron_migrate.cli.signals import interrupted
from spectron_migrate.cli.terminal import TerminalReporter, make_printable, printable, wrapped_for_stderr
from spectron_migrate.errors import ExitCode, InputError, MigrateError
from spectron_migrate.records import Json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from spectron_migrate.cli.progress import Progress
    from spectron_migrate.database.location import PostgresLocation
    from spectron_migrate.settings import Settings
    from spectron_migrate.state.store import StateStore

T = TypeVar("T")
DEFAULT_STATE = Path(".spectron-migrate")
UNLOGGED = ("status",)
"""Commands that only read. They are not recorded in `log.jsonl`."""
SECRET_VARIABLES = ("SPECTRON_API_KEY", "AGENT_MEMORY_API_KEY", "SURREAL_MEMORY_API_KEY", "MEM0_API_KEY")


@dataclass(frozen=True)
class CommandResult:
    """The result of a command."""

    exit_code: ExitCode
    body: dict[str, Json]
    """The command's own fields of `--json`."""
    tables: Iterable[RenderableType] = ()
    """The summary for people, printed at most once. With `--json`, the generator is not run."""
    migration: str | None = None
    next: str | None = None
    """The command line to run next. Options of this command that it needs are added."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """Command lines, one of which a person has to choose -> when to choose it."""


@dataclass
class Invocation:
    """One invocation of a command: its global options, where it reports, and the environment variables."""

    options: GlobalOptions
    reporter: TerminalReporter
    log: EventLog
    carried: list[tuple[str, str]] = field(default_factory=list)
    """Options that the next command needs too, with their values."""
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    _state: StateStore | None = field(default=None, init=False)

    @cached_property
    def console(self) -> Console:
        """Where tables are printed; with `--json` nobody asks for it, so rich is not imported."""
        from rich.console import Console

        return Console(soft_wrap=True, highlight=False, markup=False, emoji=False)

    @property
    def state(self) -> StateStore:
        """The state that the options, the environment or the settings name."""
        if self._state is None:
            self.settings()
        assert self._state is not None  # noqa: S101 - the settings name one
        return self._state

    @property
    def has_state(self) -> bool:
        """Whether the state is known."""
        return self._state is not None

    def open_state(self, place: Path | PostgresLocation) -> StateStore:
        """The state there; the one that is already open, if it is there. The log is in its directory for this host."""
        from spectron_migrate.state.store import store_at

        if self._state is None or self._state.place != place:
            self.close()
            self._state = store_at(place)
            self.log.folder = self._state.work_folder
        return self._state

    def close(self) -> None:
        """Close the connections of the state."""
        if self._state is not None:
            self._state.close()

    @property
    def shows_tables(self) -> bool:
        """Whether a summary is printed for people."""
        return not self.options.as_json and not self.options.quiet

    @property
    def may_ask(self) -> bool:
        """Whether a person can answer a question; scripts confirm by options."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.options.as_json

    def settings(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """The settings of options, environment and file; raises InputError naming all problems, or StateMoved."""
        from spectron_migrate.settings import load_settings
        from spectron_migrate.state.use import use_state

        given = {**(overrides or {}), "state": self.options.state}
        settings = load_settings(self.options.config, env=self.environment, overrides=given)
        if isinstance(settings.state, Path):  # a database reports this itself when it is used
            use_state(settings.state)
        self.open_state(settings.state)
        return settings

    def carry(self, option: str, *values: object) -> None:
        """Carry the option over to the next command, once for each value that is not None."""
        self.carried += [(option, str(value)) for value in values if value is not None]

    def carry_each(self, options: Mapping[str, object]) -> None:
        """Carry over to the next command each of the options that is not None."""
        for option, value in options.items():
            self.carry(option, value)

    def complete(self, command: str) -> str:
        """The command line with `--config`, `--state` and carried options, in a form that works in this shell."""
        from spectron_migrate.cli.next_line import program_here

        return self._complete(command, program_here())

    def complete_hint(self, hint: str) -> str:
        """The hint, in which each command has `--config`, `--state` and carried options."""
        return self._complete(hint, "spectron-migrate")

    def _complete(self, text: str, program: str) -> str:
        from spectron_migrate.cli.next_line import complete_commands

        given = (("--config", self.options.config), ("--state", self._shown_state()))
        about = [(name, str(path)) for name, path in given if path]
        return complete_commands(text, about=about, options=self.carried, program=program)

    def _shown_state(self) -> str | None:
        """The option's value, without a password."""
        from spectron_migrate.settings.state import named_state

        try:
            named = named_state(self.options.state, {})
        except InputError:
            return None
        return None if named is None else str(named)

    def ask(self, question: str) -> str:
        """Ask on stderr; returns the answer without surrounding spaces."""
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
        invocation = _prepare(command, options)
    except KeyboardInterrupt:
        return print_error(command, interrupted(), as_json=options.as_json, began=began)
    with closing(invocation):
        return _run(command, invocation, run, began=began)


def _run(command: str, invocation: Invocation, run: Callable[[Invocation], CommandResult], *, began: float) -> int:
    options, reporter = invocation.options, invocation.reporter
    try:
        result = run(invocation)
    except BrokenPipeError:
        return _discard_output()
    except (Exception, KeyboardInterrupt) as error:
        reporter.close()
        reported = _shown_error(error, invocation)
        if reported is None:
            return _print_bug(command, error, invocation, began=began)
        _log_end(invocation, command, reported.exit_code, kind=reported.kind)
        if reported.hint:
            reported.hint = invocation.complete_hint(reported.hint)
        return print_error(command, reported, as_json=options.as_json, warnings=reporter.warnings, began=began)
    reporter.close()
    _log_end(invocation, command, result.exit_code)
    if options.as_json:
        next_ = invocation.complete(result.next) if result.next else None
        _print_json(command, result, next_=next_, warnings=reporter.warnings, began=began)
    elif not options.quiet:
        _print_tables(invocation, result)
    return int(result.exit_code)


def run_async(invocation: Invocation, work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, with progress that is shown even while nothing happens.

    asyncio is imported here because `--help` and `status` do not need it.
    """
    import asyncio

    async def run_with_ticks() -> T:
        async with invocation.reporter.ticking():
            return await work

    return asyncio.run(run_with_ticks())


def _prepare(command: str, options: GlobalOptions) -> Invocation:
    from spectron_migrate.database.location import is_url
    from spectron_migrate.state.running import ProgressFile

    named = options.state is not None and not is_url(options.state)
    log = EventLog(Path(options.state or "") if named else DEFAULT_STATE, now=lambda: datetime.now(UTC))
    file = ProgressFile(command)

    def publish(progress: Progress | None) -> None:
        if progress is None:
            file.remove()
        elif invocation.has_state:
            file.write(invocation.state, progress.to_json())

    reporter = TerminalReporter(
        quiet=options.quiet or options.as_json,
        progress="none" if options.quiet else options.progress,
        log=log,
        publish=publish,
    )
    log.warn = reporter.warn
    if command not in UNLOGGED:
        log.hold("begin", command=command)
    invocation = Invocation(options, reporter, log)
    return invocation


def _shown_error(error: BaseException, invocation: Invocation) -> MigrateError | None:
    """The error as a user sees it; None for a bug."""
    if isinstance(error, KeyboardInterrupt):
        return interrupted()
    return error if isinstance(error, MigrateError) else disk_error(error, state=invocation.log.folder)


def _log_end(invocation: Invocation, command: str, code: ExitCode, *, kind: str | None = None) -> None:
    if command not in UNLOGGED:
        invocation.log.write("end", command=command, exit_code=int(code), **({"error": kind} if kind else {}))


def _print_tables(invocation: Invocation, result: CommandResult) -> None:
    from spectron_migrate.cli.tables import show

    console = invocation.console
    for part in result.tables:
        show(console, part)
    if result.choices:
        console.print("decide, by one of:", style="bold")
    for command, when in result.choices.items():
        line = printable(invocation.complete(command))
        if console.is_terminal and len(line) + len(when) + 6 > console.width:
            console.print(f"  {line}")
            show(console, f"    {when}")
        else:
            console.print(f"  {line}    {printable(when)}")
    if result.next:
        console.print(f"next: {printable(invocation.complete(result.next))}", style="bold")


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
        sys.stderr.write(wrapped_for_stderr(f"error: {printable(error.message)}") + "\n")
        if error.hint:
            sys.stderr.write(wrapped_for_stderr(f"hint: {printable(error.hint)}") + "\n")
    return int(error.exit_code)


def _print_bug(command: str, error: BaseException, invocation: Invocation, *, began: float) -> int:
    """Write the traceback of an unexpected error to the log; people get one sentence."""
    trace = _without_keys("".join(traceback.format_exception(error)))
    path = invocation.log.write_bug(command=command, traceback=trace)
    where = f"the traceback is in {path}" if path else "no log can be written here: -v shows the traceback"
    bug = MigrateError(
        f"this is a bug in spectron-migrate: {type(error).__name__}",
        hint=f"{where}; everything that was recorded is kept, and running again is safe",
    )
    if invocation.options.verbose:
        sys.stderr.write(trace)
    return print_error(command, bug, as_json=invocation.options.as_json, began=began)


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
