"""What the adapter costs an application, beside bare Mem0 in the same run.

    python -m tests.bench.adapter_bench [--calls 2000] [--spectron up down hanging] [--json] [--beside CHECKOUT]

Bare calls and calls through the adapter alternate, so that both see the same machine; what is told is the difference
of neighbours: median and p99, in milliseconds. Mem0's own work is left out (its store answers at once), because it
would only hide what is measured. Searches are read from Mem0 while all of them are also asked of Spectron in the
background (`shadow: 1`), which is the most that a phase before `shift` can cost; with Spectron hanging or down that
must cost the same. Writes are made while a cutover is under way, by following and by outbox, where what each stored
is appended to a file. With `--beside`, the processor time of a call is measured in turns with that of another checkout
(with a `.venv` of its own). `network` counts connections that the thread of the application opened itself: none may.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spectron_migrate import MemoryAdapter
from spectron_migrate.ledger import migration_id
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.journal import CaughtUp, publish_routing, record_step
from tests.support.spectron import memory, replay, write_raw

LIMITS_MS = {"median": 0.2, "p99": 5.0}
HERE = Path(__file__).parent.parent.parent
TURNS = 3
WORSE = 1.35
"""A ratio that counts as worse; two more system calls of a call that takes 10 us are a ratio of 1.3."""
USERS = 20
MEMORIES = 30


class Mem0:
    """Mem0's interface with a store that answers at once."""

    def __init__(self) -> None:
        self._answer = {"results": [{"id": f"m{number}", "memory": "x", "score": 0.5} for number in range(5)]}

    def search(self, query: str, *, top_k: int = 20, filters: Any = None, **kwargs: Any) -> Any:
        return self._answer

    def add(self, messages: Any, *, user_id: str | None = None, **kwargs: Any) -> Any:
        return {"results": [{"id": "m1", "memory": messages, "event": "ADD"}]}


def main() -> int:
    """Measure, print, and fail where a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--spectron", nargs="+", choices=["up", "down", "hanging"], default=["up", "down", "hanging"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT")
    given = parser.parse_args()
    if given.beside is not None:
        return beside(given.beside.resolve())
    told: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="adapter-bench-") as place:
        for state in given.spectron:
            for catch_up in ("follow", "outbox"):
                with migrated(Path(place) / f"{state}-{catch_up}", catch_up) as (server, folder):
                    told += [{**row, "catch_up": catch_up} for row in measure(server, folder, state, given.calls)]
    if given.json:
        print(json.dumps(told, indent=1))
    else:
        for row in told:
            print(
                f"{row['call']:7} {row['catch_up']:7} spectron {row['spectron']:8} median {row['median']:.3f} ms"
                f"  p99 {row['p99']:.3f} ms"
                f"  bare median {row['bare']:.4f} ms  network {row['network']}  shadow {row['shadow']}"
            )
    within = all(row[name] < limit for row in told for name, limit in LIMITS_MS.items())
    return 0 if within and not any(row["network"] for row in told) else 1


def beside(other: Path) -> int:
    """Both checkouts in turns; fails if this one costs clearly more."""
    script = Path(__file__).with_name("adapter_cost.py")
    found: dict[str, dict[str, list[float]]] = {}
    for turn in range(2 * TURNS):
        name, checkout = (("this", HERE), ("other", other))[turn % 2]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        ended = subprocess.run(
            [checkout / ".venv/bin/python", "-W", "ignore", script],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
        )
        for call, cost in json.loads(ended.stdout).items():
            found.setdefault(call, {}).setdefault(name, []).append(cost)
    worst = 0.0
    for call, each in found.items():
        this, that = min(each["this"]), min(each["other"])
        worst = max(worst, this / that)
        print(f"{call:15} this {this:5.1f} us  other {that:5.1f} us  ratio {this / that:.2f}")
    return 0 if worst <= WORSE else 1


@contextmanager
def migrated(folder: Path, catch_up: Any) -> Iterator[tuple[RunningServer, Path]]:
    """A server with memories, and the state directory of a cutover that has begun and is caught up."""
    folder.mkdir()
    rows = [memory(number, f"user{user}") for user in range(USERS) for number in range(MEMORIES)]
    state = folder / ".spectron-migrate"
    with running_server(folder / "server", context="bench") as server:
        replay(server, state, [write_raw(folder / "rows.json", rows)])
        settings = {"version": 1, "cutover": {"shadow": 1}}
        (folder / "spectron-migrate.yaml").write_text(json.dumps(settings))
        began = "2026-01-01T00:00:00.000000Z"
        record_step(state, Step("start", began, "bench", migration=migration_id("bench", "files"), catch_up=catch_up))
        publish_routing(state, CaughtUp(began, time.time() + 3600, frozenset()), now=began)
        yield server, folder


def measure(server: RunningServer, folder: Path, state: str, calls: int) -> list[dict[str, Any]]:
    """Searches and writes, with Spectron as `state` says."""
    os.environ.update(SPECTRON_ENDPOINT=server.base_url, SPECTRON_CONTEXT="bench", SPECTRON_API_KEY=server.api_key)
    os.chdir(folder)
    if state == "down":
        server.kill()
    elif state == "hanging":
        server.process.send_signal(signal.SIGSTOP)
    bare, adapter = Mem0(), MemoryAdapter(Mem0())
    try:
        return [
            {
                "call": call,
                "spectron": state,
                **compare(left, right, calls),
                "shadow": adapter._core.counters.snapshot()["shadow"],
            }
            for call, left, right in (
                ("search", searcher(bare), searcher(adapter)),
                ("add", adder(bare), adder(adapter)),
            )
        ]
    finally:
        if state == "hanging":
            server.process.send_signal(signal.SIGCONT)
        adapter._core.close()


def searcher(client: Any) -> Callable[[int], Any]:
    """Searches of one user after the other."""
    return lambda number: client.search(f"thing number {number}", filters={"user_id": f"user{number % USERS}"}, top_k=5)


def adder(client: Any) -> Callable[[int], Any]:
    """Writes of one user after the other."""
    return lambda number: client.add(f"thing number {number}", user_id=f"new{number % USERS}", infer=False)


def compare(bare: Callable[[int], Any], adapted: Callable[[int], Any], calls: int) -> dict[str, float]:
    """Both, alternating, a thousand a second at most: an application does something else in between."""
    for number in range(20):
        bare(number), adapted(number)
    differences, alone = [], []
    with counted_connections() as connections:
        for number in range(calls):
            left, right = timed(bare, number), timed(adapted, number)
            alone.append(left)
            differences.append(right - left)
            time.sleep(0.001)
    differences.sort()
    return {
        "median": statistics.median(differences),
        "p99": differences[int(0.99 * len(differences))],
        "bare": statistics.median(alone),
        "network": len(connections),
    }


def timed(call: Callable[[int], Any], number: int) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    call(number)
    return (time.perf_counter() - began) * 1000


@contextmanager
def counted_connections() -> Iterator[list[Any]]:
    """Connections that this thread opens, by Python's own audit."""
    found: list[Any] = []
    mine = threading.get_ident()
    active = True

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if active and event == "socket.connect" and threading.get_ident() == mine and args[0].family != socket.AF_UNIX:
            found.append(args[1])

    sys.addaudithook(hook)
    try:
        yield found
    finally:
        active = False


if __name__ == "__main__":
    sys.exit(main())
