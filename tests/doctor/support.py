"""A small dump and a diagnosis of it, for the tests of `doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spectron_migrate.doctor import Check, Diagnosis, run_doctor
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mem0.formats.files import FilesReader
from spectron_migrate.migration.export import run_export
from spectron_migrate.records import Filters
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.support.spectron import write_raw

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAIN = "version: 1\nrules:\n  - {when: {user_id: '*'}, scope: {user: '{user_id}'}}\n"


def export(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A dump of these rows of Mem0."""
    reader = FilesReader([write_raw(folder / "all.json", rows)], now=NOW)
    with reader:
        run_export(
            reader,
            folder / "dump",
            filters=Filters(),
            since=None,
            keep_history=False,
            reporter=NullReporter(),
            clock=lambda: NOW,
        )
    return folder / "dump"


def diagnose(
    server: RunningServer,
    folder: Path,
    *,
    mapping: str | None = None,
    key: str | None = None,
    context: str | None = None,
    now: datetime | None = None,
) -> Diagnosis:
    """Run every check on the dump and state directory in this folder."""
    if mapping is not None:
        (folder / "mapping.yaml").write_text(mapping)
    return asyncio.run(
        run_doctor(
            mem0=None,
            mapping=folder / "mapping.yaml" if mapping is not None else None,
            dump=folder / "dump",
            state=folder / "state",
            api=lambda: SpectronApi(
                server.base_url, context or server.context, api_key=server.api_key if key is None else key
            ),
            now=now or datetime.now(UTC),
            reporter=NullReporter(),
        )
    )


def check_of(checks: Iterable[Check], name: str, status: str | None = None) -> Check:
    """The first check of this name, and of this status if one is given."""
    known = list(checks)
    chosen = [check for check in known if check.name == name and status in (None, check.status)]
    assert chosen, [(check.name, check.status, check.finding) for check in known]
    return chosen[0]
