"""How the steps report what goes on: they never print, they are given a `Reporter`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from spectron_migrate.records import Json


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is going on in a stage at this moment, besides what is done."""

    in_flight: int
    """Requests without a response yet."""
    in_doubt: int
    """Memories of which it is not known yet whether they are stored."""
    slowed: str = ""
    """What slows the stage down; empty if nothing does."""


class Reporter(Protocol):
    """Output of the steps, which never print. The command line draws it; tests and libraries use `NullReporter`."""

    def stage(
        self, name: str, total: int | None = None, *, done: int = 0, gauges: Callable[[], Gauges] | None = None
    ) -> None:
        """A stage begins, with `total` items if that number is known, of which earlier runs have done `done`.

        `gauges` is called whenever the progress is drawn.
        """

    def advance(self, done: int = 1) -> None:
        """`done` more items of the stage are finished."""

    def event(self, event: str, **fields: Json) -> None:
        """Something to be kept in the log: ids, counts and codes, never a text."""

    def warn(self, message: str) -> None:
        """A warning, which is also added to the `warnings` of the summary."""

    def info(self, message: str) -> None:
        """A line for the user."""


class NullReporter:
    """Prints nothing and keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def stage(
        self, name: str, total: int | None = None, *, done: int = 0, gauges: Callable[[], Gauges] | None = None
    ) -> None:
        pass

    def advance(self, done: int = 1) -> None:
        pass

    def event(self, event: str, **fields: Json) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def info(self, message: str) -> None:
        pass
