"""Processes on hosts of their own that share nothing but the URL of their state: replays, applications, a follower.

    python tests/chaos/several_hosts.py [--memories 20000] [--workers 4] [--applications 3] [--kills 60] [--restarts 5]
                                        [--cuts 5]

Each has a directory, a name of a host, and a relay to Postgres of its own. Real `spectron-migrate replay` processes
deliver a plan; only one of them has the dump. Beside them, applications write to one real Mem0 through the adapter, in
a cutover that has begun, and `replay --follow` drains what they capture. All of them are killed with -9 at random
moments and begun again, Postgres is stopped at once and started again (what `pg_ctl restart -m immediate` does), and a
connection is cut for ten seconds: on both sides, or only on that of Postgres, so that the process does not know it.

At the end everything must be decided, the oracle must find nothing wrong on the server's own tables against what Mem0
has, no turn may be there twice, and no call of an application may have failed. A call whose process was killed in it is
in doubt: Mem0 has it or not, and Spectron must have what Mem0 has.
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
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spectron_migrate.database.location import PostgresLocation, parse_location
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read.cutover import count_undecided
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.mapping import load_mapping
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.records import Memory, SourceInfo, format_time
from spectron_migrate.state.outbox import Outbox
from spectron_migrate.state.store import store_at
from tests.chaos.application import read_calls
from tests.chaos.hosts import ROOT, Host, Postgres, Relay
from tests.mem0.app import DIMS
from tests.mem0.app import config as mem0_config
from tests.support.oracle import find_violations, server_turns

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
KILLED = {-signal.SIGKILL: "killed"}
GOES_ON = {7: "lost Postgres", 9: "others at work", **KILLED}
"""How a command may end before everything is done; it is begun again."""
CUT_S = 10.0
LONGEST_S = 1500.0
PAUSE_S = 0.25
"""Between two calls of an application."""
CONTEXT = "several"


@dataclass(frozen=True)
class Play:
    """How much happens."""

    memories: int = 20_000
    users: int = 200
    workers: int = 4
    applications: int = 3
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
    ended: Counter[str]
    events: Counter[str]
    seconds: float
    stored: int
    calls: Counter[str]
    """Of applications."""


def memories_of(play: Play) -> list[Memory]:
    rows = []
    for number in range(play.memories):
        user, at = f"u{number % play.users:04}", format_time(BEGIN + timedelta(minutes=number))
        text = f"{user} said thing number {number // play.users}"
        id_ = f"{number:08x}-0000-4000-8000-000000000000"
        rows.append(Memory(id=id_, memory=text, user_id=user, created_at=at, text_at=at, text_at_source="created_at"))
    return rows


def write_dump(path: Path, rows: list[Memory]) -> None:
    source = SourceInfo(kind="oss", place=f"qdrant:{path}:mem0", provider="qdrant", version="2.2.1")
    with DumpWriter(path, source, BEGIN + timedelta(days=300), rereads=True) as writer:
        for row in rows:
            writer.add(row)
        writer.commit(complete=True, native_count=len(rows), ended=BEGIN + timedelta(days=301))


class Mem0:
    """One real store that all applications write to: a table in a Postgres that nobody stops."""

    def __init__(self, folder: Path, rows: list[Memory], stack: ExitStack) -> None:
        postgres = Postgres(folder / "mem0-pg")
        stack.callback(postgres.close)
        self.folder = folder
        self._url = postgres.url
        import psycopg

        with psycopg.connect(self._url, autocommit=True) as db:
            db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        # Mem0 makes its table at its first write, and Postgres lets only one of several do so at the same moment.
        subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.mem0.app", str(self.config("first"))],
            input=b'["add", "first said something", {"user_id": "first"}]\n',
            cwd=ROOT,
            env={**os.environ, "MEM0_TELEMETRY": "False", "HOME": str(folder)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        vector = f"[{','.join('1' * DIMS)}]"
        with psycopg.connect(self._url) as db, db.cursor().copy("COPY mem0 (id, vector, payload) FROM STDIN") as copy:
            for row in rows:
                times = {"created_at": row.created_at, "updated_at": row.created_at}
                payload = {"data": row.memory, "hash": "h", "user_id": row.user_id, **times}
                copy.write_row((row.id, vector, json.dumps(payload)))

    def config(self, name: str) -> Path:
        """The configuration of one process, with a history of its own."""
        store = {
            "connection_string": self._url,
            "collection_name": "mem0",
            "path": None,
            "hnsw": False,
            "minconn": 1,
            "maxconn": 2,
        }
        path = self.folder / f"{name}-mem0.json"
        written = mem0_config(self.folder, "pgvector", **store)
        path.write_text(json.dumps({**written, "history_db_path": str(self.folder / f"{name}-history.db")}))
        return path

    def memories(self) -> list[Memory]:
        """What Mem0 has now."""
        with open_oss(json.loads(self.config("judge").read_text()), now=datetime.now(UTC)) as reader:
            return [row for row in reader.rows() if isinstance(row, Memory)]


class Stage:
    """All hosts of a play."""

    def __init__(self, play: Play, folder: Path, server: RunningServer, stack: ExitStack) -> None:
        self.play, self.folder, self.server = play, folder, server
        self.postgres = Postgres(folder / "pg")
        stack.callback(self.postgres.close)
        self.location = parse_location(f"{self.postgres.url}&schema=several")
        self.rows = memories_of(play)
        self.mem0 = Mem0(folder, self.rows, stack) if play.applications else None
        self.environment = {
            "SPECTRON_CONTEXT": server.context,
            "SPECTRON_API_KEY": server.api_key,
            "SPECTRON_ENDPOINT": server.base_url,
            "MEM0_TELEMETRY": "False",
            "PYTHONWARNINGS": "ignore",
        }
        self.operator = self._host("operator", "spectron_migrate", "status", goes_on={})
        self.applications = [self._application(f"app-{number}") for number in range(play.applications)]
        follow = ("spectron_migrate", "replay", "--follow", "--json", "-q")
        self.followers = [self._host("follower", *follow, goes_on=GOES_ON, ends=False)] if self.mem0 else []
        self.workers = [self._worker(number) for number in range(play.workers)]
        for each in self.hosts:
            stack.callback(each.relay.close)
            stack.callback(each.kill)

    @property
    def hosts(self) -> list[Host]:
        return [self.operator, *self.workers, *self.applications, *self.followers]

    def _host(self, name: str, *words: str, goes_on: dict[int, str], ends: bool = True) -> Host:
        made = Host.make(
            name, self.folder, self.postgres, *words, environment=self.environment, goes_on=goes_on, ends=ends
        )
        if self.mem0 is not None:
            (made.folder / "spectron-migrate.yaml").write_text(
                f"version: 1\nmem0: {{oss: {{config: {self.mem0.config(name)}}}}}\n"
                "cutover: {catch_up: outbox, settle: 0s, reconcile: 15s}\n"
            )
        return made

    def _application(self, name: str) -> Host:
        assert self.mem0 is not None
        log = self.folder / f"{name}.log"
        words = ("tests.chaos.application", str(self.mem0.config(name)), name, str(log), str(PAUSE_S))
        return self._host(name, *words, goes_on=KILLED, ends=False)

    def _worker(self, number: int) -> Host:
        dump = ["--dump", str(self.operator.folder / "dump")] if number == 0 else []
        words = ("replay", "--json", *dump, "--max-in-flight", str(self.play.in_flight))
        return self._host(f"worker-{number}", "spectron_migrate", *words, goes_on=GOES_ON)

    def begin(self) -> None:
        """The cutover begins, applications write, the base dump is read, and its plan is in the ledger."""
        if self.mem0 is None:
            write_dump(self.operator.folder / "dump", self.rows)
        else:
            self.command("cutover", "start")
            for each in (*self.applications, *self.followers):
                each.begin()
            self.command("export")
        self.workers[0].begin()
        self.wait_for_plan()

    def command(self, *words: str) -> None:
        """A command of the operator's, on a host of his own."""
        ran = subprocess.run(
            [sys.executable, "-m", "spectron_migrate", *words],
            cwd=self.operator.folder,
            env=self.operator.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, (words, ran)

    def wait_for_plan(self) -> None:
        """The others have no dump, and would be refused before there is a plan."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            self.workers[0].look()
            with suppress(Exception), Ledger.open_for_reading(self.location) as ledger:
                if ledger.db.execute("SELECT 1 FROM plan WHERE complete = 1").fetchone() is not None:
                    return
            time.sleep(0.1)
        raise AssertionError(f"nothing was planned: {self.workers[0].wrong}")

    def come_to_rest(self) -> list[str]:
        """Applications end, and the follower brings what is left; why it did not."""
        for each in self.applications:
            each.end()
        until = time.monotonic() + 240
        while self.followers and (left := self._left()):
            if time.monotonic() > until:
                return [f"the follower did not bring everything: {left}"]
            for each in self.followers:
                each.look()
            time.sleep(0.5)
        for each in self.followers:
            each.end()
        return []

    def _left(self) -> str:
        """What the follower has still to do; empty where that is nothing."""
        store = store_at(self.location)
        outbox = Outbox(store, host="judge")
        try:
            unknown, waits = outbox.unknown(), outbox.waits()
            with Ledger.open_for_reading(store) as ledger:
                undecided = count_undecided(ledger).total
        finally:
            outbox.close()
            store.close()
        running = set(calls_that_run(self.location))
        return f"{unknown=} {waits=} {undecided=} {running=}" if unknown or waits or undecided or running else ""


def calls_that_run(location: PostgresLocation) -> list[str]:
    """Calls that the log shows as running: those of a killed process do until it counts as dead."""
    from contextlib import closing

    from spectron_migrate.database.opening import connect

    with closing(connect(location)) as db:
        lines = [str(row[0]).split(" ")[:2] for row in db.execute("SELECT line FROM call_line ORDER BY position")]
    ended = {call for what, call in lines if what in ("end", "unknown")}
    return [call for what, call in lines if what == "begin" and call not in ended]


def run(play: Play, folder: Path) -> Found:
    """One play."""
    random_ = random.Random(play.seed)
    events: Counter[str] = Counter()
    with ExitStack() as stack:
        server = stack.enter_context(running_server(folder / "spectron", context=CONTEXT))
        stage = Stage(play, folder, server, stack)
        began = time.monotonic()
        stage.begin()
        hosts = [*stage.workers, *stage.applications, *stage.followers]
        plagues = ["kill"] * play.kills + ["restart"] * play.restarts + ["cut"] * play.cuts
        random_.shuffle(plagues)
        next_at = time.monotonic() + play.every_s
        mending: list[tuple[float, Relay]] = []
        while not is_over(stage, plagues, mending) and time.monotonic() - began < LONGEST_S:
            for each in hosts:
                each.look()
            now = time.monotonic()
            for at, relay in [each for each in mending if each[0] <= now]:
                mending.remove((at, relay))
                relay.mend()
            live = [each for each in hosts if not each.is_done]
            if plagues and live and now >= next_at:
                next_at = now + play.every_s * random_.uniform(0.3, 1.7)
                plague, victim = plagues.pop(), random_.choice(live)
                if plague == "kill":
                    victim.kill()
                    plague = f"kill {victim.name.partition('-')[0]}"
                elif plague == "restart":
                    stage.postgres.restart()
                else:
                    plague = random_.choice(["cut", "cut silently"])
                    victim.relay.cut(silently=plague == "cut silently")
                    mending.append((now + CUT_S, victim.relay))
                events[plague] += 1
            time.sleep(0.05)
        wrong = stage.come_to_rest()
        seconds = time.monotonic() - began
        wrong += [each for host in hosts for each in host.wrong]
        wrong += [f"{each.name} is not done" for each in stage.workers if not each.is_done]
        if plagues:
            wrong.append(f"everything was done before {Counter(plagues)}: more memories are needed")
        rows = stage.rows if stage.mem0 is None else stage.mem0.memories()
        wrong += judge(server, stage.location, rows)
        calls = [call for each in stage.applications for call in read_calls(folder / f"{each.name}.log")]
        wrong += judge_calls(calls, {row.id: row.memory for row in rows})
        ended = sum((each.ended for each in hosts), Counter[str]())
        return Found(wrong, ended, events, seconds, len(rows), Counter(outcome_of(call) for call in calls))


def is_over(stage: Stage, plagues: list[str], mending: list[tuple[float, Relay]]) -> bool:
    """Whether the workers are done, and nothing more happens to the others."""
    is_busy = stage.mem0 is not None and (plagues or mending)
    return not is_busy and all(each.is_done for each in stage.workers)


def run_somewhere(play: Play) -> Found:
    """One play in a directory that is removed."""
    with tempfile.TemporaryDirectory(prefix="several-") as place:
        os.chmod(place, 0o755)  # as root Postgres runs under a user of its own, who has to get there
        return run(play, Path(place))


def judge(server: RunningServer, location: Any, rows: list[Memory]) -> list[str]:
    """The oracle, and what it comes down to: every text once, in order."""
    wrong = find_violations(server.database, location, rows, load_mapping(None))
    turns = sorted(server_turns(server.database), key=lambda turn: turn.arrived)
    times = Counter(turn.text for turn in turns)
    wrong += [f"lost: {row.memory}" for row in rows if times[row.memory] == 0]
    wrong += [f"{count} times: {text}" for text, count in times.items() if count > 1]
    last: dict[frozenset[str], int] = {}
    for turn in turns:
        if " said thing number " in turn.text:
            number = int(turn.text.rsplit(" ", 1)[1])
            if last.get(turn.paths, -1) > number:
                wrong.append(f"out of order: {turn.text}")
            last[turn.paths] = number
    return wrong


def outcome_of(call: dict[str, Any]) -> str:
    """What became of a call, as far as its process knew."""
    if "error" not in call:
        return f"{call['what']} in doubt"
    return call["what"] if call["error"] is None else f"{call['what']} failed"


def judge_calls(calls: list[dict[str, Any]], texts: dict[str, str]) -> list[str]:
    """No call failed, and Mem0, with which Spectron was compared, has what the calls left: `texts`, by id."""
    wrong = [f"a call failed: {call}" for call in calls if call.get("error") is not None]
    newest: dict[str, set[str | None]] = {}
    for call in calls:
        for id_ in [*call.get("ids", ()), *([call["id"]] if "id" in call else [])]:
            text = call.get("text")
            # A call in doubt may have taken place.
            newest[id_] = {text} if "error" in call else {text, *newest.get(id_, set())}
    return wrong + [
        f"Mem0 has {texts.get(id_)!r} for {id_}, and not one of {may_be}"
        for id_, may_be in newest.items()
        if texts.get(id_) not in may_be
    ]


def main() -> int:
    parser = argparse.ArgumentParser()
    for name, value in vars(Play()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing of it stays behind
    found = run_somewhere(Play(**vars(parser.parse_args())))
    figures = {"stored": found.stored, "seconds": round(found.seconds), "happened": dict(sorted(found.events.items()))}
    print(json.dumps({**figures, "ended": dict(found.ended), "calls": dict(sorted(found.calls.items()))}))
    for each in found.wrong[:20]:
        print(each)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
