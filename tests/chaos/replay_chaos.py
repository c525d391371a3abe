"""A real `spectron-migrate replay` against a real server process, both killed with -9 at random points.

    python tests/chaos/replay_chaos.py [--kills 200] [--seed 0]

Between them stands the fault layer. Each world has another reading of what the contract leaves open, its own
faults, users whose memories have the same texts, and a Mem0 in which memories are added, edited, deleted, and
missed by one scan; the server's clock jumps past the life of the idempotency keys. The server forgets all its keys at
random moments, with a restart or without, and the API key is revoked in the middle of a run and replaced by that of
another principal. They die at a request, or at any other moment. Runs are begun again until the weather clears; then
everything must be decided, the oracle must find nothing wrong on the server's own tables, and no turn may be there
twice.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.faults import FAULTS, FaultLayer, Faults
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.mapping import load_mapping
from spectron_migrate.records import Memory, SourceInfo, format_time
from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.support.oracle import Watch, find_violations, server_turns
from tests.support.proxy import Fault, Proxy, Seen, refusing, serving

SOURCE = SourceInfo(kind="oss", place="qdrant:/chaos:mem0", provider="qdrant", version="2.2.1")
BEGIN = datetime.now(UTC) - timedelta(days=30)
USERS = ("ann", "bob", "cleo", "dan")
TEXTS = ("Likes tea", "Likes tea", "Lives in Ulm", "the same words", "Moved to Rome", "Works at Acme")
RULE = "version: 1\n{more}\nrules:\n  - when: {{user_id: '*'}}\n    scope: {{user: '{{user_id}}'}}\n"
LASTING = tuple(name for name in FAULTS if "stuck" in name)
"""What is waited for longer than a run takes here: in runs with a limit of time, after which it comes loose."""
HANGS = ("hang", "hang_before")
WEATHER = (*[name for name in FAULTS if name not in (*LASTING, *HANGS, "none", "cut_in_batch")] * 2, *HANGS)
"""Half a batch takes a quarter of an hour to settle; the stateful tests, whose time is their own, have it."""
FORGETTING = tuple(
    name
    for name, fault in FAULTS.items()
    if fault.every_key == "forgotten" or (fault.key == "forgotten" and fault.work == "done")
)
"""Faults after which the server no longer knows a key, or all of them."""
GRANTS = {verb: ["*"] for verb in ("memory:read", "memory:write", "scope:read", "scope:create")}
PRINCIPALS = {name: {"key": f"sk-chaos-{name}", "grants": GRANTS} for name in ("ann", "bob")}
"""Two owners of API keys: the server keeps idempotency keys for each of them."""
REPLAY = (
    "from spectron_migrate.delivery import waits; waits.LATE_ARRIVAL_S = 4.0; waits.LISTING_INTERVAL_S = 1.0;"
    " from spectron_migrate.cli import main; main()"
)
"""A replay whose time-out is 2 s need not wait for two minutes."""
ASKED_S = 2.0
"""So long after the question about a key the server forgets none."""
LIMIT_S = 6
"""Of a run that may meet what lasts."""
NEVER_S = 1000.0
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
    Corner("text only", mapping="infer: none"),
    Corner("text only, many a request", mapping="infer: none\nwrite: batch", requests=14),
)


class World:
    """A Mem0, a server behind faults, a state directory, and the replays between them."""

    def __init__(self, folder: Path, server: RunningServer, corner: Corner, dice: random.Random) -> None:
        self.folder, self.server, self.dice = folder, server, dice
        self.mem0: dict[str, Memory] = {}
        self.made = 0
        self.missed: list[Memory] = []
        self.mapping = folder / "mapping.yaml"
        self.mapping.write_text(RULE.format(more=corner.mapping))
        self.watch = Watch(folder / "state", self.choose)
        self.proxy = Proxy(server.base_url, self.watch)
        self.faults = Faults(choose=self.proxy.next)
        self.loosen()
        self.chance = 0.0
        self.weather = WEATHER
        self.kill_at = 0
        self.victim = ""
        self.requests = self.kills = self.rotations = 0
        self.principal = "ann"
        self.revoked_at = 0
        """The request of a run from which on its API key is refused; 0: never."""
        self.asked: dict[str, float] = {}
        """Idempotency keys that the server was asked about a moment ago, and when: their bytes may follow."""
        self.ahead_s = 0.0
        self.lasted_s = 3.0
        """Of the last run that nobody ended: within so long somebody dies, where it is not at a request."""
        self.process: subprocess.Popen[bytes] | None = None
        self.restarting: threading.Thread | None = None

    def loosen(self) -> None:
        """What was stuck is in flight no longer."""
        self._layer = FaultLayer(self.watch.around(self.proxy.relay), self.faults)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application that the replays meet."""
        await self._layer(scope, receive, send)

    def choose(self, seen: Seen) -> Fault:
        """The weather, and the one request at which somebody dies."""
        self.requests += 1
        if self.requests == self.kill_at:
            self.watch.client_is_dead = self.victim != "server"
            self._kill()
            return self.dice.choice(["cut_before", "cut_after", "none"])
        if self.revoked_at and self.requests >= self.revoked_at and "authorization" in seen.headers:
            return refusing(401, "the API key is revoked")
        fault = self.dice.choice(self.weather) if self.dice.random() < self.chance else "none"
        if fault == "400" and not seen.writes_fact:
            return "none"  # a scope or session that is refused stops its lane for a person
        return "none" if not self._may_forget(seen) and fault in FORGETTING else fault

    def _may_forget(self, seen: Seen) -> bool:
        """Whether the server may forget keys with this request.

        Not between its answer to the question about a key and the bytes under that key: no client can see that.
        """
        key, now = seen.headers.get("idempotency-key", ""), time.monotonic()
        if seen.is_preview:
            self.asked[key] = now
        may = not any(now - at < ASKED_S for at in self.asked.values())
        if seen.writes_fact:
            self.asked.pop(key, None)
        return may

    def _kill(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.kills += 1
        if self.victim in ("server", "both"):
            self.server.kill()
            self.loosen()
            self.restarting = threading.Thread(target=self.server.start)
            self.restarting.start()
        if self.victim in ("replay", "both"):
            self.process.send_signal(signal.SIGKILL)

    def grow(self, count: int) -> None:
        """New memories, of which some are old."""
        for _ in range(count):
            self.made += 1
            at = format_time(BEGIN + timedelta(minutes=self.made - self.dice.choice([0, 0, 0, 500])))
            self.mem0[f"m{self.made:05}"] = Memory(
                id=f"m{self.made:05}",
                memory=self.dice.choice(TEXTS),
                user_id=self.dice.choice(USERS),
                run_id=self.dice.choice([None, "r1"]),
                created_at=at,
                text_at=at,
                text_at_source="created_at",
            )

    def change(self) -> None:
        """Other texts, deletions, and memories that one scan misses and the next one sees again."""
        self.mem0.update({memory.id: memory for memory in self.missed})
        chosen = self.dice.sample(sorted(self.mem0), k=min(9, len(self.mem0)))
        self.missed = [self.mem0.pop(id_) for id_ in chosen[:2]]
        for id_ in chosen[2:4]:
            del self.mem0[id_]
        for id_ in chosen[4:]:
            memory, at = self.mem0[id_], format_time(datetime.now(UTC))
            text = self.dice.choice([text for text in TEXTS if text != memory.memory])
            self.mem0[id_] = replace(memory, memory=text, updated_at=at, text_at=at)

    def scan(self) -> None:
        """A complete reading of Mem0."""
        began = datetime.now(UTC)
        with DumpWriter(self.folder / "dump", SOURCE, began, rereads=True) as writer:
            for memory in self.mem0.values():
                writer.add(memory)
            writer.commit(complete=True, native_count=len(self.mem0), ended=datetime.now(UTC))

    def replay_to_death(self, url: str, requests: int) -> int:
        """A scan, and a process that may die at one of so many requests, or at another moment; its exit code."""
        self.scan()
        victim = self.dice.choices(["replay", "server", "both"], [6, 2, 1])[0]
        chance = self.dice.choice([0.0, 0.03, 0.08])
        more = ["--retry-failed"] if self.dice.random() < 0.2 else []
        self.weather = WEATHER
        if self.dice.random() < 0.3:
            self.weather = (*WEATHER, *LASTING * 3)
            more += ["--max-seconds", str(LIMIT_S)]
        else:
            self.loosen()
        self.revoked_at = self.dice.randint(1, requests) if self.dice.random() < 0.2 else 0
        if self.dice.random() < 0.6:
            return self.replay(url, *more, chance=chance, kill_at=self.dice.randint(1, requests), victim=victim)
        return self.replay(url, *more, chance=chance, kill_after_s=self.dice.uniform(0.3, self.lasted_s), victim=victim)

    def replay(
        self, url: str, *more: str, chance: float, kill_at: int = 0, kill_after_s: float = NEVER_S, victim: str = ""
    ) -> int:
        """One process from its start to its end, whatever that is; its exit code."""
        self.watch.begin_run()
        self.chance, self.kill_at, self.victim, self.requests = chance, kill_at, victim, 0
        self.asked.clear()
        environment = {
            **clean_environment(os.environ),
            "SPECTRON_CONTEXT": self.server.context,
            "SPECTRON_API_KEY": PRINCIPALS[self.principal]["key"],
            "SPECTRON_ENDPOINT": url,
        }
        root = Path(__file__).resolve().parents[2]
        environment["PYTHONPATH"] = str(root)
        command = [sys.executable, "-c", REPLAY, "replay", "--config", "settings.yaml", "--json", *more]
        (self.folder / "settings.yaml").write_text(
            "version: 1\nspectron: {timeout: 2s}\ndump: dump\nstate: state\nmapping: mapping.yaml\n"
        )
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        timer = threading.Timer(kill_after_s, self._kill)
        timer.start()
        began = time.monotonic()
        out, said = self.process.communicate(timeout=300)
        timer.cancel()
        timer.join()
        if self.restarting is not None:
            self.restarting.join()
            self.restarting = None
        code = self.process.returncode
        if code != -signal.SIGKILL:
            self.lasted_s = time.monotonic() - began
        allowed = {0, 3, 7, 8, -signal.SIGKILL, *([6] if self.revoked_at else [])}
        assert code in allowed, (code, out[-2000:], said[-2000:])
        if self.revoked_at and self.requests >= self.revoked_at:
            self.rotations += 1
            self.principal = "bob" if self.principal == "ann" else "ann"
        self.revoked_at = 0
        return code

    def pass_a_day(self, url: str) -> None:
        """The server forgets its keys; work that is still under way after a day is none."""
        self.chance, self.kill_at, self.revoked_at = 0.0, 0, 0
        self.watch.begin_run()
        for _ in range(5):
            urllib.request.urlopen(f"{url}/api/v1/health").close()
        self.loosen()
        self.ahead_s += 25 * 3600
        self.server.change_faults(ahead_s=self.ahead_s)

    def judge(self, *, finished: bool) -> None:
        """The oracle finds nothing wrong."""
        mapping = load_mapping(self.mapping)
        wrong = self.watch.wrong + self.proxy.wrong
        if (self.folder / "state" / "ledger.db").exists():
            wrong = wrong + find_violations(
                self.server.database, self.folder / "state", self.mem0.values(), mapping, finished=finished
            )
        if finished:
            wrong = wrong + list(self._doubled())
        assert [] == wrong, self.watch.with_log(wrong)

    def _doubled(self) -> Iterator[str]:
        """Turns on the server that no fact claims, also those that the ledger knows to be left behind."""
        with Ledger.open_for_reading(self.folder / "state") as ledger:
            claimed = {row["turn_id"] for row in ledger.db.execute("SELECT turn_id FROM receipt")}
        for turn in server_turns(self.server.database):
            if turn.id not in claimed:
                yield f"doubled: {turn}"


def one_world(folder: Path, corner: Corner, *, kills: int, dice: random.Random, changes: float) -> Counter[str]:
    """Kill and resume so many times, then let it end; what happened, counted. Raises AssertionError."""
    told: Counter[str] = Counter()
    options = {**corner.server, "reading": corner.reading, "fault_settings": {}, "principals": PRINCIPALS}
    with running_server(folder / "spectron", context="chaos", **options) as server:
        world = World(folder, server, corner, dice)
        with serving(world) as url:
            world.grow(60)
            for _ in range(kills * 5):
                if world.kills >= kills:
                    break
                code = world.replay_to_death(url, corner.requests)
                told[f"run ended with {code}"] += 1
                world.judge(finished=False)
                if dice.random() < 0.2:
                    world.pass_a_day(url)
                    told["days"] += 1
                if code == 0 or dice.random() < 0.2:
                    world.grow(30)
                if dice.random() < changes:
                    world.change()
            world.loosen()
            world.scan()
            for _ in range(CLEAR_RUNS):
                if world.replay(url, "--retry-failed", chance=0.0) == 0:
                    break
            world.judge(finished=True)
        told.update({f"fault {name}": count for name, count in world.faults.counts.items()})
        told.update(
            rotations=world.rotations, kills=world.kills, memories=len(world.mem0), requests=len(world.proxy.seen)
        )
    return told


def run(
    kills: int,
    seed: int,
    report: Callable[[str], None],
    corners: tuple[Corner, ...] = CORNERS,
    *,
    changes: float = 0.5,
) -> Counter[str]:
    """All corners, so that the kills are shared among them.

    `changes`: how likely Mem0 edits and deletes between two runs. What that overtakes while it is in doubt is waited
    for as long as the server may work on it: minutes.
    """
    total: Counter[str] = Counter()
    for number, corner in enumerate(corners):
        began = time.monotonic()
        share = kills // len(corners) + (number < kills % len(corners))
        with tempfile.TemporaryDirectory() as name:
            told = one_world(
                Path(name), corner, kills=share, dice=random.Random(f"{seed} {corner.name}"), changes=changes
            )
        total += told
        report(
            f"{corner.name}: {told['kills']} kills, {told['rotations']} rotated keys, {told['memories']} memories,"
            f" {told['requests']} requests, {time.monotonic() - began:.0f} s: each stored once, in order, in its scope"
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
