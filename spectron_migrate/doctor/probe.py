"""The probe: tests on a real Spectron what its documentation leaves open, with a few memories in a scope of its own.

If most assumptions do not hold, that only costs time. The guarantees of the migration depend on those that are
`needed`: do not migrate to a server that breaks one of these before somebody has looked into it. Everything that the
probe wrote is erased at the end, also after a failure. What a killed probe left is erased by the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from spectron_migrate.doctor.probe_questions import ProbeFinding, ProbeQuestions
from spectron_migrate.doctor.probe_scope import ROOT, ProbeScope
from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger import Ledger, probes
from spectron_migrate.records import counted, format_time
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import Sleep, SpectronApi, UnknownSession
from spectron_migrate.spectron.grants import Me, require_grant
from spectron_migrate.spectron.wire import InDoubt, NotBegun

UNFINISHED = "scope of a probe that has not ended"
"""The question under which the ledger keeps the scope of a running probe. Older versions used it too."""
VERBS = ("scope:create", "memory:write", "memory:read", "memory:forget")


@dataclass
class Probe:
    """One run of the probe. Its answers are kept in the ledger."""

    api: SpectronApi
    ledger: Ledger
    reporter: Reporter
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Sleep = asyncio.sleep

    def __post_init__(self) -> None:
        self.scope = ProbeScope(self.api, self.sleep)
        self._questions = ProbeQuestions(self.scope, self.clock, self.now)

    async def run(self) -> list[ProbeFinding]:
        """Ask every question, keep the answers in the ledger and erase what was written.

        Raises KeyRefused, before anything is written, if the key could not erase it again.
        """
        me = await self.api.me()
        self._require_grants(me)
        await self._erase_leftovers()
        self._keep(UNFINISHED, self.scope.path)
        questions = self._questions
        self.reporter.stage("probe", len(questions.all) + 1)
        try:
            for ask in questions.all:
                await ask()
                self.reporter.advance(1)
        except (MigrateError, NotBegun, InDoubt) as problem:
            why = problem.message if isinstance(problem, MigrateError) else problem.reason
            questions.note("the probe itself", f"stopped: {why}", "every question is answered", False, needed=True)
        finally:
            await self._erase()
            self.reporter.advance(1)
        for finding in questions.findings:
            self._keep(finding.question, finding.answer)
        return questions.findings

    def _require_grants(self, me: Me) -> None:
        grants = f"{', '.join(VERBS)} on {ROOT}/*"
        hint = f"the probe writes to {ROOT} and erases it again: grant the key {grants}; nothing was written"
        for verb in VERBS:
            require_grant(me, verb, [self.scope.path], hint=hint, subtree=verb == "memory:forget")
        self._questions.note("grants of the key", ", ".join(VERBS), "read, write, create and forget", True, needed=True)

    async def _erase_leftovers(self) -> None:
        for row in probes.probe_answers(self.ledger, self.api.context, self.api.endpoint):
            if row.question == UNFINISHED and row.answer.startswith(f"{ROOT}/"):
                self.reporter.info(f"erasing what a killed probe left in {row.answer}")
                await self.api.forget_scope(row.answer)

    async def _erase(self) -> None:
        question, assumed = "erasing a scope", "nothing of it is listed afterwards"
        note = self._questions.note
        try:
            erased = await self.api.forget_scope(self.scope.path)
            left = await self._count_turns()
            note(question, f"{counted(erased, 'row')} erased, {counted(left, 'turn')} left", assumed, left == 0)
            nodes = (self.scope.child("a"), self.scope.child("b"), self.scope.path)
            closed = [await self.api.tombstone_scope(path) for path in nodes]
            note("closing an empty scope", "closed" if all(closed) else "refused", "either", None)
        except MigrateError as problem:
            note(question, f"failed: {problem.message}", assumed, False)
            self.reporter.warn(
                f"the probe's memories may still be in scope {self.scope.path}; the next probe erases them"
            )
            return
        with self.ledger.transaction():
            probes.forget_answer(self.ledger, UNFINISHED)

    async def _count_turns(self) -> int:
        if not self._questions.session:
            return 0
        try:
            return len(await self.api.turns(self._questions.session))
        except UnknownSession:
            return 0

    def _keep(self, question: str, answer: str) -> None:
        kept = probes.ProbeAnswer(question, answer, format_time(self.now()))
        with self.ledger.transaction():
            probes.keep_answer(self.ledger, self.api.endpoint, self.api.context, kept)
