"""The reporter of rounds. Each round reports one line, so export and replay within it only report stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spectron_migrate.errors import ExitCode, Interrupted
from spectron_migrate.records import Json
from spectron_migrate.reporter import Gauges, Reporter


class RoundReporter:
    """Passes on stages, events, and each warning once; drops messages. After a signal a reading raises Interrupted."""

    def __init__(self, inner: Reporter) -> None:
        """`inner` shows stages and warnings."""
        self._inner = inner
        self._warned: set[str] = set()
        self.stopped: ExitCode | None = None
        self._is_reading = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A context in which a signal raises Interrupted. Planning and delivery stop in their own ways."""
        self._is_reading = True
        try:
            yield
        finally:
            self._is_reading = False

    def stage(
        self, name: str, total: int | None = None, *, done: int = 0, gauges: Callable[[], Gauges] | None = None
    ) -> None:
        """Show the stage if it lasts."""
        self._go_on()
        self._inner.stage(name, total, done=done, gauges=gauges)

    def advance(self, done: int = 1) -> None:
        """Show progress with its stage."""
        self._go_on()
        self._inner.advance(done)

    def event(self, event: str, **fields: Json) -> None:
        """Pass the event on to the log."""
        self._inner.event(event, **fields)

    def warn(self, message: str) -> None:
        """Show each warning once."""
        if message not in self._warned:
            self._warned.add(message)
            self._inner.warn(message)

    def info(self, message: str) -> None:
        """Drop the message, because the round reports a line of its own."""

    def _go_on(self) -> None:
        if self.stopped is not None and self._is_reading:
            raise Interrupted("interrupted", sigterm=self.stopped == ExitCode.SIGTERM)
