"""How long the small things take, beside an empty Typer application with as many commands.

Usage: python -m tests.bench.startup_bench [--rounds 15]

`--version` and `--help` should take at most 1.3 times as long as the empty application's.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 1.3
EMPTY = """
import typer
app = typer.Typer(name="empty", no_args_is_help=True)
@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", is_eager=True)) -> None:
    if version:
        typer.echo("empty 1.0")
        raise typer.Exit
{commands}
app()
"""


def empty_app(folder: Path, commands: int) -> Path:
    """An application that does nothing, with so many commands."""
    made = "\n".join(f'@app.command("c{n}")\ndef c{n}() -> None:\n    """Do {n}."""' for n in range(commands))
    file = folder / "empty.py"
    file.write_text(EMPTY.format(commands=made))
    return file


def seconds(words: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(words, capture_output=True, check=True)
    return time.perf_counter() - began


def compare(argument: str, *, rounds: int, commands: int) -> tuple[float, float]:
    """Medians of ours and of the empty one, in seconds, taken in turns so that both meet the same machine."""
    with tempfile.TemporaryDirectory() as name:
        empty = [sys.executable, str(empty_app(Path(name), commands)), argument]
        ours = [sys.executable, "-m", "spectron_migrate", argument]
        seconds(empty), seconds(ours)  # compiled and in the cache
        taken = [(seconds(ours), seconds(empty)) for _ in range(rounds)]
    return statistics.median(one for one, _ in taken), statistics.median(other for _, other in taken)


def main() -> None:
    from spectron_migrate.cli.app import app

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    commands = len(app.registered_commands) + len(app.registered_groups)
    for argument in ("--version", "--help"):
        ours, empty = compare(argument, rounds=rounds, commands=commands)
        verdict = "within" if ours <= LIMIT * empty else "NOT within"
        print(
            f"{argument:10} {ours * 1000:.0f} ms, an empty application of {commands} commands {empty * 1000:.0f} ms:"
            f" {ours / empty:.2f} x, {verdict} {LIMIT} x"
        )


if __name__ == "__main__":
    main()
