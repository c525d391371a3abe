"""Writes docs/cli.md: the `--help` of every command.

Usage: python -m tests.operator.help_page > docs/cli.md
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version

from spectron_migrate.cli.app import build_app

INTRODUCTION = """\
# Command line

Written by `python -m tests.operator.help_page` with Typer {version}; a test compares it with the program's own help.
"""
COLUMNS = "100"
PRINT_HELP = """
import json, sys
from spectron_migrate.cli.app import run
for words in json.loads(sys.argv[1]):
    run([*words, "--help"])
    print("\\f", end="")
"""


def commands() -> list[list[str]]:
    """Every command and subcommand, in the order of the program's help; first the program itself."""
    app = build_app()
    found: list[list[str]] = [[], *([str(command.name)] for command in app.registered_commands)]
    for group in app.registered_groups:
        found.append([str(group.name)])
        inner = group.typer_instance
        found += [[str(group.name), str(each.name)] for each in (inner.registered_commands if inner else [])]
    return found


@cache
def help_texts() -> dict[tuple[str, ...], str]:
    """The help of each command at a fixed width; one process prints them all."""
    environment = {**os.environ, "COLUMNS": COLUMNS, "TERMINAL_WIDTH": COLUMNS, "NO_COLOR": "1"}
    words = [sys.executable, "-c", PRINT_HELP, json.dumps(commands())]
    output = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    texts = ["\n".join(line.rstrip() for line in text.strip("\n").splitlines()) for text in output.split("\f")]
    return dict(zip(map(tuple, commands()), texts[:-1], strict=True))


def page() -> str:
    """The whole page."""
    sections = [
        f"## {' '.join(['spectron-migrate', *words])}\n\n```text\n{text}\n```\n" for words, text in help_texts().items()
    ]
    return "\n".join([INTRODUCTION.format(version=version("typer")), *sections])


if __name__ == "__main__":
    sys.stdout.write(page())
