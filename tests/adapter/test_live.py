"""Four application processes go through all phases on a real Mem0, while servers and processes are killed."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest

from spectron_migrate.local.testing import running_server
from spectron_migrate.mapping import load_mapping
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.records import Memory
from spectron_migrate.rehearsal.subprocesses import clean_environment
from spectron_migrate.state.processes import read_processes
from tests.adapter import application
from tests.adapter.support import Stage, environment, oss_config
from tests.support import oracle, warm
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.ledger_file]  # it starts processes
PATIENCE_S = 300.0
"""Longer than the two minutes for which a round looks for a write that was cut off and that Mem0 has replaced since."""


class Process:
    """One application process, and its log."""

    def __init__(self, stage: Stage, name: str, capture: str) -> None:
        config = {**stage.config, "history_db_path": str(stage.folder / f"history-{name}.db")}
        path = stage.folder / f"mem0-{name}.json"
        path.write_text(json.dumps(config))
        self.name = name
        self.log = stage.folder / f"{name}.log"
        self.stderr = stage.folder / f"{name}.err"
        self._calls: list[dict[str, Any]] = []
        self._read = 0
        home = stage.folder / f"home-{name}"
        home.mkdir()
        self.orders, theirs = warm.pipe()
        self.process = warm.start(
            application.main,
            *(str(path), name, str(self.log), capture, theirs),
            folder=stage.folder,
            environment={
                **clean_environment(os.environ),
                **environment(stage.server),
                "HOME": str(home),
                "MEM0_DIR": str(home / ".mem0"),
            },
            stderr=self.stderr,
        )
        theirs.close()

    def ready(self) -> Process:
        assert "at work" == self.answer()
        return self

    def tell(self, word: str) -> None:
        self.orders.send(word)
        assert "heard" == self.answer()

    def answer(self) -> str:
        try:
            return str(self.orders.recv())
        except EOFError:
            raise AssertionError(self.stderr.read_text()) from None

    def end(self) -> None:
        self.orders.close()
        self.process.join(PATIENCE_S)

    def ended(self) -> str:
        """Why it ended, for whoever did not expect that."""
        raised = ["".join(call["trace"]) for call in self.calls() if call["error"]]
        return "\n".join([f"{self.name} ended with {self.process.exitcode}", self.stderr.read_text(), *raised[-3:]])

    def calls(self) -> list[dict[str, Any]]:
        """All that it has noted so far; what was read once is not read again."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            lines = [line for line in file if line.endswith(b"\n")]
        self._calls += [json.loads(line) for line in lines]
        self._read += sum(map(len, lines))
        return self._calls


class Fleet:
    """The application's processes; whoever is killed is replaced."""

    def __init__(self, stage: Stage, count: int, capture: str) -> None:
        self.stage = stage
        self.capture = capture
        self.killed: list[int] = []
        # Mem0 makes its table at the first write, and Postgres lets only one of several do so at the same moment.
        first = Process(stage, "p0", capture).ready()
        self.all = [first, *(Process(stage, f"p{number}", capture) for number in range(1, count))]
        self.live = [first, *(process.ready() for process in self.all[1:])]

    def kill_one(self) -> None:
        victim = self.live.pop(0)
        self.killed.append(victim.process.pid)
        victim.process.kill()
        victim.process.join(PATIENCE_S)
        self.all.append(Process(self.stage, f"p{len(self.all)}", self.capture))
        self.live.append(self.all[-1].ready())

    def calls(self, what: str | None = None) -> list[dict[str, Any]]:
        each = [call for process in self.all for call in process.calls()]
        return [call for call in each if what in (None, call["what"])]

    def wait_for(self, holds: Callable[[dict[str, Any]], bool], many: int = 1) -> None:
        """Until each live process has made `many` calls of a kind from now on."""
        known = {process.name: len(process.calls()) for process in self.live}

        def all_did() -> bool:
            assert [] == [process.ended() for process in self.live if not process.process.is_alive()]
            return all(sum(map(holds, process.calls()[known[process.name] :])) >= many for process in self.live)

        def so_far() -> list[list[dict[str, Any]]]:
            return [process.calls()[-3:] for process in self.live]

        wait_until(all_did, seconds=PATIENCE_S, every_s=0.1, said=so_far)

    def tell(self, word: str) -> None:
        for process in self.live:
            process.tell(word)

    def end(self) -> None:
        for process in self.live:
            process.end()
        for process in self.all:
            process.process.kill()
            process.process.join()


