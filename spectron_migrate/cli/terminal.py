"""Progress and messages on stderr, so that stdout stays data: one tqdm bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_EVERY = 5000


def printable(text: str) -> str:
    """Text whose control characters are escaped (`\\x1b`), line breaks aside: a terminal shows them, never obeys."""
    return "".join(letter if letter.isprintable() or letter == "\n" else f"\\x{ord(letter):02x}" for letter in text)


def make_printable() -> None:
    """Print a replacement for what the encoding of stdout or stderr lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


class TerminalReporter:
    """The command line's `Reporter`."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        """`quiet` shows warnings only."""
        self.warnings: list[str] = []
        self._quiet = quiet
        self._verbose = verbose
        self._terminal = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None
        self._name = ""
        self._total: int | None = None
        self._done = 0

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage: a new bar; without a terminal, lines under a new name."""
        self.close()
        self._name, self._total, self._done = name, total, 0
        if self._terminal and not self._quiet and total != 0:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=name, unit="", file=sys.stderr, leave=False, dynamic_ncols=True)

    def advance(self, done: int = 1, note: str = "") -> None:
        """Move the bar; without a terminal, write a line every 5,000 items or every 5 %."""
        self._done += done
        if self._bar is not None:
            self._bar.update(done)
            if note != (self._bar.postfix or ""):
                self._bar.set_postfix_str(note, refresh=False)
        elif not self._quiet and not self._terminal and self._done % max(LINE_EVERY, (self._total or 0) // 20) < done:
            total = f" of {self._total}" if self._total else ""
            self._write(f"{self._name}: {self._done}{total}{f' ({note})' if note else ''}")

    def warn(self, message: str) -> None:
        """Show a warning and keep it for `--json`."""
        self.warnings.append(message)
        self._write(f"warning: {message}")

    def info(self, message: str) -> None:
        """Show a message, unless quiet."""
        if not self._quiet:
            self._write(message)

    def close(self) -> None:
        """Remove the bar from the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()
        if self._bar is not None:
            self._bar.refresh()
