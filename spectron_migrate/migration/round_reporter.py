"""What rounds tell: each has one line of its own, so what export and replay say inside it is left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spectron_migrate.errors import ExitCode, Interrupted
from spectron_migrate.records import Reporter


class RoundReporter:
    """Passes each warning on once, leaves out the rest, and lets a signal end a reading."""

    def __init__(self, inner: Reporter) -> None:
        """`inner` is who tells people."""
        self._inner = inner
        self._said: set[str] = set()
        self.stopped: ExitCode | None = None
        self._ends = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A signal ends what happens here; planning and delivery have their own ways to stop."""
        self._ends = True
        try:
            yield
        finally:
            self._ends = False

    def stage(self, name: str, total: int | None = None) -> None:
        """Not shown."""
        self._go_on()

    def advance(self, done: int = 1, note: str = "") -> None:
        """Not shown."""
        self._go_on()

    def warn(self, message: str) -> None:
        """Shown once."""
        if message not in self._said:
            self._said.add(message)
            self._inner.warn(message)

    def info(self, message: str) -> None:
        """A round has one line of its own."""

    def _go_on(self) -> None:
        if self.stopped is not None and self._ends:
            raise Interrupted("interrupted", sigterm=self.stopped == ExitCode.SIGTERM)
