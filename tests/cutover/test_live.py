"""A whole cutover while four processes write to Mem0, and every process that can be killed is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.mapping import load_mapping
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.records import Memory
from spectron_migrate.rehearsal.subprocesses import clean_environment
from spectron_migrate.state.journal import read_journal
from tests.cutover import writer
from tests.support import oracle, warm
from tests.support.command import command
from tests.support.proxy import Fault, Proxy, Seen, misbehaving
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.ledger_file]  # it starts processes


@dataclass
class StderrLines:
    """The lines that a process writes to stderr, read by a thread so that the process never blocks."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, words: str, *, after: int = 0) -> int:
        """The number of the first line that contains these words; fails if the process ends without it."""
        with self._news:
            assert self._news.wait_for(
                lambda: any(words in line for line in self.lines[after:]) or not self._thread.is_alive(), PATIENCE_S
            ), self.lines
            found = [number for number, line in enumerate(self.lines) if number >= after and words in line]
        assert found, self.lines
        return found[0]


@dataclass
class Site:
    """A Mem0 in Postgres, a Spectron behind a proxy, and a directory with settings that name both."""

    folder: Path
    config: dict[str, Any]
    server: RunningServer
    proxy: Proxy
    writes: int = 0
    kill_at: int = 0
    victim: subprocess.Popen[str] | None = None

    def choose(self, seen: Seen) -> Fault:
        """Kill the victim in the middle of a request, whose answer is lost as well."""
        self.writes += seen.path.endswith("/facts")
        if self.victim is not None and self.writes >= self.kill_at:
            self.victim.kill()
            self.victim = None
            return "cut_after"
        return "none"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **clean_environment(os.environ),
            "SPECTRON_ENDPOINT": self.proxy.base_url,
            "SPECTRON_CONTEXT": self.server.context,
            "SPECTRON_API_KEY": self.server.api_key,
        }

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start a command in a process that can be killed."""
        return subprocess.Popen(
            [sys.executable, "-m", "spectron_migrate", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> dict[str, Any]:
        """Run a command to its end; returns its JSON."""
        body: dict[str, Any] = json.loads(command(self.folder, *words, "--json", environment=self.environment).stdout)
        return body

    def follow(self) -> StderrLines:
        return StderrLines(self.begin("replay", "--follow"))

    def kill(self, process: subprocess.Popen[str], *, after_writes: int = 0) -> None:
        """Kill -9 a process in the middle of a request, after so many more writes."""
        self.kill_at, self.victim = self.writes + after_writes, process
        process.wait(PATIENCE_S)

    def memories(self) -> list[Memory]:
        """What Mem0 holds now."""
        with open_oss(self.config, now=datetime.now(UTC)) as reader:
            return [row for row in reader.rows() if isinstance(row, Memory)]

    @property
    def state(self) -> Path:
        return self.folder / ".spectron-migrate"


@pytest.fixture
def site(postgres: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A new table for Mem0, and a Spectron of its own."""
    import psycopg

    table = f"live_{os.getpid()}"
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("CREATE EXTENSION IF NOT EXISTS vector")
    config = {
        "vector_store": {
            "provider": "pgvector",
            "config": {"connection_string": postgres, "collection_name": table, "embedding_model_dims": 256},
        },
        "embedder": {"provider": "lmstudio", "config": {"embedding_dims": 256}},
        "llm": {"provider": "openai", "config": {"api_key": "unused", "model": "unused"}},
        "history_db_path": str(tmp_path / "nowhere.db"),
    }
    (tmp_path / "mem0.json").write_text(json.dumps(config))
    (tmp_path / "spectron-migrate.yaml").write_text(
        "version: 1\nmem0: {oss: {config: mem0.json}}\ncutover: {settle: 2s, max_lag: 120s, soak: 0s}\n"
    )
    with (
        running_server(tmp_path / "spectron", context="live") as server,
        misbehaving(server.base_url) as proxy,
    ):
        made = Site(tmp_path, config, server, proxy)
        proxy.choose = made.choose
        yield made
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute(f'DROP TABLE IF EXISTS "{table}"')


