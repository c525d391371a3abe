"""A real `spectron-migrate replay` against a real server process, both killed with -9 at random points.

    python tests/chaos/replay_chaos.py [--kills 200] [--seed 0]

Between them stands the fault layer. Each world has another reading of what the contract leaves open, its own
faults, users whose memories have the same texts, and a Mem0 that goes on growing; the server's clock jumps past
the life of the idempotency keys. Runs are killed and begun again until the weather clears; then everything must
be decided, and the oracle must find nothing wrong on the server's own tables.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.local.faults import PASSING, FaultLayer, Faults
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.mapping import load_mapping
from spectron_migrate.records import Memory, SourceInfo, format_time
from spectron_migrate.rehearsal.ground import clean_environment
from tests.support.oracle import Watch, judge
from tests.support.proxy import Fault, Proxy, Seen, serving

SOURCE = SourceInfo(kind="oss", place="qdrant:/chaos:mem0", provider="qdrant", version="2.2.1")
BEGIN = datetime.now(UTC) - timedelta(days=30)
USERS = ("ann", "bob", "cleo", "dan")
TEXTS = ("Likes tea", "Likes tea", "Lives in Ulm", "the same words", "Moved to Rome", "Works at Acme")
RULE = "version: 1\n{more}\nrules:\n  - when: {{user_id: '*'}}\n    scope: {{user: '{{user_id}}'}}\n"
WEATHER = (*[name for name in PASSING if name != "cut_in_batch"] * 2, "hang")
"""Half a batch takes a quarter of an hour to settle; the stateful tests, whose time is their own, have it."""
CLEAR_RUNS = 10
"""In fair weather everything is decided in so many runs."""


@dataclass(frozen=True)
class Corner:
    """One way that Spectron may be, and how memories are written."""

    name: str
    reading: dict[str, Any] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)
    mapping: str = ""
    requests: int = 70
    """About how many requests a run makes, so that somebody dies within it."""


CORNERS = (
    Corner("as published"),
    Corner("unregistered is 403", {"unregistered": 403}),
    Corner("a known scope is 409", {"reregister": 409}),
    Corner("no turn id in answers", {"names_turn": False}),
    Corner("a subtree without its root, one cache for all", {"subtree_has_root": False, "shared_cache": True}),
    Corner("API 0.2.1", server={"api": "0.2.1"}),
    Corner("extraction off", server={"extraction": False}),
    Corner("short sessions", mapping="session: {by: run_id, size: 5}"),
    Corner("text only, many a request", mapping="infer: none\nwrite: batch", requests=14),
)


class World:
    """A Mem0, a server behind faults, a state directory, and the replays between them."""

    def __init__(self, folder: Path, server: RunningServer, corner: Corner, dice: random.Random) -> None:
        self.folder, self.server, self.dice = folder, server, dice
        self.mem0: dict[str, Memory] = {}
        self.began = BEGIN
        self.mapping = folder / "mapping.yaml"
        self.mapping.write_text(RULE.format(more=corner.mapping))
        self.watch = Watch(folder / "state", self.choose)
        self.proxy = Proxy(server.base_url, self.watch)
        self.faults = Faults(choose=self.proxy.next)
        self.layer = FaultLayer(self.watch.around(self.proxy.relay), self.faults)
        self.chance = 0.0
        self.kill_at = 0
        self.victim = ""
        self.requests = self.kills = 0
        self.ahead_s = 0.0
        self.process: subprocess.Popen[bytes]
        self.restarting: threading.Thread | None = None

    def choose(self, seen: Seen) -> Fault:
        """The weather, and the one request at which somebody dies."""
        self.requests += 1
        if self.requests == self.kill_at:
            self.kills += 1
            self._kill()
            return self.dice.choice(["cut_before", "cut_after", "none"])
        return self.dice.choice(WEATHER) if self.dice.random() < self.chance else "none"

    def _kill(self) -> None:
        if self.victim in ("replay", "both"):
            self.process.send_signal(signal.SIGKILL)
            self.watch.blind = True
        if self.victim in ("server", "both"):
            self.server.kill()
            self.restarting = threading.Thread(target=self.server.start)
            self.restarting.start()

    def grow(self, count: int) -> None:
        """New memories, of which some are old, and a scan that has read them."""
        for _ in range(count):
            number = len(self.mem0)
            at = format_time(self.began + timedelta(minutes=number - self.dice.choice([0, 0, 0, 500])))
            self.mem0[f"m{number:05}"] = Memory(
                id=f"m{number:05}",
                memory=self.dice.choice(TEXTS),
                user_id=self.dice.choice(USERS),
                run_id=self.dice.choice([None, "r1"]),
                created_at=at,
                text_at=at,
                text_at_source="created_at",
            )
        began = datetime.now(UTC)
        with DumpWriter(self.folder / "dump", SOURCE, began, rereads=True) as writer:
            for memory in self.mem0.values():
                writer.give(memory)
            writer.commit(complete=True, native_count=len(self.mem0), ended=datetime.now(UTC))

    def replay(self, url: str, *, chance: float, kill_at: int = 0, victim: str = "") -> int:
        """One process from its start to its end, whatever that is; its exit code."""
        self.watch.begin_run()
        self.chance, self.kill_at, self.victim, self.requests = chance, kill_at, victim, 0
        environment = {
            **clean_environment(os.environ),
            "SPECTRON_CONTEXT": self.server.context,
            "SPECTRON_API_KEY": self.server.api_key,
            "SPECTRON_ENDPOINT": url,
        }
        root = Path(__file__).resolve().parents[2]
        environment["PYTHONPATH"] = str(root)
        command = [sys.executable, "-m", "spectron_migrate", "replay", "--config", "settings.yaml", "--json"]
        (self.folder / "settings.yaml").write_text(
            "version: 1\nspectron: {timeout: 2s}\ndump: dump\nstate: state\nmapping: mapping.yaml\n"
        )
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, said = self.process.communicate(timeout=300)
        if self.restarting is not None:
            self.restarting.join()
            self.restarting = None
        code = self.process.returncode
        assert code in (0, 7, -signal.SIGKILL), (code, out[-2000:], said[-2000:])
        return code

    def pass_a_day(self, url: str) -> None:
        """The server forgets its keys; work that is still under way after a day is none."""
        self.chance, self.kill_at = 0.0, 0
        self.watch.begin_run()
        for _ in range(5):
            urllib.request.urlopen(f"{url}/api/v1/health").close()
        self.ahead_s += 25 * 3600
        self.server.turn(ahead_s=self.ahead_s)

    def judge(self, *, finished: bool) -> None:
        """The oracle finds nothing wrong."""
        mapping = load_mapping(self.mapping)
        wrong = self.watch.wrong + self.proxy.wrong
        if (self.folder / "state" / "ledger.db").exists():
            wrong = wrong + judge(
                self.server.database, self.folder / "state", self.mem0.values(), mapping, finished=finished
            )
        assert [] == wrong, self.watch.told(wrong)


def one_world(folder: Path, corner: Corner, *, kills: int, dice: random.Random) -> Counter[str]:
    """Kill and resume so many times, then let it end; what happened, counted. Raises AssertionError."""
    told: Counter[str] = Counter()
    options = {**corner.server, "reading": corner.reading, "weather": {}}
    with running_server(folder / "spectron", context="chaos", **options) as server:
        world = World(folder, server, corner, dice)
        with serving(world.layer) as url:
            world.grow(60)
            for _ in range(kills * 5):
                if world.kills >= kills:
                    break
                victim = dice.choices(["replay", "server", "both"], [6, 2, 1])[0]
                chance = dice.choice([0.0, 0.03, 0.08])
                code = world.replay(url, chance=chance, kill_at=dice.randint(1, corner.requests), victim=victim)
                told[f"run ended with {code}"] += 1
                world.judge(finished=False)
                if dice.random() < 0.2:
                    world.pass_a_day(url)
                    told["days"] += 1
                if code == 0 or dice.random() < 0.2:
                    world.grow(30)
            for _ in range(CLEAR_RUNS):
                if world.replay(url, chance=0.0) == 0:
                    break
            world.judge(finished=True)
        told.update({f"fault {name}": count for name, count in world.faults.counts.items()})
        told.update(kills=world.kills, memories=len(world.mem0), requests=len(world.proxy.seen))
    return told


def run(kills: int, seed: int, report: Callable[[str], None], corners: tuple[Corner, ...] = CORNERS) -> Counter[str]:
    """All corners, so that the kills are shared among them."""
    total: Counter[str] = Counter()
    for number, corner in enumerate(corners):
        began = time.monotonic()
        share = kills // len(corners) + (number < kills % len(corners))
        with tempfile.TemporaryDirectory() as name:
            told = one_world(Path(name), corner, kills=share, dice=random.Random(f"{seed} {corner.name}"))
        total += told
        report(
            f"{corner.name}: {told['kills']} kills, {told['memories']} memories, {told['requests']} requests,"
            f" {time.monotonic() - began:.0f} s: each stored once, in order, in its scope"
        )
    return total


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    told = run(options.kills, options.seed, lambda line: print(line, flush=True))
    print(json.dumps(dict(sorted(told.items())), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
