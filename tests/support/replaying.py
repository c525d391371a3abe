"""Replays whose waits take no time while their clock moves on, replays that are killed, and what they need."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_any
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.replay_summary import ReplaySummary
from spectron_migrate.records import Filters, Memory, SourceInfo, format_time
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron import wire
from spectron_migrate.spectron.api import SpectronApi
from tests.support.engines import named
from tests.support.proxy import Fault, Proxy, Seen, misbehaving, refusing
from tests.support.spectron import turns_of
from tests.support.warm import start_command

NONE = "infer: none\n"
BATCH = "infer: none\nwrite: batch\n"
TODAY = datetime.now(UTC).replace(microsecond=0)
SOURCE = SourceInfo(kind="oss", place="qdrant:/review:mem0", provider="qdrant", version="2.2.1")


def replay_in_no_time(
    server: RunningServer,
    state: Path,
    dump: Path,
    *,
    endpoint: str | None = None,
    mapping: Path | None = None,
    options: ReplayOptions | None = None,
    waited: Callable[[float], None] = lambda moment: None,
) -> ReplaySummary:
    """One replay; `waited` is told the clock after each wait."""
    moment = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal moment
        moment += seconds
        waited(moment)
        await asyncio.sleep(0)

    async def run() -> ReplaySummary:
        where = endpoint or server.base_url
        async with SpectronApi(where, server.context, api_key=server.api_key, timeout_s=20.0, sleep=sleep) as api:
            with open_any([dump]) as opened:
                step = Replay(
                    state,
                    opened,
                    load_mapping(mapping),
                    options or ReplayOptions(),
                    reporter=NullReporter(),
                    sleep=sleep,
                    clock=lambda: moment,
                )
                return await step.run(api)

    return asyncio.run(run())


def mapping_file(folder: Path, lines: str) -> Path:
    """A mapping of users to their scopes, with more lines."""
    path = folder / "mapping.yaml"
    rule = "version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {user: '{user_id}'}\n"
    path.write_text(rule + lines)
    return path


def killed(
    server: RunningServer,
    folder: Path,
    dump: Path,
    fault: str,
    when: Callable[[Seen], bool],
    *,
    mapping: Path | None = None,
) -> None:
    """A replay in a process of its own, killed at the first write that `when` is true of; that one gets the fault."""
    running: list[ForkServerProcess] = []

    def kill(seen: Seen) -> Fault:
        if seen.writes_fact and when(seen):
            running[0].kill()
            return fault
        return "none"

    with misbehaving(server.base_url, kill) as proxy:
        environment = {
            **os.environ,
            "SPECTRON_CONTEXT": server.context,
            "SPECTRON_API_KEY": server.api_key,
            "SPECTRON_ENDPOINT": proxy.base_url,
        }
        words = ["replay", "--dump", str(dump), "--state", named(folder / "state"), "--json"]
        words += ["--mapping", str(mapping)] if mapping else []
        running.append(start_command(folder, *words, environment=environment))
        running[0].join(60)
    assert -signal.SIGKILL == running[0].exitcode


def mem0_row(user: str, number: int, text: str) -> Memory:
    """A memory as a reader gives it, at hour `number` of one day."""
    at = format_time(datetime(2025, 1, 1, number, tzinfo=UTC))
    return Memory(
        id=f"{user}-{number}", memory=text, user_id=user, created_at=at, text_at=at, text_at_source="created_at"
    )


def complete_scan(path: Path, rows: list[Memory], began: datetime, users: frozenset[str] = frozenset()) -> Path:
    """A dump directory as a complete scan leaves it; `users` limits the scan to them. Each test has its own Mem0."""
    source = replace(SOURCE, place=f"qdrant:{path.parent}:mem0")
    with DumpWriter(path, source, began, rereads=True, filters=Filters(users=users)) as writer:
        for one in rows:
            writer.add(one)
        writer.commit(complete=True, native_count=len(rows), ended=began + timedelta(seconds=1))
    return path


def texts(server: RunningServer, user: str) -> list[str]:
    """The texts that the server has of a user, in the order they were stored."""
    return [turn.content for turn in turns_of(server, user)]


def expected_texts(user: str, count: int) -> list[str]:
    """The texts of the first `count` memories that `memory` makes."""
    return [f"{user} remembers thing number {number}" for number in range(count)]


def is_write(seen: Seen) -> bool:
    """Whether a request writes a fact."""
    return seen.writes_fact and seen.path.endswith("/facts")


async def nap(_: float) -> None:
    """Waiting that takes no time."""
    await asyncio.sleep(0)


def refused_connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each item that is put into this list makes the next connection be refused, as by a server that restarts."""
    due: list[str] = []
    connect = wire._Connector.connect

    async def refuse(self: Any, *given: Any, **named: Any) -> Any:
        if due:
            raise wire._NotConnected(due.pop())
        return await connect(self, *given, **named)

    monkeypatch.setattr(wire._Connector, "connect", refuse)
    return due


def forged(monkeypatch: pytest.MonkeyPatch, change: Callable[[Seen, bytes], bytes | None]) -> None:
    """Answers of the server, changed on their way by `change(request, answer body) -> body or None`."""
    monkeypatch.setattr(Proxy, "change", lambda _, seen, body: change(seen, body))


def one_session_for_all(monkeypatch: pytest.MonkeyPatch, older: str | None = None) -> list[str]:
    """Every `POST /sessions` is answered with the older session, or with the first that is made.

    Returns the ids of the older session and of those that the server makes, as they come.
    """
    made = [older] if older is not None else []

    def get_or_create(seen: Seen, body: bytes) -> bytes | None:
        if seen.method != "POST" or not seen.path.endswith("/sessions"):
            return None
        answer = json.loads(body)
        made.append(answer["id"])
        return json.dumps({**answer, "id": made[0]}).encode()

    forged(monkeypatch, get_or_create)
    return made


def without_evidence(fault: str) -> Callable[[Seen], Fault]:
    """A write has this fault, and from then on the server knows no session."""
    written = False

    def choose(seen: Seen) -> Fault:
        nonlocal written
        if seen.writes_fact or seen.is_preview:
            written = True
            return fault
        return refusing(404, "no such session") if written and "/turns" in seen.path else "none"

    return choose