@pytest.fixture
def pg_stage(postgres: str, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A table of Mem0's in Postgres, which several processes can use, and a Spectron of its own."""
    import psycopg

    table = f"adapter_{os.getpid()}"
    settings = {"connection_string": postgres, "collection_name": table, "embedding_model_dims": 256}
    config = oss_config(tmp_path, provider="pgvector", config=settings)
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        with running_server(tmp_path / "spectron", context="tests") as server:
            (tmp_path / "mem0.json").write_text(json.dumps(config))
            for name, value in environment(server).items():
                monkeypatch.setenv(name, value)
            stage = Stage(tmp_path, server, user, config, None)
            yield stage
        db.execute(f'DROP TABLE IF EXISTS "{table}"')


def from_spectron(call: dict[str, Any]) -> bool:
    return bool(call.get("spectron"))


@pytest.mark.parametrize(
    ("catch_up", "capture"),
    [("follow", "memories"), ("outbox", "memories"), ("outbox", "messages")],
    ids=["follow", "outbox", "messages"],
)
def test_four_processes_through_all_phases(
    pg_stage: Stage, catch_up: Literal["follow", "outbox"], capture: str
) -> None:
    stage = pg_stage
    stage.write_settings(guard={"window": "2s", "p95": "4s"}, shadow=0.2, catch_up=catch_up, capture=capture)
    fleet = Fleet(stage, 4, capture)
    try:
        fleet.wait_for(lambda call: True, many=5)
        make_state(stage.state)
        stage.start(catch_up)
        if catch_up == "outbox":
            wait_until(lambda: not read_processes(stage.state).not_on(1), seconds=PATIENCE_S)
        with stage.following():
            fleet.wait_for(lambda call: True, many=10)
            stage.shift(50)
            wait_until(lambda: any(from_spectron(call) for call in fleet.calls("search")), seconds=PATIENCE_S)
            stage.server.kill()
            fleet.wait_for(lambda call: call["what"] == "search", many=5)
            fleet.kill_one()
            stage.server.start()
            stage.shift(100)
            fleet.wait_for(from_spectron)
            stage.shift(50)
            fleet.wait_for(lambda call: True, many=3)
            stage.step("revert")
            reverted = time.time()
            fleet.wait_for(lambda call: call["at"] > reverted + 2, many=3)
            again = time.time()
            stage.shift(100)
            fleet.wait_for(from_spectron)
            assert_gates_see(fleet)
            stage.step("closing")
            fleet.tell("read")
        assert stage.reconcile(others_write=True)
        judged(stage)
        stage.step("complete")
        completed = time.time()
        fleet.wait_for(lambda call: call["at"] > completed + 2)
        fleet.tell("write")
        fleet.wait_for(lambda call: call["what"] == "add", many=3)
    finally:
        fleet.end()
    moments = {"reverted": reverted, "again": again, "completed": completed}
    none_of("ended with an error", [call for call in fleet.calls() if call["error"] and not call["refused"]], moments)
    searches = fleet.calls("search")
    wrong = [call for call in searches if call.get("found") is False]
    none_of("found what is gone, or not what is there", wrong, moments)
    while_reverted = [call for call in searches if reverted + 1 < call["at"] < again and call["spectron"]]
    none_of("was answered by Spectron after the revert", while_reverted, moments)
    added_once(stage, [call for call in fleet.calls("add") if call["at"] > completed + 1])


def make_state(folder: Path) -> None:
    """As a whole: an empty directory looks like a volume that was lost, and the applications refuse writes."""
    made = folder.with_name("made")
    made.mkdir(mode=0o700)
    (made / "log.jsonl").touch(mode=0o600)
    made.rename(folder)


def none_of(what: str, calls: list[dict[str, Any]], moments: dict[str, float]) -> None:
    """Fails with all that is known of each call: pytest's own message would be cut short."""
    told = [f"{json.dumps(call, indent=1)}\n{''.join(call['trace'])}" for call in calls]
    assert not calls, f"{len(calls)} {what}; {moments}\n" + "\n".join(told)


def judged(stage: Stage) -> None:
    """Everything that Mem0 holds is in Spectron exactly once, in order, by the server's own tables."""
    with open_oss(stage.config, now=datetime.now(UTC)) as reader:
        memories = [row for row in reader.rows() if isinstance(row, Memory)]
    assert memories
    assert [] == oracle.find_violations(stage.server.database, stage.state, memories, load_mapping(None))


def assert_gates_see(fleet: Fleet) -> None:
    """What the gates `application`, `calls` and `processes` judge: it is attached, and one process was killed."""
    seen = read_processes(fleet.stage.state)
    assert {socket.gethostname()} == set(seen.last_reads)
    assert seen.calls_measured
    assert {f"{socket.gethostname()}/{pid}" for pid in fleet.killed} == set(seen.lost)


def added_once(stage: Stage, calls: list[dict[str, Any]]) -> None:
    """What was added once Spectron was the truth is there exactly once."""
    stored = [turn.text for turn in oracle.server_turns(stage.server.database)]
    assert calls
    assert {call["text"]: 1 for call in calls} == {call["text"]: stored.count(call["text"]) for call in calls}
