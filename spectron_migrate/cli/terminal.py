"""Progress and messages on stderr, so that stdout stays data: a bar on a terminal, a line every 30 s elsewhere."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

from spectron_migrate.cli.progress import FALLBACK_COLUMNS, Progress, StageProgress
from spectron_migrate.records import Json
from spectron_migrate.reporter import Gauges

if TYPE_CHECKING:
    from spectron_migrate.cli.bar import Bar
    from spectron_migrate.cli.log import EventLog

LINE_EVERY_S = 30.0
LOG_EVERY_S = 60.0
PUBLISH_EVERY_S = 2.0
DRAW_EVERY_S = 0.1
"""How often the bar is drawn while items are being finished."""
TICK_S = 1.0
"""How often progress is checked while nothing happens."""
QUICK_S = 0.3
"""A stage that ends within this time is not drawn."""

_REPLACED = "spectron-migrate-replace"
"""Name of the error handler that `make_printable` sets."""

_COMMAND = re.compile(
    r"spectron-migrate(?: cutover)?(?: [a-z][a-z-]*)?"
    r"(?: --[a-z-]+(?:[ =](?!-)[^\s,;:)]+)?| [A-Z_]{2,}\b| [a-z]+(?= --))*"
)
"""A command in a text; what follows it is prose."""
_JOINT = "\ue000"
"""Stands for a space at which no line may end."""
_LABEL = re.compile(r"\s*(- )?[\w -]{1,24}: ")

ProgressMode = Literal["auto", "bar", "lines", "none"]


def printable(text: str) -> str:
    """Text whose control characters are escaped (`\\x1b`), line breaks aside: a terminal shows them, never obeys."""
    return "".join(letter if letter.isprintable() or letter == "\n" else f"\\x{ord(letter):02x}" for letter in text)


def wrapped(text: str, columns: int, *, indent: str = "") -> list[str]:
    """Lines of at most `width` columns, broken only between words: a path, an id or a command to paste stays whole.

    All lines but the first begin with `indent`.
    """
    joined = _COMMAND.sub(lambda found: found[0].replace(" ", _JOINT), text)
    lines = wrap(joined, max(20, columns), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_JOINT, " ") for line in lines] or [""]


def wrapped_for_stderr(text: str) -> str:
    """The text, wrapped between words if stderr is a terminal; otherwise as it is."""
    if not sys.stderr.isatty():
        return text
    try:
        columns = int(os.environ.get("COLUMNS") or os.get_terminal_size(sys.stderr.fileno()).columns)
    except (OSError, ValueError):
        columns = FALLBACK_COLUMNS
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())] + ("  " if _LABEL.match(line) else "")
        lines += wrapped(line, columns, indent=indent)
    return "\n".join(lines)


def make_printable() -> None:
    """Print a replacement for characters that the encoding of stdout or stderr lacks, instead of failing."""
    codecs.register_error(_REPLACED, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors=_REPLACED)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Question marks, as wide as what they replace, so that columns stay aligned."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    from rich.cells import cell_len

    return "?" * cell_len(error.object[error.start : error.end]), error.end


class TerminalReporter:
    """The command line's `Reporter`. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        progress: ProgressMode = "auto",
        log: EventLog | None = None,
        publish: Callable[[Progress | None], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        """`quiet` shows warnings only.

        `log` receives events. `publish` is called every 2 s with the progress that other processes may show, and with
        None at the end. `clock` in seconds, monotonic.
        """
        self.warnings: list[str] = []
        self._quiet = quiet
        self._verbose = verbose
        self._mode: ProgressMode = progress
        if progress == "auto":
            self._mode = "bar" if sys.stderr.isatty() else "lines"
        self._log = log
        self._publish = publish
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.RLock()
        self._stage: StageProgress | None = None
        self._bar: Bar | None = None
        self._has_lines = False
        """Whether any line about this stage was written."""
        now = clock()
        self._look_at = self._line_at = self._log_at = self._publish_at = now
        self._wait_for(now)

    def _wait_for(self, now: float) -> None:
        self._line_at, self._log_at = now + LINE_EVERY_S, now + LOG_EVERY_S

    # -- the protocol `Reporter` ---------------------------------------------------------------------------

    def stage(
        self, name: str, total: int | None = None, *, done: int = 0, gauges: Callable[[], Gauges] | None = None
    ) -> None:
        """Begin a stage. What is on the screen stays there until this stage lasts long enough to be drawn."""
        with self._lock:
            self._end_lines()
            now = self._clock()
            self._stage = StageProgress(name, total, done=done, gauges=gauges, now=now)
            self._look_at = now + QUICK_S

    def advance(self, done: int = 1) -> None:
        """Count, and draw if it is time."""
        if self._stage is not None:
            self._stage.done += done
            if self._clock() >= self._look_at:
                self.tick()

    def event(self, event: str, **fields: Json) -> None:
        """Append an event to `log.jsonl`."""
        if self._log is not None:
            self._log.write(event, **fields)

    def warn(self, message: str) -> None:
        """Show a warning and keep it for `--json`; the same warning is shown once."""
        if message not in self.warnings:
            self.warnings.append(message)
            self._write(f"warning: {message}")

    def info(self, message: str) -> None:
        """Show a message, unless quiet."""
        if not self._quiet:
            self._write(message)

    # -- drawing -------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Draw, write and publish what is due. The cost does not grow with the size of the migration."""
        with self._lock:
            now, stage = self._clock(), self._stage
            if stage is None:
                return
            self._look_at = now + (DRAW_EVERY_S if self._mode == "bar" else TICK_S)
            if self._mode == "bar" and now - stage.began >= QUICK_S:
                self._draw()
            if self._mode == "lines" and now >= self._line_at and (stage.done or stage.total):
                self._write(stage.at(now).line)
                self._has_lines, self._line_at = True, now + LINE_EVERY_S
            if self._log is not None and now >= self._log_at:
                self._log_at = now + LOG_EVERY_S
                self._log.write("progress", **stage.at(now).to_json())
            if self._publish is not None and now >= self._publish_at:
                self._publish_at = now + PUBLISH_EVERY_S
                self._publish(stage.at(now))
                if self._log is not None:
                    self._log.flush()

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """In the running event loop, also draw, write and publish progress while nothing happens."""
        import asyncio  # `--help` and `status` do without it

        sleep = self._sleep or asyncio.sleep

        async def tick() -> None:
            while True:
                await sleep(TICK_S)
                self.tick()

        ticks = asyncio.ensure_future(tick())
        try:
            yield
        finally:
            ticks.cancel()

    def close(self) -> None:
        """End the stage. A bar that is not full stays on the screen; a full one is removed."""
        with self._lock:
            self._end_lines()
            if self._bar is not None:
                is_over = self._stage is None or self._stage.is_over or not self._stage.done
                self._bar.leave = not is_over
                self._bar.close()
                self._bar = None
            self._stage = None
            if self._publish is not None:
                self._publish(None)

    def _draw(self) -> None:
        if self._bar is None:
            from spectron_migrate.cli.bar import Bar

            self._bar = Bar(self._at_work)
        else:
            self._bar.refresh()

    def _at_work(self) -> Progress:
        return self._stage.at(self._clock()) if self._stage is not None else Progress("", 0)

    def _end_lines(self) -> None:
        """Write how far the stage came, if lines about it were written before."""
        if self._has_lines and self._stage is not None:
            self._has_lines = False
            self._write(self._stage.at(self._clock()).line)

    def _write(self, text: str) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.clear()
            sys.stderr.write(wrapped_for_stderr(printable(text)) + "\n")
            sys.stderr.flush()
            if self._bar is not None:
                self._bar.refresh()
