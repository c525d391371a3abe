"""`--help` of every command as a page of the documentation.

Usage: python -m tests.operator.help_page > docs/cli.md
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version

HEAD = """\
# Command line

Made by `python -m tests.operator.help_page` with Typer {version}; a test compares it with what the program says.
"""
COLUMNS = "100"
ASK = """
import json, sys
from spectron_migrate.cli.app import run
for words in json.loads(sys.argv[1]):
    run([*words, "--help"])
    print("\\f", end="")
"""


def commands() -> list[list[str]]:
    """Every command and subcommand, in the order of the program's own help."""
    from spectron_migrate.cli.app import app

    found: list[list[str]] = [[], *([str(command.name)] for command in app.registered_commands)]
    for group in app.registered_groups:
        found.append([str(group.name)])
        inner = group.typer_instance
        found += [[str(group.name), str(each.name)] for each in (inner.registered_commands if inner else [])]
    return found


@cache
def help_of_all() -> dict[tuple[str, ...], str]:
    """What the program says of each command, at a width of its own: one process asks for them all."""
    environment = {**os.environ, "COLUMNS": COLUMNS, "TERMINAL_WIDTH": COLUMNS, "NO_COLOR": "1"}
    asked = [sys.executable, "-c", ASK, json.dumps(commands())]
    said = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout
    texts = ["\n".join(line.rstrip() for line in text.strip("\n").splitlines()) for text in said.split("\f")]
    return dict(zip(map(tuple, commands()), texts[:-1], strict=True))


def page() -> str:
    parts = [
        f"## {' '.join(['spectron-migrate', *words])}\n\n```text\n{text}\n```\n"
        for words, text in help_of_all().items()
    ]
    return "\n".join([HEAD.format(version=version("typer")), *parts])


if __name__ == "__main__":
    sys.stdout.write(page())
