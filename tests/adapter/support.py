"""An application with a real Mem0, and whoever migrates it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest

from spectron_migrate import AsyncMemoryAdapter, MemoryAdapter
from spectron_migrate.adapter.process_calls import ProcessCalls
from spectron_migrate.errors import ExitCode
from spectron_migrate.ledger import migration_id
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.mem0.open import open_oss, source_info
from spectron_migrate.mem0.search import close_memory, mem0_home, unused_llm
from spectron_migrate.migration.follow import Follow
from spectron_migrate.migration.ledger_access import round_lock
from spectron_migrate.migration.reconcile import read_last_result, reconcile
from spectron_migrate.migration.round_result import Round
from spectron_migrate.migration.rounds import CatchUpSettings, Rounds
from spectron_migrate.records import Memory, format_time
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.call_log import (
    CallResult,
    CallSubject,
    begin_line,
    encode_results,
    end_line,
    unknown_line,
)
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.journal import record_step
from spectron_migrate.state.postgres_calls import PostgresCallLog
from spectron_migrate.state.processes import OwnFile, ProcessesStatus, read_processes
from spectron_migrate.state.store import store_at
from tests.support import oracle
from tests.support.waiting import wait_until

EMBEDDER = "spectron_migrate.mem0.wordllama_embedder.WordLlamaEmbedding"
TEA = "Prefers green tea over coffee in the morning"


def stamp() -> str:
    return format_time(datetime.now(UTC))


@dataclass
class Stage:
    """Everything that a test of the adapter plays with."""

    folder: Path
    server: RunningServer
    user: str
    config: dict[str, Any]
    mem0: Any
    """A real `mem0.Memory` on an embedded Qdrant."""
    opened: list[MemoryAdapter] = field(default_factory=list)
    mapping: Path | None = None
    followers: ExitStack = field(default_factory=ExitStack)

    @classmethod
    @contextmanager
    def open(cls, folder: Path, server: RunningServer, user: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
        with mem0_home(folder / "home"):
            from mem0 import Memory
            from mem0.utils.factory import EmbedderFactory

            monkeypatch.setitem(EmbedderFactory.provider_to_class, "lmstudio", EMBEDDER)
            config = oss_config(folder)
            memory = Memory.from_config(config)
        (folder / "mem0.json").write_text(json.dumps(config))
        for name, value in environment(server).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(folder)
        stage = cls(folder, server, user, config, memory)
        stage.write_settings()
        try:
            yield stage
        finally:
            stage.followers.close()
            for adapter in stage.opened:
                adapter._core.close()
            close_memory(memory)

    @property
    def state(self) -> Path:
        return self.folder / ".spectron-migrate"

    def write_settings(self, more: Mapping[str, Any] | None = None, **cutover: Any) -> None:
        """`spectron-migrate.yaml` of the application; `more` beside its section `cutover`."""
        settings: dict[str, Any] = {
            "version": 1,
            "mem0": {"oss": {"config": "mem0.json"}},
            "cutover": {"settle": "0s", **cutover},
            **(more or {}),
        }
        (self.folder / "spectron-migrate.yaml").write_text(json.dumps(settings))

    def adapter(self, client: Any = None, **named: Any) -> MemoryAdapter:
        self.opened.append(MemoryAdapter(client or self.mem0, **named))
        be_patient(self.opened[-1]._core.process_calls)
        return self.opened[-1]

    def async_adapter(self, client: Any = None, *more: Any, **named: Any) -> AsyncMemoryAdapter:
        adapter = AsyncMemoryAdapter(client or self.mem0, *more, **named)
        self.opened.append(adapter)  # type: ignore[arg-type] - closed the same way
        be_patient(adapter._core.process_calls)
        return adapter

    def say(self, text: str, client: Any = None, **named: Any) -> str:
        """Something that the application's user says, past the adapter; its id in Mem0."""
        answer = (client or self.mem0).add(text, infer=False, **{"user_id": self.user, **named})
        return str(answer["results"][0]["id"])

    # -- who migrates -------------------------------------------------------------------------------------

    @property
    def migration(self) -> str:
        return migration_id(self.server.context, source_info({"oss": {"config": self.config}}).identity)

    def notice(self) -> None:
        """As when half a second goes by: adapters look at the routing again."""
        for adapter in self.opened:
            core = adapter._core
            core.routing.fetch()
            core.routing.look()
            core.catalogue._look_at = float("-inf")
            core.catalogue.connect()
            be_patient(core.process_calls)
            core.process_calls.maintain(as_of=float("-inf"), drained=True)
            core.readiness.forget()

    def start(self, catch_up: Literal["follow", "outbox"] = "follow") -> None:
        self.state.mkdir(mode=0o700, exist_ok=True)
        record_step(self.state, Step("start", stamp(), "a test", migration=self.migration, catch_up=catch_up))
        self.notice()

    def shift(self, percent: float) -> None:
        record_step(self.state, Step("shift", stamp(), "a test", percent=percent))
        self.notice()

    def complete(self) -> None:
        """As `cutover complete` records it, with the mapping that is in force."""
        mapping = load_mapping(self.mapping)
        digests = {"mapping_digest": mapping.digest, "rules_digest": mapping.rules_digest}
        record_step(self.state, Step("complete", stamp(), "a test", **digests))
        self.notice()

    def step(self, name: Any) -> None:
        record_step(self.state, Step(name, stamp(), "a test"))
        self.notice()

    def catch_up(self) -> Round:
        """One round: what Mem0 holds now comes to Spectron, and the routing says so."""

        async def run() -> Round:
            async with self.api() as api, round_lock(self.state, patience_s=60.0):
                return await self.rounds().round(api)

        done = asyncio.run(run())
        self.notice()
        return done

    def read(self) -> Round:
        """Read Mem0 and deliver, and leave what was captured where it is."""

        async def run() -> Round:
            async with self.api() as api, round_lock(self.state, patience_s=60.0):
                return await self.rounds()._read_and_deliver(api, compare=False, supersede=True)

        return asyncio.run(run())

    def follow(self) -> None:
        """`replay --follow` runs until the test ends; it has done its first readings of Mem0."""
        self.followers.enter_context(self.following())
        wait_until(lambda: read_last_result(self.state) is not None)

    @contextmanager
    def following(self) -> Iterator[None]:
        """`replay --follow` runs, in a thread, while the block lasts."""
        follow = Follow(self.settings, reporter=NullReporter(), every_s=0.3)
        loops: list[asyncio.AbstractEventLoop] = []
        started = threading.Event()
        failed: list[BaseException] = []

        async def run() -> None:
            loops.append(asyncio.get_running_loop())
            started.set()
            async with self.api() as api:
                await follow.run(api)

        def run_in_thread() -> None:
            try:
                asyncio.run(run())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run_in_thread)
        thread.start()
        started.wait(10)
        try:
            yield
        finally:
            with suppress(RuntimeError):  # it has ended by itself
                loops[0].call_soon_threadsafe(follow.interrupt, ExitCode.SIGTERM)
            thread.join()
        assert [] == failed

    def reconcile(self, *, others_write: bool = False) -> bool:
        """Whether two readings of Mem0 agree; they follow each other at once, unless others may write meanwhile."""
        sleep = asyncio.sleep if others_write else _hardly_sleep

        async def run() -> bool:
            async with self.api() as api, round_lock(self.state, patience_s=60.0):
                return (await reconcile(self.rounds(), api, quiet=True, reporter=NullReporter(), sleep=sleep)).agree

        return asyncio.run(run())

    def api(self, endpoint: str | None = None) -> SpectronApi:
        return SpectronApi(endpoint or self.server.base_url, self.server.context, api_key=self.server.api_key)

    @property
    def settings(self) -> CatchUpSettings:
        return CatchUpSettings(
            state=self.state,
            dump=self.folder / "dump",
            mapping=load_mapping(self.mapping),
            open_reader=lambda now: open_oss(self.config, now=now),
            settle_s=0.0,
            max_lag_s=600.0,
        )

    def rounds(self) -> Rounds:
        return Rounds(self.settings, reporter=NullReporter())

    def to_spectron(self) -> None:
        """Everything that Mem0 holds is in Spectron, and everybody reads there."""
        self.start()
        self.catch_up()
        self.shift(100)

    def overview(self, adapter: Any) -> ProcessesStatus:
        """What the processes say, once this one has told its news."""
        adapter._core.heartbeat.begin()
        adapter._core.heartbeat.beat()
        return read_processes(self.state)


