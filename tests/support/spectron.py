"""A running local Spectron for tests of the migration, and an oracle that reads its tables."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectron_migrate.dump import open_any
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.replay_summary import ReplaySummary
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi


@dataclass(frozen=True)
class StoredTurn:
    """A turn as it lies in the server's own table."""

    session: str
    seq: int
    content: str
    scopes: tuple[str, ...]


def turns_of(server: RunningServer, user: str) -> list[StoredTurn]:
    """Turns in the scopes of a user, in the order they were stored."""
    with sqlite3.connect(f"{server.database.as_uri()}?mode=ro", uri=True) as db:
        rows = db.execute(
            "SELECT turns.session, turns.seq, turns.content, turns.scopes FROM turns"
            " WHERE turns.scopes LIKE ? ORDER BY turns.created_at, turns.session, turns.seq",
            (f'%"user/{user}/%',),
        ).fetchall()
    db.close()
    return [
        StoredTurn(row[0], row[1], row[2], tuple(path for clause in json.loads(row[3]) for path in clause))
        for row in rows
    ]


def memory(number: int, user: str, text: str | None = None, *, at: str | None = None, **more: Any) -> dict[str, Any]:
    """A row as Mem0's get_all gives it; `number` orders it in time."""
    moment = at or f"2025-01-{1 + number // 24:02d}T{number % 24:02d}:00:00+00:00"
    return {
        "id": f"{user}-{number:04d}",
        "memory": text if text is not None else f"{user} remembers thing number {number}",
        "user_id": user,
        "metadata": None,
        "created_at": moment,
        "updated_at": moment,
        **more,
    }


def write_raw(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A raw get_all file."""
    path.write_text(json.dumps({"results": list(rows)}), encoding="utf-8")
    return path


def replay(
    server: RunningServer,
    state: Path,
    dumps: Iterable[Path],
    *,
    endpoint: str | None = None,
    api_key: str | None = None,
    mapping: Path | None = None,
    options: ReplayOptions | None = None,
    sleep: Any = None,
    reporter: NullReporter | None = None,
) -> ReplaySummary:
    """One replay in this process; `sleep` stands in for waiting, where a test has faults."""

    async def nap(_: float) -> None:
        await asyncio.sleep(0)

    async def run() -> ReplaySummary:
        api = SpectronApi(
            endpoint or server.base_url,
            server.context,
            api_key=api_key or server.api_key,
            timeout_s=20.0,
            sleep=sleep or nap,
        )
        async with api:
            with open_any(list(dumps)) as dump:
                step = Replay(
                    state,
                    dump,
                    load_mapping(mapping),
                    options or ReplayOptions(),
                    reporter=reporter or NullReporter(),
                    sleep=sleep or nap,
                )
                return await step.run(api)

    return asyncio.run(run())


def register_scope(server: RunningServer, path: str) -> None:
    """Somebody else registers a scope."""

    async def register() -> None:
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key, timeout_s=20.0) as api:
            assert 201 == (await api.register_scope(path)).status

    asyncio.run(register())
