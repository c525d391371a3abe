"""Draws docs/terminal.svg from a real run: the last screen of a verification.

Usage: python -m tests.operator.picture > docs/terminal.svg
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from spectron_migrate.local.testing import running_server

WIDTH = 104
COMMAND = ("dual-verify", "--accept", "asked")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


def verification() -> str:
    """What `dual-verify` prints on a colour terminal after a rehearsal, as one screen."""
    program = [sys.executable, "-m", "spectron_migrate"]
    terminal = {"FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    with TemporaryDirectory() as home:
        subprocess.run([*program, "rehearse", "--keep", "tryout"], cwd=home, capture_output=True, check=True)
        tryout = Path(home) / "tryout"
        with running_server(tryout / "spectron", context="rehearsal") as server:
            access = {
                "SPECTRON_ENDPOINT": server.base_url,
                "SPECTRON_CONTEXT": server.context,
                "SPECTRON_API_KEY": server.api_key,
            }
            ended = subprocess.run(
                [*program, *COMMAND],
                cwd=tryout,
                env={**os.environ, **terminal, **access},
                capture_output=True,
                text=True,
                check=True,
            )
    # As after an installation, where the program is called by its name.
    screen = ended.stdout.replace(f"{sys.executable} -m spectron_migrate", "spectron-migrate")
    return "\n".join([f"$ spectron-migrate {' '.join(COMMAND)}", *one_screen(screen.splitlines())])


def one_screen(lines: list[str]) -> list[str]:
    """The first question with both answers, then everything after the questions."""
    plain = [_ESCAPES.sub("", line).strip() for line in lines]
    asked = [number for number, line in enumerate(plain) if " asks: " in line]
    end = asked[1] if len(asked) > 1 else plain.index("Memories")
    return [*lines[asked[0] : end], *lines[plain.index("Memories") :]]


def picture(screen: str) -> str:
    """The text as SVG, without fonts that would have to be downloaded."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen))
    return _FONTS.sub("", console.export_svg(title="spectron-migrate dual-verify"))


if __name__ == "__main__":
    sys.stdout.write(picture(verification()))