async def _hardly_sleep(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.05))


def be_patient(calls: ProcessCalls) -> None:
    """Connect to the log of a state in a database, and wait for its answers as long as a busy machine takes."""
    calls.connect()
    if isinstance(calls._log, PostgresCallLog):
        calls._log._budget_s = 20


class NotedCalls:
    """Calls as an application process notes them in the log of the host."""

    def __init__(self, state: Path) -> None:
        self._log = store_at(state).call_log(patience_s=20.0)
        self._process = OwnFile(state)
        self._numbers = itertools.count()

    def begin(self, subject: CallSubject) -> str:
        """A call begins; its name."""
        call = f"{self._process.token}/{next(self._numbers)}"
        self._log.append(begin_line(call, 1, time.time(), subject))
        return call

    def end(self, call: str, results: Sequence[CallResult] = (), at: datetime | None = None) -> None:
        """It returned, and this is what it left in Mem0."""
        self._log.append(end_line(call, (at or datetime.now(UTC)).timestamp(), encode_results(results)))

    def complete(self, results: Sequence[CallResult], at: datetime | None = None, *, owner: str = "nobody") -> None:
        """A call from its beginning to its end."""
        self.end(self.begin(CallSubject((owner,))), results, at)

    def leave_unknown(self, subject: CallSubject, at: datetime | None = None) -> None:
        """A call that raised."""
        self._log.append(unknown_line(self.begin(subject), (at or datetime.now(UTC)).timestamp(), subject))

    def die(self) -> None:
        """The process is killed: its lock is released, and nothing else happens."""
        self._process.close()


