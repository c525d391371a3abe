"""A Mem0 store that a test writes row by row, a clock that it moves, and rounds of following over both."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.mem0.reader import Reader
from spectron_migrate.mem0.state_mark import state_mark
from spectron_migrate.migration.export import run_export
from spectron_migrate.migration.follow import Follow
from spectron_migrate.migration.follow_summary import FollowSummary
from spectron_migrate.migration.round_result import Round
from spectron_migrate.migration.rounds import CatchUpSettings, Rounds
from spectron_migrate.records import Filters, Json
from spectron_migrate.reporter import Gauges, NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.mem0.qdrant_points import key_of, point, uuid, write_store
from tests.support.spectron import turns_of

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


class RecordingReporter(NullReporter):
    """Keeps the lines for people, the stages and the events as well as the warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.stages: list[tuple[str, int | None, int]] = []
        """Name, total, and what was done before."""
        self.events: list[dict[str, Json]] = []

    def stage(
        self, name: str, total: int | None = None, *, done: int = 0, gauges: Callable[[], Gauges] | None = None
    ) -> None:
        self.stages.append((name, total, done))

    def event(self, event: str, **fields: Json) -> None:
        self.events.append({"event": event, **fields})

    def info(self, message: str) -> None:
        self.lines.append(message)


@dataclass
class Time:
    """A wall clock that moves only in `sleep` and `pass_`."""

    moment: datetime = NOON

    def now(self) -> datetime:
        self.moment += timedelta(microseconds=1)  # no two readings are the same
        return self.moment

    def clock(self) -> float:
        return self.moment.timestamp()

    def pass_(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)

    async def sleep(self, seconds: float) -> None:
        self.pass_(seconds)
        await asyncio.sleep(0)


@dataclass
class Store:
    """An embedded Qdrant folder of Mem0; each method leaves in it what a call of an application would."""

    folder: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    readings: int = 0
    """How often it was opened to be read."""

    def __post_init__(self) -> None:
        write_store(self.folder, [])

    @property
    def config(self) -> dict[str, Any]:
        settings = {"collection_name": "mem0", "path": str(self.folder / "store")}
        return {
            "vector_store": {"provider": "qdrant", "config": settings},
            "history_db_path": str(self.folder / "no-history.db"),
        }

    def put(
        self, number: int, text: str, user: str, at: datetime, *, edited: datetime | None = None, **more: Any
    ) -> str:
        """Add a memory, or replace its row."""
        mem0_id = uuid(number)
        times = {"created_at": at.isoformat(), "updated_at": (edited or at).isoformat()}
        self.rows[mem0_id] = {"data": text, "user_id": user, **times, **more}
        self._write(mem0_id)
        return mem0_id

    def drop(self, number: int) -> None:
        """Delete a memory."""
        del self.rows[uuid(number)]
        self._remove(uuid(number))

    def open(self, now: datetime) -> Reader:
        self.readings += 1
        return open_oss(self.config, now=now)

    def mark(self, now_ns: int) -> str | None:
        """As of an hour from now, so that no file counts as one that may still be changing."""
        return state_mark({"oss": {"config": self.config}}, now_ns=time.time_ns() + 3_600 * 10**9)

    def _write(self, mem0_id: str) -> None:
        self._run("INSERT OR REPLACE INTO points VALUES (?, ?)", key_of(mem0_id), point(mem0_id, **self.rows[mem0_id]))

    def _remove(self, mem0_id: str) -> None:
        self._run("DELETE FROM points WHERE id = ?", key_of(mem0_id))

    def _run(self, statement: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.folder / "store/collection/mem0/storage.sqlite")) as db, db:
            db.execute(statement, values)


