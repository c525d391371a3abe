"""A cutover under writes: whether `shift` opens, and how soon what is written to Mem0 is in Spectron.

    python -m tests.bench.cutover_bench [--memories 100000] [--stores qdrant,pgvector] [--rate 20] [--seconds 120]

Makes a store of so many memories, reads and plans all of them, and notes them as written. Then it runs the commands of
a cutover as an operator does, `cutover start`, `replay --follow` and `cutover shift 10`, while an application writes so
many memories a second, half of them new. A verification is not part of it: its report is made up. Prints how long the
shift took, and the seconds from a write to its arrival beyond `settle`: the median and the longest, of the writes until
the shift had opened and of those in so many seconds after it. `fresh`: the share of these seconds in which
`routing.json` let users be read from Spectron.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spectron_migrate.dump import read_manifest
from spectron_migrate.ledger import migration_id
from spectron_migrate.mem0.open import mem0_source_info
from spectron_migrate.records import format_time
from spectron_migrate.state.following import FOLLOW_FILE
from spectron_migrate.state.routing import read_routing
from spectron_migrate.verify.reports.json_file import LAST_REPORT, json_report
from tests.bench.replay_bench import Server, serving
from tests.bench.rounds_bench import STORES, Store, prepare

MAX_LAG_S = 60.0


class Application:
    """Writes to the store from a thread of its own, until it is stopped."""

    def __init__(self, store: Store, rate: float) -> None:
        self.store, self.rate, self.written = store, rate, 0
        self._next, self._dice = store.count, random.Random(1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Application:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        begin = time.monotonic()
        while not self._stopped.is_set():
            now = datetime.now(UTC)
            number = self._next if self.written % 2 else self._dice.randrange(self.store.count)
            self._next += self.written % 2
            self.store.change({number: f"takes a train, written at {now.timestamp():.3f}"}, [], now)
            self.written += 1
            self._stopped.wait(max(0.0, begin + self.written / self.rate - time.monotonic()))


def write_settings(folder: Path, store: Store, settle_s: float) -> None:
    """What the commands read."""
    (folder / "mem0.json").write_text(json.dumps(store.section["oss"]["config"]))
    cutover = f"{{max_lag: {MAX_LAG_S:.0f}s, settle: {settle_s:.0f}s}}"
    (folder / "spectron-migrate.yaml").write_text(
        f"version: 1\nmem0: {{oss: {{config: mem0.json}}}}\ncutover: {cutover}\nstate: state\ndump: dump\n"
    )


def write_report(folder: Path, store: Store) -> None:
    """A verification that says GO, of the dump as it is now."""
    with_state = folder / "state"
    manifest = read_manifest(folder / "dump")
    assert manifest is not None
    now = format_time(datetime.now(UTC))
    routing = read_routing(with_state)
    assert routing is not None
    report = {
        "verdict": "GO",
        "migration": migration_id("bench", mem0_source_info(store.section["oss"]["config"]).identity),
        "mapping": planned_mapping(with_state),
        "began": now,
        "ended": now,
        "dump": planned_dump(with_state),
        "options": {"users": []},
        "measured": {"isolation": {"leaks": 0}},
    }
    (with_state / LAST_REPORT).write_text(json_report(report))


def planned_mapping(state: Path) -> str:
    from spectron_migrate.ledger import Ledger

    with Ledger.open_for_reading(state) as ledger:
        migration = ledger.migration()
        assert migration is not None
        return migration.mapping_digest


def planned_dump(state: Path) -> str:
    """Digest of the dump that was planned last."""
    from spectron_migrate.ledger import Ledger

    with Ledger.open_for_reading(state) as ledger:
        return str(ledger.db.execute("SELECT id FROM scan ORDER BY no DESC LIMIT 1").fetchone()[0])


def environment(server: Server) -> dict[str, str]:
    known = ("SPECTRON", "AGENT_MEMORY", "SURREAL_MEMORY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(known)}
    root = str(Path(__file__).resolve().parents[2])
    named = {"SPECTRON_ENDPOINT": server.url, "SPECTRON_CONTEXT": "bench", "SPECTRON_API_KEY": "sk-bench"}
    return kept | named | {"PYTHONPATH": root}


def run(folder: Path, server: Server, *words: str) -> dict[str, Any]:
    """One command in a process of its own; what it says as JSON."""
    command = [sys.executable, "-m", "spectron_migrate", *words, "--json"]
    done = subprocess.run(command, cwd=folder, env=environment(server), capture_output=True, text=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@contextmanager
def following(folder: Path, server: Server) -> Iterator[None]:
    """`replay --follow` beside everything else."""
    command = [sys.executable, "-m", "spectron_migrate", "replay", "--follow", "--json"]
    with (folder / "follow.out").open("w") as out, (folder / "follow.err").open("w") as err:
        process = subprocess.Popen(command, cwd=folder, env=environment(server), stdout=out, stderr=err)
        try:
            yield
            said = (folder / "follow.out").read_text() + (folder / "follow.err").read_text()
            said += (folder / "state" / "log.jsonl").read_text()[-4000:]
            assert process.poll() is None, said
        finally:
            process.terminate()
            process.wait()


def wait_until(holds: Callable[[], bool], patience_s: float, what: str) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > patience_s:
            raise SystemExit(f"not within {patience_s:.0f} s: {what}")
        time.sleep(0.2)
    return time.monotonic() - began


def share_fresh(state: Path, seconds: float) -> float:
    """Share of so many seconds in which users could be read from Spectron."""
    fresh = total = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        routing = read_routing(state)
        total += 1
        fresh += bool(routing and routing.fresh_until and routing.fresh_until > time.time())
        time.sleep(0.5)
    return fresh / max(1, total)


def beyond(lags: list[float], settle_s: float) -> str:
    late = [lag - settle_s for lag in lags]
    return f"{statistics.median(late):.1f} s, longest {max(late):.1f} s" if late else "none"


def measure(store: Store, folder: Path, server: Server, asked: argparse.Namespace) -> None:
    state = folder / "state"
    write_settings(folder, store, asked.settle)
    told = run(folder, server, "cutover", "start")
    assert not told["exit_code"], told
    with Application(store, asked.rate) as application, following(folder, server):
        patience_s = 120 + store.count / 1000  # between readings a follower rests twice as long as they take
        followed_s = wait_until((state / FOLLOW_FILE).exists, patience_s, "a first round of following")
        write_report(folder, store)
        began, before = time.monotonic(), len(server.stats()["lags"])
        told = run(folder, server, "cutover", "shift", "10")
        shift_s = time.monotonic() - began
        failed = [each for each in told.get("gates", []) if not each["passed"] and each["holds"] == "shift"]
        assert not told["exit_code"], (told.get("error"), failed)
        time.sleep(asked.settle + 10)
        until_shift = server.stats()["lags"]
        fresh = share_fresh(state, asked.seconds)
        after = server.stats()["lags"][len(until_shift) :]
        written = application.written
    lag = next(each["value"] for each in told["gates"] if each["name"] == "lag")
    print(
        f"  the first round ended after {followed_s:.0f} s; shift opened after {shift_s:.0f} s, lag at the gate {lag} s"
    )
    print(f"  beyond settle, before the shift: {beyond(until_shift[:before], asked.settle)}")
    print(f"  beyond settle, during it:        {beyond(until_shift[before:], asked.settle)}")
    print(f"  beyond settle, after it:         {beyond(after, asked.settle)}; fresh {fresh:.0%}")
    print(f"  {written:,} written, {len(until_shift) + len(after):,} had arrived", flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--memories", type=int, default=100_000)
    parser.add_argument("--stores", default="qdrant,pgvector")
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--settle", type=float, default=10.0)
    asked = parser.parse_args()
    for kind in asked.stores.split(","):
        print(f"{kind}, {asked.memories:,} memories, {asked.rate:g} writes a second", flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as opened:
            folder = Path(name)
            store = STORES[kind](folder, asked.memories)
            prepare(store.section, folder)
            measure(store, folder, opened.enter_context(serving(latency=0.005)), asked)


if __name__ == "__main__":
    main()