@contextmanager
def writers(site: Site, count: int) -> Iterator[Callable[[], list[dict[str, int]]]]:
    """Applications that write to Mem0; yields a function that stops them and returns what each did."""
    running: list[tuple[ForkServerProcess, Any]] = []
    for number in range(count):
        config = {**site.config, "history_db_path": str(site.folder / f"history-{number}.db")}
        path = site.folder / f"mem0-{number}.json"
        path.write_text(json.dumps(config))
        home = site.folder / f"home-{number}"
        home.mkdir()
        ours, theirs = warm.pipe()
        process = warm.start(
            writer.main,
            *(str(path), f"app{number}", number, theirs),
            folder=site.folder,
            environment={
                **clean_environment(os.environ),
                "HOME": str(home),
                "MEM0_DIR": str(home),
                "MEM0_TELEMETRY": "False",
            },
        )
        theirs.close()
        running.append((process, ours))
        if number == 0:  # several processes that create Mem0's table at once fail
            assert "writing" == ours.recv()

    def stop() -> list[dict[str, int]]:
        counts = []
        for process, ours in running:
            ours.send("stop")
            while isinstance(told := ours.recv(), str):
                pass
            counts.append(told)
            process.join(60)
        running.clear()
        return counts

    try:
        yield stop
    finally:
        for process, _ in running:
            process.kill()
            process.join()


def retry(work: Callable[[], dict[str, Any]], codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run a command until it succeeds: while applications write, gates may fail for a moment."""
    answers: list[dict[str, Any]] = []

    def succeeds() -> bool:
        answers.append(work())
        return answers[-1]["exit_code"] in codes

    # A write in doubt whose memory Mem0 has replaced meanwhile holds its lane for two minutes.
    wait_until(succeeds, seconds=2 * PATIENCE_S, every_s=0.5, said=lambda: answers[-1])
    return answers[-1]


def test_with_four_writers_and_kills_at_every_stage_all_of_mem0_is_in_spectron_once_and_in_order(
    site: Site,
) -> None:
    with ExitStack() as at_the_end, writers(site, 4) as stop:
        assert "started" == site.run("cutover", "start")["phase"]
        follow = site.follow()
        at_the_end.callback(lambda: follow.process.kill())
        site.kill(follow.process, after_writes=9)

        follow = site.follow()
        follow.wait_for("round 1:")
        site.server.kill()
        known = follow.wait_for("not everything was delivered")
        site.server.restart()
        follow.wait_for(" round ", after=known)
        site.kill(follow.process, after_writes=5)
        follow = site.follow()
        follow.wait_for("round 2:")

        retry(lambda: site.run("dual-verify", "--sample", "10"), (0, 5))
        if not site.run("cutover", "check")["ready"]:
            retry(lambda: site.run("cutover", "accept", "verdict", "--reason", "writers are at work"), (0, 2))
        for gate in ("application", "calls"):  # these writers know nothing of a migration
            site.run("cutover", "accept", gate, "--reason", "they are stopped before complete")
        assert 50 == retry(lambda: site.run("cutover", "shift", "50"))["percent"]
        assert "started" == site.run("cutover", "revert")["phase"]
        shifting = site.begin("cutover", "shift", "100")
        site.kill(shifting)
        assert "started" == read_journal(site.state).state.phase
        assert 100 == retry(lambda: site.run("cutover", "shift", "100"))["percent"]
        site.server.kill()
        site.server.restart()
        did = stop()

        migration = site.run("status")["migration"]
        closing = site.begin("cutover", "complete", "--migration", migration, "--yes")
        wait_until(lambda: read_journal(site.state).state.phase == "closing")
        site.kill(closing)
        assert "closing" == read_journal(site.state).state.phase
        done = retry(lambda: site.run("cutover", "complete", "--migration", migration, "--yes"))
        assert "complete" == done["phase"]
        assert done["sealed"]
        follow.process.wait(PATIENCE_S)
        assert 0 == follow.process.returncode, follow.lines

    memories = site.memories()
    wrong = oracle.find_violations(site.server.database, site.state, memories, load_mapping(None))
    assert [] == wrong
    totals = {kind: sum(each.get(kind, 0) for each in did) for kind in ("added", "changed", "deleted")}
    assert len(memories) == totals["added"] - totals["deleted"]
    assert min(totals.values()) > 0
    with Ledger.open_for_reading(site.state) as ledger:
        stored = ledger.db.execute("SELECT count(*) FROM receipt WHERE turn_id IS NOT NULL").fetchone()[0]
        late = ledger.db.execute("SELECT count(*) FROM fact WHERE late = 1").fetchone()[0]
    print(f"writers {totals}; {len(memories)} memories in Mem0, {stored} texts in Spectron, {late} late")