@dataclass
class PgStore(Store):
    """A table of Mem0's in Postgres, as `Store` is an embedded Qdrant."""

    address: str = ""

    def __post_init__(self) -> None:
        self._execute("CREATE EXTENSION IF NOT EXISTS vector")
        self._execute("DROP TABLE IF EXISTS scene")
        self._execute("CREATE TABLE scene (id UUID PRIMARY KEY, vector vector(2), payload JSONB)")

    @property
    def config(self) -> dict[str, Any]:
        settings = {"collection_name": "scene", "connection_string": self.address}
        return {
            "vector_store": {"provider": "pgvector", "config": settings},
            "history_db_path": str(self.folder / "no-history.db"),
        }

    def _write(self, mem0_id: str) -> None:
        self._execute(
            "INSERT INTO scene VALUES (%s, '[1,2]', %s) ON CONFLICT (id) DO UPDATE SET payload = excluded.payload",
            mem0_id,
            json.dumps(self.rows[mem0_id]),
        )

    def _remove(self, mem0_id: str) -> None:
        self._execute("DELETE FROM scene WHERE id = %s", mem0_id)

    def _execute(self, statement: str, *values: Any) -> None:
        import psycopg

        with psycopg.connect(self.address, autocommit=True) as db:
            db.execute(statement, values or None)


@dataclass
class Scene:
    """A Mem0 store, a Spectron, a state directory between them, and a clock."""

    store: Store
    server: RunningServer
    folder: Path
    user: str
    time: Time = field(default_factory=Time)
    reporter: RecordingReporter = field(default_factory=RecordingReporter)
    settle_s: float = 60.0
    hold_s: float = 5.0
    mapping: Path | None = None
    open_reader: Callable[[datetime], Reader] | None = None
    endpoint: str | None = None

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def settings(self) -> CatchUpSettings:
        return CatchUpSettings(
            state=self.state,
            dump=self.folder / "dump",
            mapping=load_mapping(self.mapping),
            open_reader=self.open_reader or self.store.open,
            state_mark=self.store.mark if self.open_reader is None else lambda now_ns: None,
            settle_s=self.settle_s,
            max_lag_s=60.0,
            hold_s=self.hold_s,
        )

    @property
    def texts(self) -> list[str]:
        """What the server's own table holds of the user, in the order of writing."""
        return [turn.content for turn in turns_of(self.server, self.user)]

    def put(self, number: int, text: str, *, ago: float = 3600.0, **more: Any) -> str:
        """A memory of the user, `ago` seconds old."""
        return self.store.put(number, text, self.user, self.time.moment - timedelta(seconds=ago), **more)

    def api(self) -> SpectronApi:
        return SpectronApi(
            self.endpoint or self.server.base_url,
            self.server.context,
            api_key=self.server.api_key,
            timeout_s=20,
            sleep=self.time.sleep,
        )

    def export(self) -> Path:
        """Bring the dump up to date, as the command does."""
        with self.store.open(self.time.now()) as reader:
            run_export(
                reader,
                self.settings.dump,
                filters=Filters(),
                since=None,
                keep_history=False,
                reporter=NullReporter(),
                clock=self.time.now,
            )
        return self.settings.dump

    def rounds(self) -> Rounds:
        named: dict[str, Any] = {"clock": self.time.clock, "now": self.time.now, "sleep": self.time.sleep}
        return Rounds(self.settings, reporter=self.reporter, **named)

    def round(self, rounds: Rounds | None = None, **named: Any) -> Round:
        """One round, from a process that knows of no other unless `rounds` goes on."""

        async def run() -> Round:
            async with self.api() as api:
                return await (rounds or self.rounds()).round(api, **named)

        return asyncio.run(run())

    def rounds_until_none_is_held(self, **named: Any) -> Round:
        """Rounds of one process until time has decided what was in doubt; the last one."""
        rounds = self.rounds()
        while (done := self.round(rounds, **named)).held:
            self.time.pass_(10)
        return done

    def follow(self, **named: Any) -> FollowSummary:
        """Follow, until the time that was set."""

        async def run() -> FollowSummary:
            async with self.api() as api:
                return await self.follower(**named).run(api)

        return asyncio.run(run())

    def follower(self, **named: Any) -> Follow:
        given: dict[str, Any] = {"clock": self.time.clock, "now": self.time.now, "sleep": self.time.sleep, **named}
        return Follow(self.settings, reporter=self.reporter, **given)


@pytest.fixture
def scene(spectron: RunningServer, user: str, tmp_path: Path) -> Scene:
    """A scene of its own, on the server that all tests of a worker share."""
    return Scene(Store(tmp_path / "mem0"), spectron, tmp_path, user)
