"""How long a dry run and `status` take, and how much memory, at several sizes of a migration.

    python tests/bench/plan_bench.py [--sizes 10000,100000,1000000]

Prints for each size: seconds and peak memory of `replay --dry-run`, then the time of `status` on a ledger of
that size beside that of an empty one, each the best of three.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from spectron_migrate.dump import open_dump
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.ledger import Ledger
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.planning import make_plan
from spectron_migrate.records import Filters, Memory, NullReporter, SourceInfo, format_time

EACH = 50
"""Memories of a user."""
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _id(number: int) -> str:
    """Random, as Mem0's ids are, and the same in each run."""
    return str(UUID(bytes=hashlib.md5(str(number).encode()).digest()))


def memories(count: int) -> Iterator[Memory]:
    """Users in turn, each with a text that is partly like their other ones."""
    for number in range(count):
        at = format_time(BEGIN + timedelta(seconds=number * 30))
        yield Memory(
            id=_id(number),
            memory=f"Prefers the {number % 97} o'clock train from platform {number % 13} on weekday {number % 7}",
            user_id=f"user-{number % max(1, count // EACH)}",
            created_at=at,
            updated_at=at,
            text_at=at,
            text_at_source="created_at",
        )


def write_dump(folder: Path, count: int) -> None:
    """A dump directory as an export leaves it."""
    with DumpWriter(folder, SourceInfo("oss", f"bench {count}"), NOW) as writer:
        for memory in memories(count):
            writer.add(memory)
        writer.commit(complete=True, native_count=count, ended=NOW)


def write_ledger(state: Path, dump: Path) -> None:
    """A ledger with everything planned and most of it written."""
    with Ledger.open_for_writing(state) as ledger:
        make_plan(
            ledger,
            open_dump(dump),
            load_mapping(None),
            Filters(),
            context="bench",
            now=format_time(NOW),
            reporter=NullReporter(),
        )
        with ledger.transaction():
            ledger.db.execute("UPDATE fact SET state = 'written', was_sent = 1 WHERE id % 10 != 0")
            ledger.db.execute("UPDATE fact SET state = 'refused', reason = '400 no' WHERE id % 1000 = 0")
            ledger.db.execute("UPDATE fact SET state = 'skipped', reason = 'expired' WHERE id % 100 = 10")


def timed(words: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of one command in a process of its own."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "spectron_migrate", *words],
        cwd=folder,
        env={**os.environ, "SPECTRON_CONTEXT": "bench"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    out, _ = process.communicate(timeout=1800)
    seconds = time.monotonic() - began
    told = json.loads(out)
    if told["exit_code"]:
        raise SystemExit(f"{words} failed: {told}")
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default="10000,100000,1000000")
    sizes = [int(size) for size in parser.parse_args().sizes.split(",")]
    status = ["status", "--json"]
    with tempfile.TemporaryDirectory(prefix="spectron-migrate-bench-") as name:
        folder = Path(name)
        write_dump(folder / "one", 1)
        write_ledger(folder / "empty", folder / "one")
        empty = min(timed([*status, "--state", "empty"], folder)[0] for _ in range(3))
        print("  memories  dry run s     per s  peak MB  status s  empty s  ratio")
        for size in sizes:
            dump, state = folder / f"dump-{size}", folder / f"state-{size}"
            write_dump(dump, size)
            seconds, peak = timed(["replay", "--dry-run", "--dump", str(dump), "--json", "--state", "none"], folder)
            write_ledger(state, dump)
            full = min(timed([*status, "--state", str(state)], folder)[0] for _ in range(3))
            print(
                f"{size:>10,} {seconds:>10.1f} {size / seconds:>9,.0f} {peak:>8.0f} {full:>9.2f} {empty:>8.2f}"
                f" {full / empty:>6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
