"""Whatever happens in whatever order, the invariants hold: a Mem0 that changes, a server that fails, runs that die.

The server is the local Spectron behind its fault layer, over real connections; its clock, the replay's clock and
its sleep are one clock that only the test moves. A kill leaves the ledger as it was committed at that request,
a power cut as it was last synced.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from spectron_migrate.dump import open_any
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.errors import ExitCode, InputError, Interrupted, Unreachable
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.faults import TRANSIENT_FAULTS, FaultLayer, Faults
from spectron_migrate.local.server import create_app
from spectron_migrate.mapping import ScopeMapping, load_mapping
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.replay_summary import ReplaySummary
from spectron_migrate.records import Filters, Memory, SourceInfo, format_time
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.local.support import embedder
from tests.support.examples import examples
from tests.support.oracle import Watch, find_violations
from tests.support.proxy import Fault, Seen, serving

pytestmark = [pytest.mark.slow, pytest.mark.ledger_file]  # a play restores images of the ledger's file
SOURCE = SourceInfo(kind="oss", place="qdrant:/stateful:mem0", provider="qdrant", version="2.2.1")
BEGIN = datetime(2026, 5, 4, 12, tzinfo=UTC)
TEXTS = ("Likes tea", "Likes coffee", "Lives in Ulm", "the same words", "the same words", "Moved to Rome")
USERS = ("ann", "bob")
RULE = "version: 1\n{more}\nrules:\n  - when: {{user_id: '*'}}\n    scope: {scope}\n"
OWN = "{user: '{user_id}'}"
MAPPINGS = {
    "own": RULE.format(more="", scope=OWN),
    "short sessions": RULE.format(more="session: {by: run_id, size: 2}", scope=OWN),
    "text only": RULE.format(more="infer: none", scope=OWN),
    "identity": RULE.format(more="category: identity\nlabels: {from: mem0}", scope=OWN),
    "batches": RULE.format(more="write: batch\ninfer: none", scope=OWN),
    "moved": RULE.format(more="", scope="{org: acme, user: '{user_id}'}"),
}
FAULTS = (*TRANSIENT_FAULTS, *TRANSIENT_FAULTS, "400", "500_after_stuck", "500_before_stuck")
Ending = Literal["end", "kill", "power cut", "cancel", "signal"]
ROUNDS = 8
"""Runs in fair weather after which everything must be decided."""


class Server:
    """The local Spectron behind its faults; what hits a request depends on the request alone, not on its turn."""

    def __init__(self, folder: Path, watch: Watch, clock: Any) -> None:
        self.app = watch.around(create_app(data=folder, context="tests", embedder=embedder(), clock=clock))
        self.watch = watch
        self.restart()

    def restart(self) -> None:
        """What was stuck is in flight no longer."""
        self._layer = FaultLayer(self.app, Faults(choose=self.watch))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._layer(scope, receive, send)


class Run:
    """One replay: its weather, and how and at which request it ends."""

    def __init__(
        self, world: World, ending: Ending = "end", at: tuple[int, bool] = (0, False), seed: int = 0, chance: float = 0
    ) -> None:
        """`at`: the how-manieth request, and whether only writes of facts count."""
        self.world, self.ending, self.seed, self.chance = world, ending, seed, chance
        self.at, self.only_writes = at
        self.requests = 0
        self.tries: dict[str, int] = {}
        self.image: sqlite3.Connection | None = None

    def __call__(self, seen: Seen) -> Fault:
        """The fault of a request."""
        self.requests += seen.writes_fact or not self.only_writes
        name = self.world.name_of(seen)
        self.tries[name] = self.tries.get(name, 0) + 1
        dice = random.Random(f"{self.seed} {self.tries[name]} {name}")
        if self.requests == self.at and self.ending != "end" and not self.world.watch.client_is_dead:
            self.at = 0
            self._end()
            return dice.choice(["cut_before", "cut_after", "none"]) if self.ending != "signal" else "none"
        likely = self.chance * (1.5 if seen.writes_fact else 0.5)
        return dice.choice(FAULTS) if dice.random() < likely else "none"

    def _end(self) -> None:
        loop, task, step = self.world.running
        if self.ending == "signal":
            loop.call_soon_threadsafe(step.interrupt, ExitCode.SIGTERM)
            return
        self.world.watch.client_is_dead = True
        if self.ending == "kill":
            self.image = image_of(self.world.state / "ledger.db")
        elif self.ending == "power cut":
            self.image = self.world.synced
        loop.call_soon_threadsafe(task.cancel)


class World:
    """Mem0, the server, the ledger, and the time."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        shm = Path("/dev/shm")
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None)))
        self.state = self.folder / "state"
        self.now = BEGIN
        self.mem0: dict[str, Memory] = {}
        self.mapping = "own"
        self.first_keys: dict[str, str] = {}
        """The key of the first write to each session."""
        self.synced: sqlite3.Connection | None = None
        self.running: Any = None
        self.watch = Watch(self.state)
        self.server = Server(self.folder / "spectron", self.watch, self.tick)
        self.url = self.stack.enter_context(serving(self.server))
        self.stack.enter_context(mock.patch.object(Ledger, "transaction", self._noting()))

    def name_of(self, seen: Seen) -> str:
        """A name of the request that is the same in every run of the test: no random ids of sessions and markers."""
        key = seen.headers.get("idempotency-key", "")
        session = re.search(rb'"session_id":"(\w+)"', seen.body)
        if session is not None:
            self.first_keys.setdefault(session[1].decode(), key)
        name = re.sub(r"sess_\w+", lambda id_: self.first_keys.get(id_[0], "unused"), f"{seen.method} {seen.path}")
        body = re.sub(rb"(x---m\w+)-\d+", rb"\1", seen.body)
        return f"{name} {key or body!r}"

    def tick(self) -> datetime:
        """The time; looking at it takes some."""
        self.now += timedelta(milliseconds=1)
        return self.now

    def pass_time(self, **delta: float) -> None:
        """Let time go by."""
        self.now += timedelta(**delta)

    def read_mapping(self, name: str) -> ScopeMapping:
        """One of the mappings."""
        path = self.folder / "mapping.yaml"
        path.write_text(MAPPINGS[name])
        return load_mapping(path)

    def export(self) -> None:
        """A complete scan of Mem0."""
        self.pass_time(seconds=5)
        with DumpWriter(self.folder / "dump", SOURCE, self.now, rereads=True) as writer:
            for memory in self.mem0.values():
                writer.add(memory)
            self.pass_time(seconds=5)
            writer.commit(complete=True, native_count=len(self.mem0), ended=self.now)

    def replay(self, run: Run, options: ReplayOptions, mapping: str) -> ReplaySummary | None:
        """One run; None where it did not come to its end."""
        self.watch.begin_run()
        self.watch.choose = run
        try:
            return asyncio.run(self._replay(options, self.read_mapping(mapping)))
        except (asyncio.CancelledError, Interrupted, Unreachable):
            return None
        finally:
            if run.image is not None:
                restore(run.image, self.state / "ledger.db")
            self.pass_time(minutes=1)

    async def _replay(self, options: ReplayOptions, mapping: ScopeMapping) -> ReplaySummary:
        async def sleep(seconds: float) -> None:
            self.pass_time(seconds=seconds)
            await asyncio.sleep(0)

        async with SpectronApi(self.url, "tests", api_key="sk-local", sleep=sleep, timeout_s=5.0) as api:
            with open_any([self.folder / "dump"]) as dump:
                step = Replay(
                    self.state,
                    dump,
                    mapping,
                    options,
                    reporter=NullReporter(),
                    clock=lambda: self.tick().timestamp(),
                    now=self.tick,
                    sleep=sleep,
                )
                self.running = (asyncio.get_running_loop(), asyncio.current_task(), step)
                return await step.run(api)

    def judge(self, *, finished: bool) -> None:
        """What the oracle finds is nothing."""
        if not (self.state / "ledger.db").exists():
            return
        database = self.folder / "spectron" / "tests.sqlite"
        mapping = self.read_mapping(self.mapping)
        wrong = self.watch.wrong + find_violations(database, self.state, self.mem0.values(), mapping, finished=finished)
        assert [] == wrong, self.watch.with_log(wrong)

    def _noting(self) -> Any:
        transaction = Ledger.transaction

        @contextmanager
        def noting(ledger: Ledger, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
            with transaction(ledger, durable=durable) as db:
                yield db
            if durable and ledger.path.parent == self.state:
                self.synced = image_of(ledger.path)

        return noting


def image_of(path: Path) -> sqlite3.Connection:
    """All that is committed."""
    image = sqlite3.connect(":memory:", check_same_thread=False)
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        db.backup(image)
    return image


def restore(image: sqlite3.Connection, path: Path) -> None:
    """Put the file back to what it was."""
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as db:
        image.backup(db)


class Migration(RuleBasedStateMachine):
    """The rules: what people, programs and machines do."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.made = 0

    @initialize(count=st.integers(3, 12), texts=st.randoms(use_true_random=False))
    def some_memories(self, count: int, texts: random.Random) -> None:
        for _ in range(count):
            self.add(texts.choice(USERS), texts.choice(TEXTS), texts.choice([None, "r1"]), texts.randrange(500))

    @rule(
        changes=st.lists(
            st.tuples(st.sampled_from(["add", "add", "edit", "edit", "delete", "return"]), st.integers(0, 99)),
            min_size=1,
            max_size=4,
        )
    )
    def mem0_changes(self, changes: list[tuple[str, int]]) -> None:
        """New memories, old ones that are new to us, other texts, deletions, and what one scan missed."""
        for kind, pick in changes:
            text = TEXTS[pick % len(TEXTS)]
            if kind == "add" or not self.world.mem0:
                self.add(USERS[pick % 2], text, (None, "r1")[pick // 2 % 2], age_h=pick * 5 if pick % 3 else 0)
            elif kind == "edit":
                self.edit(self._pick(pick), text)
            else:
                self.delete(self._pick(pick), back=kind == "return")

    def add(self, user: str, text: str, run_id: str | None, age_h: int) -> None:
        """A new memory, perhaps one that somebody imported and that is old."""
        self.made += 1
        at = format_time(self.world.tick() - timedelta(hours=age_h))
        id_ = f"m{self.made}"
        self.world.mem0[id_] = Memory(
            id=id_, memory=text, user_id=user, run_id=run_id, created_at=at, text_at=at, text_at_source="created_at"
        )
        self.world.pass_time(seconds=1)

    def edit(self, memory: Memory, text: str) -> None:
        """Another text; the same again is none."""
        if memory.memory != text:
            at = format_time(self.world.tick())
            self.world.mem0[memory.id] = replace(memory, memory=text, updated_at=at, text_at=at)

    def delete(self, memory: Memory, *, back: bool) -> None:
        """Deleted; or missed by one scan, and seen again by the next."""
        del self.world.mem0[memory.id]
        if back:
            self.world.export()
            self.world.mem0[memory.id] = memory

    @rule(
        hours=st.sampled_from([0, 0, 19, 21, 25, 100]),
        restart=st.booleans(),
        ending=st.sampled_from(["end", "end", "kill", "kill", "power cut", "cancel", "signal"]),
        at=st.one_of(st.integers(1, 12).map(lambda n: (n, True)), st.integers(1, 40).map(lambda n: (n, False))),
        seed=st.integers(0, 999),
        chance=st.sampled_from([0.0, 0.2, 0.4]),
        users=st.sampled_from([frozenset(), frozenset(), frozenset(), frozenset({"ann"})]),
        limit=st.sampled_from([None, None, None, 2]),
        retry=st.booleans(),
        at_once=st.sampled_from([1, 4]),
        mapping=st.sampled_from([*["own"] * 5, *["batches"] * 2, *MAPPINGS]),
    )
    def replay(
        self,
        hours: int,
        restart: bool,
        ending: Ending,
        at: tuple[int, bool],
        seed: int,
        chance: float,
        users: frozenset[str],
        limit: int | None,
        retry: bool,
        at_once: int,
        mapping: str,
    ) -> None:
        """A scan, and a run that may come to its end.

        Before it time goes by, perhaps past the 20 hours that we trust a key, or the 24 that the server keeps it; and
        stuck keys may come loose.
        """
        self.world.pass_time(hours=hours)
        if restart:
            self.world.server.restart()
        self.world.export()
        options = ReplayOptions(filters=Filters(users=users), limit=limit, retry_failed=retry, max_in_flight=at_once)
        try:
            summary = self.world.replay(Run(self.world, ending, at, seed, chance), options, mapping)
            event(f"replay: {ending}, {summary.exit_code.name if summary else 'died'}")
        except InputError:
            event("replay: a mapping that moves what was sent is refused")
        self.world.judge(finished=False)

    def teardown(self) -> None:
        """In fair weather everything is decided in the end, and every invariant holds."""
        try:
            self._finish()
        finally:
            self.world.stack.close()

    def _finish(self) -> None:
        world = self.world
        world.server.restart()
        world.export()
        for _ in range(ROUNDS):
            try:
                summary = world.replay(Run(world), ReplayOptions(), world.mapping)
            except InputError:
                world.mapping = "moved" if world.mapping == "own" else "own"
                continue
            assert summary is not None
            if summary.exit_code in (ExitCode.DONE, ExitCode.REFUSED) and summary.undecidable == 0:
                assert 0 == summary.remaining
                assert 0 == summary.in_doubt
                break
            world.pass_time(hours=25)
        event(f"the end: {summary.exit_code.name}, undecidable {summary.undecidable}")
        world.judge(finished=summary.undecidable == 0)

    def _pick(self, pick: int) -> Memory:
        return list(self.world.mem0.values())[pick % len(self.world.mem0)]


TestMigration = Migration.TestCase
MANY = int(os.environ.get("STATEFUL_EXAMPLES", "0"))
"""More of them than a test may take, each time others."""
TestMigration.settings = settings(
    max_examples=MANY or examples(50),
    stateful_step_count=15,
    deadline=None,
    phases=[Phase.generate],  # what failed is told with its requests; shrinking takes minutes
    derandomize=settings.default.derandomize and not MANY,
    database=None,
    suppress_health_check=list(HealthCheck),
)
