"""A picture of the terminal, from a real run: dual-verify at the end of a rehearsal.

Usage: python -m tests.operator.picture > docs/terminal.svg
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

WIDTH = 112
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


def rehearsal() -> str:
    """What the last command of a rehearsal shows on a colour terminal."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    asked = [sys.executable, "-m", "spectron_migrate", "rehearse"]
    said = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout
    return said[said.rindex("$ spectron-migrate dual-verify") :]


def picture(said: str) -> str:
    """As SVG, without fonts that would have to be fetched."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(said))
    return _FONTS.sub("", console.export_svg(title="spectron-migrate rehearse"))


if __name__ == "__main__":
    sys.stdout.write(picture(rehearsal()))
