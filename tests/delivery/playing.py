"""Replays whose waiting takes no time while their clock moves on, and replays that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from spectron_migrate.dump import open_any
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.replay import Replay, ReplayOptions, ReplaySummary
from spectron_migrate.records import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.support.proxy import Fault, Seen, misbehaving


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


def killed(server: RunningServer, folder: Path, dump: Path, fault: str, when: Callable[[Seen], bool]) -> None:
    """A replay in a process of its own, killed at the first write that `when` is true of; that one gets the fault."""
    running: list[subprocess.Popen[bytes]] = []

    def kill(seen: Seen) -> Fault:
        if seen.writes_fact and when(seen):
            running[0].send_signal(signal.SIGKILL)
            return fault
        return "none"

    with misbehaving(server.base_url, kill) as proxy:
        environment = {
            **os.environ,
            "SPECTRON_CONTEXT": server.context,
            "SPECTRON_API_KEY": server.api_key,
            "SPECTRON_ENDPOINT": proxy.base_url,
        }
        command = [
            sys.executable,
            "-m",
            "spectron_migrate",
            "replay",
            "--dump",
            str(dump),
            "--state",
            "state",
            "--json",
        ]
        running.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE))
        running[0].communicate(timeout=60)
        assert -signal.SIGKILL == running[0].returncode
