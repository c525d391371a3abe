"""Heartbeat files of applications that evaluate `routing.json` themselves (configs/heartbeat.schema.json)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from spectron_migrate.errors import MigrateError
from spectron_migrate.state.process_status import SCHEMA, SILENT_S, ProcessStatus, age_s, read_counts, stamp
from spectron_migrate.state.store import StateStore

APPLICATIONS = "applications"
MOST_BYTES = 1_000_000


def read_heartbeats(store: StateStore, now: datetime) -> tuple[list[ProcessStatus], list[str]]:
    """The heartbeats of applications that do not use the adapter, and the names of those that cannot be read."""
    reports, broken = [], []
    for name in store.names(APPLICATIONS):
        try:
            data = store.read(name)
            if data is not None:  # otherwise it was removed after the folder was listed
                reports.append(_from_heartbeat(json.loads(data[:MOST_BYTES]), now))
        except MigrateError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            broken.append(name)
    return reports, broken


def _from_heartbeat(value: Any, now: datetime) -> ProcessStatus:
    """One heartbeat file (configs/heartbeat.schema.json). Raises for anything else."""
    if value["schema"] != SCHEMA:
        raise ValueError(f"schema {value['schema']}")
    host, heartbeat, last_read, ended = str(value["host"]), _time(value["heartbeat"]), value["last_read"], None
    if value.get("ended") is not None:
        ended = _time(value["ended"])
    return ProcessStatus(
        host=host,
        pid=int(value.get("pid", 0)),
        began=heartbeat,
        heartbeat=heartbeat,
        epoch=int(value["epoch"]),
        calls={str(name): read_counts(days) for name, days in value.get("calls", {}).items()},
        last_reads={} if last_read is None else {host: _time(last_read)},
        ended=ended,
        counts_calls="calls" in value,
        alive=ended is None and age_s(heartbeat, now) < SILENT_S,
    )


def _time(value: Any) -> str:
    """A time as these files spell it; raises ValueError for anything else, or one without a zone."""
    moment = datetime.fromisoformat(str(value))
    if moment.tzinfo is None:
        raise ValueError(f"{value} has no zone")
    return stamp(moment)
