"""The scope that a probe writes under, and the requests it makes there."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ParamSpec

from spectron_migrate.errors import Unreachable
from spectron_migrate.records import Infer, Json, Selector, canonical_json
from spectron_migrate.spectron.api import Sleep, SpectronApi
from spectron_migrate.spectron.wire import NotBegun, Response

P = ParamSpec("P")

ROOT = "migration-probe"
"""Every probe has a scope of its own below this one."""
MOST_TRIES = 8
"""How often a request is made to a server that is busy."""
_CHILD_MARKS = {"node": "lantern", "a": "amber kite", "b": "a drum"}
"""A word in each of the texts that were written to the probe's node itself and to its children a and b."""


@dataclass
class ProbeScope:
    """A fresh scope below `ROOT` with the children `a` and `b`."""

    api: SpectronApi
    sleep: Sleep = asyncio.sleep
    path: str = field(default_factory=lambda: f"{ROOT}/{secrets.token_hex(4)}")

    def child(self, name: str) -> str:
        """The path of a child node."""
        return f"{self.path}/{name}"

    def key(self, name: str | int) -> str:
        """The idempotency key of a write, different in every probe."""
        return f"{self.path}:{name}"

    async def open_session(self, selector: Selector) -> tuple[str, Selector | None]:
        """The id of a new session, and the selector that the server reports for it. Raises Unreachable."""
        for _ in range(MOST_TRIES):
            try:
                opened = await self.api.create_session(selector, {"source": "migration-probe"})
                return opened.id, opened.selector
            except NotBegun as problem:
                await self.sleep(problem.retry_after_s or 1.0)
        raise Unreachable("the server was busy for too long")

    async def until_not_busy(
        self, call: Callable[P, Awaitable[Response]], *args: P.args, **named: P.kwargs
    ) -> Response:
        """The response to a call, repeated while the server is busy. Raises Unreachable."""
        for _ in range(MOST_TRIES):
            answer = await call(*args, **named)
            if answer.status not in (429, 503):
                return answer
            await self.sleep(answer.retry_after_s or 1.0)
        raise Unreachable("the server was busy for too long")

    async def visible_nodes(self, query: str, clause: tuple[str, ...]) -> set[str]:
        """The nodes whose texts a search through this lens finds: `node` for the probe's own, `a`, `b`."""
        found = await self.api.query(query, lens=(clause,), k=50, include_duplicates=True)
        return {name for name, mark in _CHILD_MARKS.items() if any(mark in hit.text for hit in found.hits)}

    async def colour_is_known_at(self, when: str) -> bool:
        """Whether the extracted fact about the colour is found as of this time. Passages have another time."""
        found = await self.api.query(
            "favourite colour of the probe", lens=((self.path,),), k=50, include=("facts",), as_of=when
        )
        facts = [hit for hit in found.hits if hit.source in ("attribute", "entity")]
        return any("green" in hit.text.casefold() for hit in facts)


def fact_body(text: str, session: str, path: str, infer: Infer, *, observed_at: str | None = None) -> bytes:
    """The request body that writes one text to one scope."""
    body: dict[str, Json] = {
        "text": text,
        "infer": infer,
        "session_id": session,
        "scopes": [[path]],
        "role": "user",
        "memory_category": "knowledge",
    }
    if observed_at is not None:
        body["observed_at"] = observed_at
    return canonical_json(body).encode()


def status_of(answer: Response) -> str:
    """The status of a response, with its message if it is an error."""
    return str(answer.status) if answer.status < 300 else f"{answer.status} {answer.message}"[:100]
