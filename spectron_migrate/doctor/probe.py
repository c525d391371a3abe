"""Probe: try on a real Spectron what its documents leave open, with a handful of memories under a scope of its own.

Every answer stands beside what the migration assumes. Most assumptions cost only time where they fail; those
that are `needed` carry the promise, and a server that breaks one should not be migrated to before somebody
has looked. All that was written is erased at the end, also after a failure; what a killed probe left behind,
the next one erases first.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import ParamSpec

from spectron_migrate.errors import MigrateError, Unreachable
from spectron_migrate.ledger import Ledger, probes
from spectron_migrate.ledger.probes import FULL_WRITE, NONE_WRITE
from spectron_migrate.records import Infer, Json, Receipt, Reporter, Selector, canonical_json, format_time, parse_time
from spectron_migrate.spectron.answers import OtherBody, classify
from spectron_migrate.spectron.api import Sleep, SpectronApi, UnknownSession
from spectron_migrate.spectron.grants import Me, require_grant
from spectron_migrate.spectron.wire import InDoubt, NotBegun, Response

P = ParamSpec("P")

ROOT = "migration-probe"
UNFINISHED = "scope of a probe that has not ended"
VERBS = ("scope:create", "memory:write", "memory:read", "memory:forget")
TEXTS = ("The probe counts one red lantern", "The probe counts two green lanterns", "The probe counts three bells")
FACT = "The probe's favourite colour is green"
OBSERVED = "2001-03-01T00:00:00.000000Z"
BEFORE, AFTER = "2000-06-01T00:00:00.000000Z", "2001-06-01T00:00:00.000000Z"
WAITS = 8
"""How often a server that asks us to come back is waited for."""
CLOCK_S = 3600.0


@dataclass(frozen=True, slots=True)
class ProbeFinding:
    """One question, what the server does, and what the migration takes it to do."""

    question: str
    answer: str
    assumed: str
    fits: bool | None
    """None where either answer is lived with."""
    needed: bool = False
    """Whether the promise rests on it."""
    meaning: str = ""
    """What follows where it does not fit."""

    def to_json(self) -> dict[str, Json]:
        """For `--json`."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass
