"""One verification of a local Spectron, ways to tamper with the server, and what to read of the result."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spectron_migrate.dump import open_any
from spectron_migrate.errors import Unreachable
from spectron_migrate.keywords import words_of
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.mem0.search import SearchHit
from spectron_migrate.reporter import NullReporter
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
    accept: Iterable[str] | None = None,
    **more: Any,
) -> VerifySummary:
    """One dual-verify in this process; accepts what raw files, or a test without Mem0, cannot show."""
    options = options or VerifyOptions(sample=10)
    if accept is None:
        accept = ("source",) if mem0 else ("source", "recall")
    options = replace(options, accepted_gates=options.accepted_gates | set(accept))

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
                    options=options,
                    reporter=reporter or NullReporter(),
                    **more,
                )

    return asyncio.run(run())


@contextmanager
def tampering(server: RunningServer) -> Iterator[sqlite3.Connection]:
    """The server's database, open for writing while the server is down; the server runs again afterwards."""
    server.kill()
    db = sqlite3.connect(server.database)
    try:
        with db:
            yield db
    finally:
        db.close()
    server.restart()


def change_ledger(state: Path, *statements: str) -> None:
    """Change a ledger behind the back of the tool; each statement must find something."""
    with Ledger.open_for_writing(state) as ledger, ledger.transaction() as db:
        for statement in statements:
            assert db.execute(statement).rowcount > 0


def named_findings(summary: VerifySummary) -> set[tuple[str, str]]:
    """Kind and Mem0 id of every finding that names a memory."""
    return {(one["kind"], one["id"]) for one in summary.report["findings"] if one["id"] is not None}


def failed_gates(summary: VerifySummary) -> list[str]:
    """Names of the failed gates."""
    return [gate.name for gate in summary.gates if gate.passed is False]


async def _nap(_: float) -> None:
    await asyncio.sleep(0)


PLAIN = "version: 1\ninfer: none\nrules:\n  - {when: {user_id: '*'}, scope: {user: '{user_id}'}}\n"


class WordSearch:
    """Stands in for Mem0: ranks a user's rows by the words that they share with the query."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], *, broken: frozenset[str] = frozenset()) -> None:
        self.rows = rows
        self.broken = broken
        self.asked: list[str] = []

    def search(
        self, query: str, *, user_id: str | None, agent_id: str | None, run_id: str | None, top_k: int
    ) -> list[SearchHit]:
        self.asked.append(query)
        if query in self.broken:
            raise Unreachable("Mem0 could not answer a query: TimeoutError")
        wanted = set(words_of(query))
        mine = [row for row in self.rows if row["user_id"] == user_id]
        ranked = sorted(mine, key=lambda row: -len(wanted & set(words_of(row["memory"]))))
        return [SearchHit(row["id"], row["memory"], None) for row in ranked[:top_k]]

    def describe(self) -> str:
        return "words 1.0"


def gate_named(summary: Any, name: str) -> Any:
    return next(gate for gate in summary.gates if gate.name == name)


def answer_to(summary: Any, query: str) -> Any:
    return next(answer for answer in summary.report["answers"] if answer["query"] == query)


class RecordingReporter(NullReporter):
    """Keeps messages and warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.warnings: list[str] = []

    def info(self, message: str) -> None:
        self.messages.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


HOBBIES = ("Keeps bees on the roof", "Collects Bolivian stamps", "Sings alto in a choir", "Bakes rye bread")
FILLED_TEXTS = [
    "Prefers vegetarian food",
    "Lives in Lisbon near the old harbour",
    "Has a beagle called Biscuit",
    "Now eats fish",
    "Works at the observatory as an optician",
    "Plays the cello on Sundays",
]


@dataclass(frozen=True)
class Filled:
    """A server for one test, with the memories of two users, and the dump that they were replayed from."""

    server: RunningServer
    state: Path
    dump: Path
