"""How long the small things take, beside an empty Typer application with as many commands.

Usage: python -m tests.bench.startup_bench [--rounds 15] [--rows 1000000]

`--version` and `--help` should take at most 1.3 times as long as the empty application's `--help`, `status` on a
ledger of a million rows at most twice as long. Beside the clock's ratio stands that of processor time, which other
work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from spectron_migrate.ledger import Ledger
from tests.bench.plan_bench import write_dump, write_ledger

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
LIMITS = {"--version": 1.3, "--help": 1.3, "status": 2.0}
SEED = 1000
"""Rows that are planned as a replay plans them; the others are copies of theirs."""


def empty_app(folder: Path, commands: int) -> Path:
    """An application that does nothing, with so many commands."""
    made = "\n".join(f'@app.command("c{n}")\ndef c{n}() -> None:\n    """Do {n}."""' for n in range(commands))
    file = folder / "empty.py"
    file.write_text(EMPTY.format(commands=made))
    return file


def grow_ledger(folder: Path, rows: int) -> Path:
    """A state directory whose ledger has so many facts, nine of ten written."""
    write_dump(folder / "dump", SEED)
    write_ledger(folder / "state", folder / "dump")
    with Ledger.open_for_writing(folder / "state") as ledger, ledger.transaction():
        more = rows // SEED - 1
        copies = f"WITH RECURSIVE copy(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copy WHERE n < {more})"
        for table in ("version", "fact"):
            columns = [row["name"] for row in ledger.db.execute(f"PRAGMA table_info({table})")]
            changed = {"id": f"copy.n * {SEED} + id", "mem0_id": "copy.n || mem0_id", "key": "copy.n || key"}
            copied = [changed.get(name, name) for name in columns]
            ledger.db.execute(
                f"{copies} INSERT INTO {table}({', '.join(columns)}) SELECT {', '.join(copied)} FROM copy, {table}"
                f" WHERE {table}.id <= {SEED}"
            )
    return folder / "state"


def taken(words: list[str], folder: Path) -> tuple[float, float]:
    """Seconds on the clock, and of the processor."""
    before, began = os.times(), time.perf_counter()
    subprocess.run(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    ended, after = time.perf_counter(), os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return ended - began, processor


def compare(ours: list[str], empty: list[str], folder: Path, rounds: int) -> tuple[tuple[float, float], ...]:
    """Medians of ours and of the empty one, taken in turns so that both meet the same machine."""
    taken(ours, folder), taken(empty, folder)  # compiled and in the cache
    rows = [(taken(ours, folder), taken(empty, folder)) for _ in range(rounds)]
    return tuple((_median(row[side][0] for row in rows), _median(row[side][1] for row in rows)) for side in (0, 1))


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def main() -> None:
    from spectron_migrate.cli.app import COMMANDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=1_000_000)
    asked = parser.parse_args()
    commands = len(COMMANDS)
    with tempfile.TemporaryDirectory(prefix="spectron-migrate-bench-") as name:
        folder = Path(name)
        state = grow_ledger(folder, asked.rows)
        words = {"--version": ["--version"], "--help": ["--help"], "status": ["status", "--state", str(state)]}
        empty = [sys.executable, str(empty_app(folder, commands)), "--help"]
        for argument, limit in LIMITS.items():
            ours = [sys.executable, "-m", "spectron_migrate", *words[argument]]
            (clock, processor), (empty_clock, empty_processor) = compare(ours, empty, folder, asked.rounds)
            verdict = "within" if clock <= limit * empty_clock else "NOT within"
            print(
                f"{argument:10} {clock * 1000:.0f} ms, an empty application of {commands} commands"
                f" {empty_clock * 1000:.0f} ms: {clock / empty_clock:.2f} x, {verdict} {limit} x"
                f" (processor {processor / empty_processor:.2f} x)",
                flush=True,
            )


if __name__ == "__main__":
    main()
