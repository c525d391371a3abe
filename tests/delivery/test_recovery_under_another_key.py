"""A write in doubt, and the API key of another principal: the delayed request and a resend must not both be stored."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spectron_migrate.dump import open_any
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.replay_summary import ReplaySummary
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.replaying import mapping_file
from tests.support.spectron import memory, turns_of, write_raw

ARRIVES_AFTER_S = 15.0
"""Less than the request's own time-out."""
GRANTS = {verb: ["*"] for verb in ("memory:read", "memory:write", "scope:read", "scope:create")}
PRINCIPALS = {name: {"key": f"sk-{name}", "grants": GRANTS} for name in ("ann", "bob")}


class DelayedWrite:
    """Takes the write of one text off the network, and everything after it; delivers that write later."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.request: Seen | None = None

    def choose(self, seen: Seen) -> Fault:
        if self.request is None and seen.writes_fact and self.text in seen.body:
            self.request = seen
        return "none" if self.request is None else "cut_before"

    async def arrive(self, server: RunningServer, *, api_key: str) -> None:
        request, self.request = self.request, None
        if request is None:
            return
        async with SpectronApi(server.base_url, server.context, api_key=api_key, timeout_s=20.0) as api:
            post = api.post_batch if request.path.endswith("/batch") else api.post_fact
            response = await post(request.body, key=request.headers["idempotency-key"])
        assert 200 == response.status


async def replay(
    server: RunningServer,
    folder: Path,
    *,
    api_key: str,
    endpoint: str | None = None,
    delayed: DelayedWrite | None = None,
) -> ReplaySummary:
    """One replay whose waiting takes no time; the delayed write arrives while it waits, or else right after it."""
    moment = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal moment
        moment += seconds
        if delayed is not None and moment >= ARRIVES_AFTER_S:
            await delayed.arrive(server, api_key="sk-ann")
        await asyncio.sleep(0)

    where = endpoint or server.base_url
    async with SpectronApi(where, server.context, api_key=api_key, timeout_s=20.0, sleep=sleep) as api:
        with open_any([folder / "all.json"]) as dump:
            mapping = load_mapping(folder / "mapping.yaml")
            step = Replay(
                folder / "state",
                dump,
                mapping,
                ReplayOptions(),
                reporter=NullReporter(),
                sleep=sleep,
                clock=lambda: moment,
            )
            summary = await step.run(api)
    if delayed is not None:
        await delayed.arrive(server, api_key="sk-ann")
    return summary


@pytest.mark.parametrize("settings", ["infer: full\n", "infer: none\n", "infer: none\nwrite: batch\n"])
def test_a_request_of_another_principal_that_may_still_arrive_is_waited_for(
    settings: str, user: str, tmp_path: Path
) -> None:
    mapping_file(tmp_path, settings)
    write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    delayed = DelayedWrite(b"number 1")
    with server_here(tmp_path / "data", context="tests", principals=PRINCIPALS) as server:
        with misbehaving(server.base_url, delayed.choose) as proxy:
            first = asyncio.run(replay(server, tmp_path, api_key="sk-ann", endpoint=proxy.base_url))
        last = asyncio.run(replay(server, tmp_path, api_key="sk-bob", delayed=delayed))
        texts = [turn.content for turn in turns_of(server, user)]
    assert first.in_doubt > 0
    assert 3 == first.written + last.written
    assert [f"{user} remembers thing number {number}" for number in range(3)] == sorted(texts)
