"""How long planning, dry runs and `status` take, and how much memory, at several sizes of a migration.

    python -m tests.bench.plan_bench [--sizes 10000,100000,1000000]

Prints for each size: the seconds in which the lines of the dump are parsed and inserted bare, those of planning and its
peak memory, and the ratio; the seconds of a dry run of a plan that is in the ledger already, and of `status`, beside
those of `status` for an empty ledger, each the best of three.

Bare: `json.loads` of each line, and as many rows with as many letters as the plan has, inserted a thousand at a time
into the ledger's own tables without their indexes. `one table` is the same with the line alone, into one table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from uuid import UUID

from spectron_migrate.dump import open_dump
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.new_memories import INSERT_FACT, INSERT_MEMORY, INSERT_VERSION
from spectron_migrate.ledger.schema import DDL
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.planning import make_plan
from spectron_migrate.records import Filters, Memory, SourceInfo, format_time
from spectron_migrate.reporter import NullReporter

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
    """A ledger with everything planned and most of it written, nothing left."""
    with Ledger.open_for_writing(state) as ledger:
        _make_plan(ledger, dump)
        with ledger.transaction():
            ledger.db.execute("UPDATE fact SET state = 'written', was_sent = 1")
            ledger.db.execute("UPDATE fact SET state = 'refused', reason = '400 no' WHERE id % 1000 = 0")
            ledger.db.execute("UPDATE fact SET state = 'skipped', reason = 'expired' WHERE id % 100 = 10")


def _make_plan(ledger: Ledger, dump: Path) -> None:
    make_plan(
        ledger,
        open_dump(dump),
        load_mapping(None),
        Filters(),
        context="bench",
        now=format_time(NOW),
        reporter=NullReporter(),
    )


def insert_bare(dump: Path, folder: Path, *, one_table: bool) -> None:
    """Parse each line and insert it, and nothing else."""
    tables = "\n".join(line for line in DDL.splitlines() if not line.startswith("CREATE INDEX"))
    db = sqlite3.connect(folder / "bare.db", isolation_level=None)
    db.executescript("PRAGMA journal_mode = WAL;" + ("" if one_table else tables))
    if one_table:
        db.execute("CREATE TABLE memory(id TEXT PRIMARY KEY, record TEXT)")
    db.execute("BEGIN")
    with (dump / "memories.jsonl").open() as lines:
        numbered = enumerate(lines, 1)
        while chunk := list(islice(numbered, 1000)):
            rows = [(number, json.loads(line), line) for number, line in chunk]
            if one_table:
                db.executemany("INSERT INTO memory VALUES (?, ?)", [(row["id"], line) for _, row, line in rows])
                continue
            digest = "0" * 64
            db.executemany(
                INSERT_MEMORY, [(row["id"], line, digest, 1, row["state"], None, None) for _, row, line in rows]
            )
            db.executemany(
                INSERT_VERSION,
                [(no, row["id"], 1, row["memory"], digest, row["text_at"], 1, row["text_at"]) for no, row, _ in rows],
            )
            rest = (1, 1, None, "full", "user", "knowledge", f'["mem0_id={"0" * 36}"]', digest, "planned", None)
            db.executemany(
                INSERT_FACT,
                [
                    (no, None, 1, f"{row['text_at']}|{row['created_at']}|{0:015}|{row['id']}", *rest)
                    for no, row, _ in rows
                ],
            )
    db.execute("COMMIT")
    db.close()


def plan_fresh(dump: Path, folder: Path) -> None:
    """Make the plan of an empty ledger."""
    with Ledger.open_for_writing(folder / "planned") as ledger:
        _make_plan(ledger, dump)


def measured(what: str, dump: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of a process of its own."""
    command = [sys.executable, "-m", "tests.bench.plan_bench", "--measure", what, str(dump)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result["seconds"], result["megabytes"]


def measure(what: str, dump: Path) -> None:
    """What `measured` starts."""
    with tempfile.TemporaryDirectory(prefix="spectron-migrate-bench-", dir=dump.parent) as name:
        began = time.monotonic()
        if what == "plan":
            plan_fresh(dump, Path(name))
        else:
            insert_bare(dump, Path(name), one_table=what == "one")
        seconds = time.monotonic() - began
    status = Path("/proc/self/status").read_text()
    print(json.dumps({"seconds": seconds, "megabytes": int(status.split("VmHWM:")[1].split()[0]) / 1024}))


def timed(words: list[str], folder: Path) -> float:
    """Seconds of one command in a process of its own."""
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
    return seconds


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "DUMP"))
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments.measure[0], Path(arguments.measure[1]))
    with tempfile.TemporaryDirectory(prefix="spectron-migrate-bench-") as name:
        folder = Path(name)
        write_dump(folder / "one", 1)
        write_ledger(folder / "empty", folder / "one")
        empty = min(timed(["status", "--json", "--state", "empty"], folder) for _ in range(3))
        print("  memories   bare s   plan s  ratio  one table  ratio  peak MB  unchanged s  status s  empty s")
        for size in map(int, arguments.sizes.split(",")):
            dump, state = folder / f"dump-{size}", folder / f"state-{size}"
            write_dump(dump, size)
            bare, one, (planned, peak) = measured("bare", dump)[0], measured("one", dump)[0], measured("plan", dump)
            write_ledger(state, dump)
            told = ["--json", "--state", str(state)]
            unchanged = min(timed(["replay", "--dry-run", "--dump", str(dump), *told], folder) for _ in range(3))
            full = min(timed(["status", *told], folder) for _ in range(3))
            print(
                f"{size:>10,} {bare:>8.1f} {planned:>8.1f} {planned / bare:>6.2f} {one:>10.1f} {planned / one:>6.2f}"
                f" {peak:>8.0f} {unchanged:>12.2f} {full:>9.2f} {empty:>8.2f}",
                flush=True,
            )
    return None


if __name__ == "__main__":
    main()
