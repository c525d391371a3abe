"""An outbox that is drained when a test says so, and messages in it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from spectron_migrate.adapter.call_results import messages_of
from spectron_migrate.adapter.process_calls import ProcessCalls
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.drain_outbox import Drained, Drainer
from spectron_migrate.migration.ledger_access import round_lock
from spectron_migrate.state.call_log import CallResult
from spectron_migrate.state.outbox import Outbox
from spectron_migrate.state.routing import read_routing
from tests.adapter.extracting import Extracting
from tests.adapter.support import NotedCalls, Stage, be_patient, begun, ids, texts
from tests.support.proxy import Seen, misbehaving
from tests.support.waiting import wait_until

BOTH = "I moved to Berlin. My cat is called Ada"


BEFORE = "Was here before the cutover began"
NOW_ROME = "I moved to Rome. My dog is called Bo"


class Drains:
    """A cutover by outbox without a follower: it is drained when a test says so."""

    def __init__(self, stage: Stage) -> None:
        self.stage = begun(stage)
        self.outbox = Outbox(stage.state, host=socket.gethostname())
        self.calls = NotedCalls(stage.state)
        """Of one application process."""
        self.reader = ProcessCalls(stage.state, lambda: "41:reader")
        """Another process, which reads."""
        be_patient(self.reader)
        self.now = datetime.now(UTC)
        self._drainer = self._new_drainer()

    def restart(self) -> None:
        """Another process drains from now on."""
        self.outbox.close()
        self.outbox = Outbox(self.stage.state, host=socket.gethostname())
        self._drainer = self._new_drainer()

    def _new_drainer(self) -> Drainer:
        mapping = load_mapping(self.stage.mapping)
        return Drainer(self.stage.state, mapping, self.outbox, max_lag_s=60.0, now=lambda: self.now)

    def drain(self) -> Drained:
        self.now = max(self.now, datetime.now(UTC))
        drained = drained_by(self._drainer, self.stage)
        assert drained is not None
        return drained

    @property
    def as_of(self) -> float:
        routing = read_routing(self.stage.state)
        assert routing is not None
        assert routing.as_of is not None
        return datetime.fromisoformat(routing.as_of).timestamp()

    def is_held(self) -> bool:
        """Whether the user's reads stay with Mem0 although nobody is behind."""
        return self.reader.must_wait(self.stage.user, self.as_of)


def drained_by(drainer: Drainer, stage: Stage, endpoint: str | None = None) -> Drained | None:
    async def run() -> Drained | None:
        async with stage.api(endpoint) as api, round_lock(stage.state, patience_s=10.0):
            return await drainer.drain(api)

    return asyncio.run(run())


def mine(stage: Stage) -> dict[str, Any]:
    return {"filters": {"user_id": stage.user}, "top_k": 50}


def from_spectron(adapter: Any, stage: Stage, query: str) -> list[str]:
    """Texts of an answer that Spectron gave."""

    def count() -> int:
        return int(adapter._core.counters.snapshot()["reads"].get("spectron", 0))

    found: list[str] = []

    def answered() -> bool:
        before = count()
        found[:] = texts(adapter.search(query, **mine(stage)))
        return count() > before

    wait_until(answered)
    return found


def added(*texts: str, event: str = "ADD") -> dict[str, Any]:
    return {"results": [{"id": f"m{place}", "memory": text, "event": event} for place, text in enumerate(texts)]}


def captures(drains: Drains, text: str = BOTH) -> list[str]:
    """Mem0 stores it, and the outbox has it."""
    stage = drains.stage
    answer = Extracting(stage.mem0).add(text, user_id=stage.user)
    tell(drains, messages_of("add", {"messages": text, "user_id": stage.user}, answer) or [])
    return ids(answer)


def tell(drains: Drains, results: Sequence[CallResult]) -> None:
    drains.calls.complete(results, owner=drains.stage.user)


def drained_through(drains: Drains, choose: Any) -> Drained:
    """As `drain`, with a server that misbehaves."""
    with misbehaving(drains.stage.server.base_url, choose) as proxy:
        drained = drained_by(drains._drainer, drains.stage, proxy.base_url)
    assert drained is not None
    return drained


def refuses(text: str) -> Any:
    """The server would not have this text."""

    def choose(seen: Seen) -> str:
        return "400" if seen.writes_fact and text.encode() in seen.body else "none"

    return choose


def stores(drains: Drains, *made: tuple[str, str, str]) -> list[dict[str, Any]]:
    """What Mem0 did for one message, event by event, as it answers: a text under an id, or a new one."""
    mem0, user = drains.stage.mem0, drains.stage.user
    rows = []
    for event, mem0_id, text in made:
        if event == "ADD":
            mem0_id = str(mem0.add(text, infer=False, user_id=user)["results"][0]["id"])
        elif event == "UPDATE":
            mem0.update(mem0_id, text)
        else:
            mem0.delete(mem0_id)
        rows.append({"id": mem0_id, "memory": text, "event": event})
    return rows


def says(drains: Drains, text: str, rows: Sequence[dict[str, Any]]) -> None:
    """The application said it, and this is what Mem0 made of it."""
    given = {"messages": text, "user_id": drains.stage.user}
    tell(drains, messages_of("add", given, {"results": list(rows)}) or [])


WITH_TOOLS: list[dict[str, Any]] = [
    {"role": "system", "content": "You are kind"},
    {"role": "user", "content": "What is my balance?"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    {"role": "tool", "tool_call_id": "1", "content": '{"iban": "DE00"}'},
    {"role": "assistant", "content": "You have 3 euros"},
]
