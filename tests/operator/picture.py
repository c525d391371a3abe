"""Draws docs/terminal.svg from a real run: the last screen of a rehearsal.

Usage: python -m tests.operator.picture > docs/terminal.svg
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

WIDTH = 112
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


def rehearsal() -> str:
    """The output of a rehearsal on a colour terminal, from dual-verify on, as one screen."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    asked = [sys.executable, "-m", "spectron_migrate", "rehearse"]
    said = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout
    return "\n".join(one_screen(said[said.rindex("$ spectron-migrate dual-verify") :].splitlines()))


def one_screen(lines: list[str]) -> list[str]:
    """The head of the table, its last query, and the end of the run; `⋮` for the queries left out."""
    plain = [_ESCAPES.sub("", line).strip() for line in lines]
    head = next(number for number, line in enumerate(plain) if "──" in line) + 1
    counts = plain.index("Memories")
    last_query = max(number for number, line in enumerate(plain[: counts - 3]) if not line)
    return [*lines[:head], "  ⋮", *lines[last_query + 1 :]]


def picture(said: str) -> str:
    """The text as SVG, without fonts that would have to be downloaded."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(said))
    return _FONTS.sub("", console.export_svg(title="spectron-migrate rehearse"))


if __name__ == "__main__":
    sys.stdout.write(picture(rehearsal()))