def environment(server: RunningServer) -> dict[str, str]:
    return {
        "SPECTRON_ENDPOINT": server.base_url,
        "SPECTRON_CONTEXT": server.context,
        "SPECTRON_API_KEY": server.api_key,
        "MEM0_TELEMETRY": "False",
        "PYTHONWARNINGS": "ignore",
        "PATH": os.environ.get("PATH", ""),
    }


def oss_config(folder: Path, **store: Any) -> dict[str, Any]:
    """A Mem0 of the installed version, with real embeddings that need no key and no network."""
    vector_store = {
        "provider": "qdrant",
        "config": {
            "collection_name": "mem0",
            "path": str(folder / "qdrant"),
            "on_disk": True,
            "embedding_model_dims": 256,
        },
    }
    return {
        "vector_store": store or vector_store,
        "embedder": {"provider": "lmstudio", "config": {"model": "wordllama", "embedding_dims": 256}},
        "llm": unused_llm(),
        "history_db_path": str(folder / "history.db"),
    }


def texts(answer: Any) -> list[str]:
    rows = answer["results"] if isinstance(answer, dict) else answer
    return [row["memory"] for row in rows]


def ids(answer: Any) -> list[str]:
    rows = answer["results"] if isinstance(answer, dict) else answer
    return [row["id"] for row in rows]


def begun(stage: Stage, **cutover: Any) -> Stage:
    """A cutover by outbox whose base is in Spectron."""
    stage.write_settings(catch_up="outbox", **cutover)
    stage.say("Was here before the cutover began")
    stage.start("outbox")
    stage.catch_up()
    return stage


def followed(stage: Stage, **cutover: Any) -> Stage:
    """The same, and a process that drains the outbox."""
    begun(stage, **cutover).follow()
    return stage


def judged(stage: Stage) -> None:
    with open_oss(stage.config, now=datetime.now(UTC)) as reader:
        memories = [row for row in reader.rows() if isinstance(row, Memory)]
    wrong = oracle.find_violations(stage.server.database, stage.state, memories, load_mapping(None))
    mine = [each for each in wrong if not each.startswith(("I8: session", "I2: nobody claims"))]
    assert [] == mine


def turns(stage: Stage) -> list[str]:
    """What the server has of the user, in the order of arrival."""
    found = oracle.server_turns(stage.server.database)
    mine = [turn for turn in found if any(path.startswith(f"user/{stage.user}") for path in turn.paths)]
    return [turn.text for turn in sorted(mine, key=lambda turn: turn.arrived)]


class Untouchable:
    """A Mem0 that nobody may call any more."""

    def search(self, query: str, *, top_k: int = 20, filters: Any = None, **kwargs: Any) -> Any:
        raise AssertionError("Mem0 was asked")

    add = get = get_all = update = delete = delete_all = history = reset = search
