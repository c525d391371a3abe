"""A local Spectron filled from a dump, ways to spoil it behind its back, and one verification of it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spectron_migrate.dump import open_any
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.records import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.verify.dual_verify import VerifySummary, run_dual_verify
from spectron_migrate.verify.options import VerifyOptions
from spectron_migrate.verify.recall import Mem0Side


def verify(
    server: RunningServer,
    state: Path,
    dumps: Sequence[Path],
    options: VerifyOptions | None = None,
    *,
    mem0: Mem0Side | None = None,
    mapping: Path | None = None,
    endpoint: str | None = None,
    reporter: NullReporter | None = None,
    **more: Any,
) -> VerifySummary:
    """One dual-verify in this process."""

    async def run() -> VerifySummary:
        api = SpectronApi(endpoint or server.base_url, server.context, api_key=server.api_key, sleep=_nap)
        async with api:
            with open_any(list(dumps)) as dump, Ledger.open_for_reading(state) as ledger:
                return await run_dual_verify(
                    ledger=ledger,
                    api=api,
                    dump=dump,
                    mapping=load_mapping(mapping),
                    mem0_search=mem0,
                    options=options or VerifyOptions(sample=10),
                    reporter=reporter or NullReporter(),
                    **more,
                )

    return asyncio.run(run())


@contextmanager
def behind_its_back(server: RunningServer) -> Iterator[sqlite3.Connection]:
    """The server's own file, open for tampering while the server is down."""
    server.kill()
    db = sqlite3.connect(server.database)
    try:
        with db:
            yield db
    finally:
        db.close()
    server.restart()


def kinds(summary: VerifySummary) -> set[tuple[str, str]]:
    """Kind and memory of every finding that names one."""
    return {(one["kind"], one["id"]) for one in summary.report["findings"] if one["id"] is not None}


def failed(summary: VerifySummary) -> list[str]:
    """The gates that did not hold."""
    return [gate.name for gate in summary.gates if gate.passed is False]


async def _nap(_: float) -> None:
    await asyncio.sleep(0)
