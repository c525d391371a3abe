"""`--help` of every command as a page of the documentation.

Usage: python -m tests.operator.help_page > docs/cli.md
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

HEAD = """\
# Command line

Made by `python -m tests.operator.help_page` with Typer {version}; a test compares it with what the program says.
"""
COLUMNS = "100"


def commands() -> list[list[str]]:
    """Every command and subcommand, in the order of the program's own help."""
    from spectron_migrate.cli.app import app

    found: list[list[str]] = [[], *([str(command.name)] for command in app.registered_commands)]
    for group in app.registered_groups:
        found.append([str(group.name)])
        inner = group.typer_instance
        found += [[str(group.name), str(each.name)] for each in (inner.registered_commands if inner else [])]
    return found


def help_of(words: list[str]) -> str:
    """What the program says, at a width of its own."""
    environment = {**os.environ, "COLUMNS": COLUMNS, "TERMINAL_WIDTH": COLUMNS, "NO_COLOR": "1"}
    asked = [sys.executable, "-m", "spectron_migrate", *words, "--help"]
    said = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout
    return "\n".join(line.rstrip() for line in said.strip("\n").splitlines())


def page() -> str:
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(help_of, commands()))
    parts = [
        f"## {' '.join(['spectron-migrate', *words])}\n\n```text\n{text}\n```\n"
        for words, text in zip(commands(), said, strict=True)
    ]
    return "\n".join([HEAD.format(version=version("typer")), *parts])


if __name__ == "__main__":
    sys.stdout.write(page())