class Probe:
    """One probe; `run` does all of it."""

    api: SpectronApi
    ledger: Ledger
    reporter: Reporter
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Sleep = asyncio.sleep
    under: str = field(default_factory=lambda: f"{ROOT}/{secrets.token_hex(4)}")
    found: list[ProbeFinding] = field(default_factory=list)
    _session: str = ""
    _bodies: list[bytes] = field(default_factory=list)
    _answers: list[Response] = field(default_factory=list)

    async def run(self) -> list[ProbeFinding]:
        """Ask everything, keep the answers in the ledger, erase what was written.

        Raises KeyRefused, before anything is written, for a key that could not erase it again.
        """
        me = await self.api.me()
        self._granted(me)
        await self._erase_leftovers()
        self._keep(UNFINISHED, self.under)
        questions: list[Callable[[], Awaitable[None]]] = [
            self._server_clock,
            self._unregistered,
            self._registering,
            self._writing,
            self._same_key,
            self._turns,
            self._lenses,
            self._batch,
            self._extraction,
        ]
        self.reporter.stage("probe", len(questions) + 1)
        try:
            for ask in questions:
                await ask()
                self.reporter.advance(1)
        except (MigrateError, NotBegun, InDoubt) as problem:
            said = problem.message if isinstance(problem, MigrateError) else problem.reason
            self._note("the probe itself", f"stopped: {said}", "every question is answered", False, needed=True)
        finally:
            await self._erase()
            self.reporter.advance(1)
        for one in self.found:
            self._keep(one.question, one.answer)
        return self.found

    def _granted(self, me: Me) -> None:
        hint = (
            f"the probe writes to {ROOT} and erases it again: grant the key all that on {ROOT}/*; nothing was written"
        )
        for verb in VERBS:
            require_grant(me, verb, [self.under], hint=hint, subtree=verb == "memory:forget")
        self._note("grants of the key", ", ".join(VERBS), "read, write, create and forget", True, needed=True)

    # -- the questions ------------------------------------------------------------------------------------

    async def _server_clock(self) -> None:
        told = self.api.wire.server_now
        if told is None:
            self._note(
                "the server's clock (Date)",
                "not told",
                "told with every answer",
                False,
                meaning="the age of a key is judged by this host's clock",
            )
            return
        apart = abs((parse_time(told) - self.now()).total_seconds())
        self._note(
            "the server's clock (Date)",
            f"{apart:.0f} s from this host's",
            "less than an hour apart",
            apart < CLOCK_S,
            meaning="times that this host writes are off; keys are judged by the server's clock",
        )

    async def _unregistered(self) -> None:
        answer = await self._patiently(self.api.exchange, "POST", "/sessions", {"scopes": [[self._at("nobody")]]})
        self._note(
            "a session in a scope that is not registered",
            _told(answer),
            "refused, 400 or 403",
            answer.status in (400, 403, 404, 422),
            meaning="scopes are registered before their first use all the same",
        )

    async def _registering(self) -> None:
        for place in (self.under, self._at("a"), self._at("b")):
            answer = await self._patiently(self.api.register_scope, place)
            if answer.status != 201:
                raise Unreachable(f"scope {place} was not registered: {_told(answer)}")
        again = await self._patiently(self.api.register_scope, self.under)
        self._note("registering a scope again", _told(again), "201 or 409", again.status in (200, 201, 400, 409))

    async def _writing(self) -> None:
        selector: Selector = ((self.under,),)
        opened = await self._open(selector)
        echo = "not told" if opened[1] is None else "the same" if opened[1] == selector else canonical_json(opened[1])
        self._note(
            "the scopes that a session tells",
            echo,
            "the same",
            opened[1] == selector if opened[1] else None,
            needed=True,
            meaning="memories would be stored where nobody asked for",
        )
        self._session = opened[0]
        seconds = []
        for number, text in enumerate(TEXTS):
            self._bodies.append(_fact(text, self._session, self.under, "none"))
            began = self.clock()
            self._answers.append(await self._write(number))
            seconds.append(self.clock() - began)
        self._note(NONE_WRITE, f"{statistics.median(seconds):.3f}", "not known", None)
        names = all(isinstance(self._receipt(answer).turn_id, str) for answer in self._answers)
        self._note(
            "a write's answer names its turn",
            "yes" if names else "no",
            "yes",
            names or None,
            meaning="each write costs a listing of its session",
        )

    async def _same_key(self) -> None:
        again = await self._write(0)
        same = again.status == 200 and self._receipt(again) == self._receipt(self._answers[0])
        count = len(await self.api.turns(self._session))
        self._note(
            "the same bytes under the same key",
            f"{_told(again)}, {'the same' if same else 'another'} answer, {count} turns of {len(TEXTS)}",
            "the same answer, nothing written twice",
            same and count == len(TEXTS),
            needed=True,
            meaning="a write whose answer was lost can only be decided by listing the session",
        )
        other = _fact("The probe says something else", self._session, self.under, "none")
        answer = await self._patiently(self.api.post_fact, other, key=self._key(0))
        verdict = classify(answer, session_id=self._session, infer="none")
        self._note(
            "other bytes under the same key",
            _told(answer),
            "409, in words that say so",
            isinstance(verdict, OtherBody),
            meaning="such a refusal is waited for as if the write were still running",
        )

    async def _turns(self) -> None:
        turns = await self.api.turns(self._session)
        texts = [turn.content for turn in turns][: len(TEXTS)]
        rising = all(first.seq < second.seq for first, second in pairwise(turns))
        ordered = texts == list(TEXTS) and rising
        self._note(
            "the turns of a session",
            "in order, word by word" if ordered else canonical_json(texts)[:80],
            "in the order of writing, word by word",
            ordered,
            needed=True,
            meaning="what is in doubt could not be decided by listing it",
        )

    async def _lenses(self) -> None:
        for name, thing in (("a", "an amber kite"), ("b", "a drum")):
            session, _ = await self._open(((self._at(name),),))
            content = _fact(f"The probe keeps {thing}", session, self._at(name), "none")
            await self._patiently(self.api.post_fact, content, key=self._key(name))
        subtree = await self._sees("what does the probe count and keep", (f"{self.under}/*",))
        self._note(
            "a lens of `scope/*`",
            _and(subtree),
            "the nodes below, the node itself or not",
            {"a", "b"} <= subtree or None,
            meaning="both are always asked for",
        )
        node = await self._sees("what does the probe count and keep in its own node", (self.under,))
        self._note("a lens of the node alone", _and(node), "the node", node == {"node"} or None)
        for own, other in (("a", "b"), ("b", "a")):
            seen = await self._sees("what does the probe keep", (self._at(own),))
            self._note(
                f"the lens of {own}, asked what {other} was asked",
                _and(seen),
                f"{own}",
                other not in seen,
                needed=True,
                meaning="one user would see another's memories",
            )

    async def _batch(self) -> None:
        """Only `write: batch` rests on this."""
        session, _ = await self._open(((self._at("a"),),))
        body: dict[str, Json] = {
            "extract": "per_message",
            "infer": "none",
            "messages": [{"role": "user", "content": text} for text in TEXTS],
            "scopes": [[self._at("a")]],
            "session_id": session,
        }
        answer = await self._patiently(self.api.post_batch, canonical_json(body).encode(), key=self._key("batch"))
        turns = await self.api.turns(session)
        told = answer.body.get("turnIds") if isinstance(answer.body, dict) else None
        fits = told == [turn.id for turn in turns] and [turn.content for turn in turns] == list(TEXTS)
        self._note(
            "the messages of a batch",
            f"{_told(answer)}, {'told and listed in order' if fits else f'{len(turns)} turns'}",
            "told and listed in order",
            fits,
            meaning="`write: batch` could not decide what is in doubt: leave it at `write: facts`",
        )

    async def _extraction(self) -> None:
        content = _fact(FACT, self._session, self.under, "full", observed_at=OBSERVED)
        began = self.clock()
        answer = await self._patiently(self.api.post_fact, content, key=self._key("full"))
        seconds = self.clock() - began
        got = classify(answer, session_id=self._session, infer="full")
        extracted = isinstance(got, Receipt) and got.extracted
        self._note(
            "extraction",
            "on" if extracted else f"nothing came out ({_told(answer)})",
            "on",
            extracted,
            meaning="texts are stored and found, but no facts are made of them and nothing supersedes anything",
        )
        self._note(FULL_WRITE, f"{seconds:.3f}", "not known", None)
        if extracted:
            then = {when: await self._knows(when) for when in (BEFORE, AFTER)}
            told = "kept" if (then[BEFORE], then[AFTER]) == (False, True) else "not kept"
            self._note(
                "the known time of a fact (observed_at, asOf)",
                told,
                "kept",
                told == "kept",
                meaning="asOf will not tell what was known when; order of writing still decides what is current",
            )

    # -- erasing ------------------------------------------------------------------------------------------

    async def _erase_leftovers(self) -> None:
        rows = probes.probe_answers(self.ledger, self.api.context, self.api.endpoint)
        for row in rows:
            if row.question == UNFINISHED and row.answer.startswith(f"{ROOT}/"):
                self.reporter.info(f"erasing what a killed probe left in {row.answer}")
                await self.api.forget_scope(row.answer)

    async def _erase(self) -> None:
        question, assumed = "erasing a scope", "nothing of it is listed afterwards"
        try:
            forgotten = await self.api.forget_scope(self.under)
            left = 0
            if self._session:
                try:
                    left = len(await self.api.turns(self._session))
                except UnknownSession:
                    left = 0
            self._note(question, f"{forgotten} rows erased, {left} turns left", assumed, left == 0)
            closed = [await self.api.tombstone_scope(path) for path in (self._at("a"), self._at("b"), self.under)]
            self._note("closing an empty scope", "closed" if all(closed) else "refused", "either", None)
        except MigrateError as problem:
            self._note(question, f"failed: {problem.message}", assumed, False)
            self.reporter.warn(f"the probe's memories may still be in scope {self.under}; the next probe erases them")
            return
        with self.ledger.transaction():
            probes.forget_answer(self.ledger, UNFINISHED)

    # -- how ----------------------------------------------------------------------------------------------

    def _at(self, name: str) -> str:
        return f"{self.under}/{name}"

    def _key(self, name: str | int) -> str:
        return f"{self.under}:{name}"

    def _receipt(self, answer: Response) -> Receipt:
        verdict = classify(answer, session_id=self._session, infer="none")
        if not isinstance(verdict, Receipt):
            raise Unreachable(f"a write was answered with {_told(answer)}")
        return verdict

    async def _write(self, number: int) -> Response:
        return await self._patiently(self.api.post_fact, self._bodies[number], key=self._key(number))

    async def _open(self, selector: Selector) -> tuple[str, Selector | None]:
        for _ in range(WAITS):
            try:
                opened = await self.api.create_session(selector, {"source": "migration-probe"})
                return opened.id, opened.selector
            except NotBegun as problem:
                await self.sleep(problem.retry_after_s or 1.0)
        raise Unreachable("the server was busy for too long")

    async def _patiently(self, call: Callable[P, Awaitable[Response]], *args: P.args, **named: P.kwargs) -> Response:
        """The answer, once the server has time for it."""
        for _ in range(WAITS):
            answer = await call(*args, **named)
            if answer.status not in (429, 503):
                return answer
            await self.sleep(answer.retry_after_s or 1.0)
        raise Unreachable("the server was busy for too long")

    async def _sees(self, query: str, clause: tuple[str, ...]) -> set[str]:
        """Whose texts a lens shows: the node's own, those of its child a or b."""
        found = await self.api.query(query, lens=(clause,), k=50, include_duplicates=True)
        marks = {"node": "lantern", "a": "amber kite", "b": "a drum"}
        return {name for name, mark in marks.items() if any(mark in hit.text for hit in found.hits)}

    async def _knows(self, when: str) -> bool:
        """Whether a fact about the colour was known at that time; passages tell their own time, so they don't count."""
        found = await self.api.query(
            "favourite colour of the probe", lens=((self.under,),), k=50, include=("facts",), as_of=when
        )
        facts = [hit for hit in found.hits if hit.source in ("attribute", "entity")]
        return any("green" in hit.text.casefold() for hit in facts)

    def _note(
        self, question: str, answer: str, assumed: str, fits: bool | None, *, needed: bool = False, meaning: str = ""
    ) -> None:
        self.found.append(
            ProbeFinding(question, answer, assumed, fits, needed, "" if fits or fits is None else meaning)
        )

    def _keep(self, question: str, answer: str) -> None:
        kept = probes.ProbeAnswer(question, answer, format_time(self.now()))
        with self.ledger.transaction():
            probes.keep_answer(self.ledger, self.api.endpoint, self.api.context, kept)


def _fact(text: str, session: str, path: str, infer: Infer, *, observed_at: str | None = None) -> bytes:
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


def _told(answer: Response) -> str:
    return str(answer.status) if answer.status < 300 else f"{answer.status} {answer.message}"[:100]


def _and(names: set[str]) -> str:
    return " and ".join(sorted(names)) or "nothing"
