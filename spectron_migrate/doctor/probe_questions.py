"""The questions of a probe: what a Spectron does if its documentation leaves it open, compared with what is assumed.

To add a question, add a method and list it in `ProbeQuestions.all`. The wording of a question is its key in the
ledger: reword it only if the old answer may be forgotten.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

from spectron_migrate.doctor.probe_scope import ProbeScope, fact_body, status_of
from spectron_migrate.errors import Unreachable
from spectron_migrate.ledger.probes import FULL_WRITE, NONE_WRITE
from spectron_migrate.records import Json, Receipt, Selector, canonical_json, counted, parse_time
from spectron_migrate.spectron.answers import OtherBody, classify
from spectron_migrate.spectron.wire import Response

TEXTS = ("The probe counts one red lantern", "The probe counts two green lanterns", "The probe counts three bells")
FACT = "The probe's favourite colour is green"
OBSERVED = "2001-03-01T00:00:00.000000Z"
BEFORE, AFTER = "2000-06-01T00:00:00.000000Z", "2001-06-01T00:00:00.000000Z"
MOST_SKEW_S = 3600.0


@dataclass(frozen=True, slots=True)
class ProbeFinding:
    """One question: what the server does, and what the migration assumes it does."""

    question: str
    answer: str
    assumed: str
    fits: bool | None
    """None if either answer is acceptable."""
    needed: bool = False
    """True if the guarantees of the migration depend on it."""
    meaning: str = ""
    """What follows if it does not fit."""

    def to_json(self) -> dict[str, Json]:
        """For `--json`."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass
class ProbeQuestions:
    """All questions, asked in order, because later ones use what earlier ones wrote."""

    scope: ProbeScope
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    findings: list[ProbeFinding] = field(default_factory=list)
    session: str = ""
    """The session that `_ask_writing` opened; empty before."""
    _bodies: list[bytes] = field(default_factory=list)
    _answers: list[Response] = field(default_factory=list)

    @property
    def all(self) -> list[Callable[[], Awaitable[None]]]:
        """The questions in the order in which they are asked."""
        return [
            self._ask_server_clock,
            self._ask_unregistered_scope,
            self._ask_registering,
            self._ask_writing,
            self._ask_same_key,
            self._ask_turns,
            self._ask_lenses,
            self._ask_batch,
            self._ask_extraction,
        ]

    def note(
        self, question: str, answer: str, assumed: str, fits: bool | None, *, needed: bool = False, meaning: str = ""
    ) -> None:
        """Add a finding; `meaning` is kept only if the answer does not fit."""
        self.findings.append(ProbeFinding(question, answer, assumed, fits, needed, meaning if fits is False else ""))

    async def _ask_server_clock(self) -> None:
        server_now = self.scope.api.wire.server_now
        if server_now is None:
            self.note(
                "the server's clock (Date)",
                "not sent",
                "sent with every answer",
                False,
                meaning="the age of a key is judged by this host's clock",
            )
            return
        skew_s = abs((parse_time(server_now) - self.now()).total_seconds())
        self.note(
            "the server's clock (Date)",
            f"{skew_s:.0f} s from this host's",
            "less than an hour apart",
            skew_s < MOST_SKEW_S,
            meaning="times that this host writes are wrong; the age of keys is judged by the server's clock",
        )

    async def _ask_unregistered_scope(self) -> None:
        body = {"scopes": [[self.scope.child("nobody")]]}
        answer = await self.scope.until_not_busy(self.scope.api.exchange, "POST", "/sessions", body)
        self.note(
            "a session in a scope that is not registered",
            status_of(answer),
            "refused, 400 or 403",
            answer.status in (400, 403, 404, 422),
            meaning="no effect: scopes are always registered before their first use",
        )

    async def _ask_registering(self) -> None:
        for path in (self.scope.path, self.scope.child("a"), self.scope.child("b")):
            answer = await self.scope.until_not_busy(self.scope.api.register_scope, path)
            if answer.status != 201:
                raise Unreachable(f"scope {path} was not registered: {status_of(answer)}")
        again = await self.scope.until_not_busy(self.scope.api.register_scope, self.scope.path)
        self.note("registering a scope again", status_of(again), "201 or 409", again.status in (200, 201, 400, 409))

    async def _ask_writing(self) -> None:
        selector: Selector = ((self.scope.path,),)
        self.session, echo = await self.scope.open_session(selector)
        self.note(
            "the scopes that a session reports",
            "not reported" if echo is None else "the same" if echo == selector else canonical_json(echo),
            "the same",
            echo == selector if echo else None,
            needed=True,
            meaning="memories would be stored in scopes that nobody asked for",
        )
        seconds = []
        for number, text in enumerate(TEXTS):
            self._bodies.append(fact_body(text, self.session, self.scope.path, "none"))
            began = self.clock()
            self._answers.append(await self._write(number))
            seconds.append(self.clock() - began)
        self.note(NONE_WRITE, f"{statistics.median(seconds):.3f}", "not known", None)
        has_turn_ids = all(isinstance(self._receipt(answer).turn_id, str) for answer in self._answers)
        self.note(
            "a write's answer names its turn",
            "yes" if has_turn_ids else "no",
            "yes",
            has_turn_ids or None,
        )

    async def _ask_same_key(self) -> None:
        again = await self._write(0)
        same = again.status == 200 and self._receipt(again) == self._receipt(self._answers[0])
        count = len(await self.scope.api.turns(self.session))
        self.note(
            "the same bytes under the same key",
            f"{status_of(again)}, {'the same' if same else 'another'} answer, {counted(count, 'turn')} of {len(TEXTS)}",
            "the same answer, nothing written twice",
            same and count == len(TEXTS),
            needed=True,
            meaning="a write whose answer was lost can only be decided by listing the session",
        )
        other = fact_body("The probe says something else", self.session, self.scope.path, "none")
        answer = await self.scope.until_not_busy(self.scope.api.post_fact, other, key=self.scope.key(0))
        verdict = classify(answer, session_id=self.session, infer="none")
        self.note(
            "other bytes under the same key",
            status_of(answer),
            "409, in words that say so",
            isinstance(verdict, OtherBody),
            meaning="such a refusal is waited for as if the write were still running",
        )

    async def _ask_turns(self) -> None:
        turns = await self.scope.api.turns(self.session)
        texts = [turn.content for turn in turns][: len(TEXTS)]
        rising = all(first.seq < second.seq for first, second in pairwise(turns))
        ordered = texts == list(TEXTS) and rising
        self.note(
            "the turns of a session",
            "in order, word by word" if ordered else canonical_json(texts)[:80],
            "in the order of writing, word by word",
            ordered,
            needed=True,
            meaning="writes in doubt cannot be decided by listing the session",
        )

    async def _ask_lenses(self) -> None:
        for name, thing in (("a", "an amber kite"), ("b", "a drum")):
            session, _ = await self.scope.open_session(((self.scope.child(name),),))
            body = fact_body(f"The probe keeps {thing}", session, self.scope.child(name), "none")
            await self.scope.until_not_busy(self.scope.api.post_fact, body, key=self.scope.key(name))
        subtree = await self.scope.visible_nodes("what does the probe count and keep", (f"{self.scope.path}/*",))
        self.note(
            "a lens of `scope/*`",
            _join(subtree),
            "the nodes below, the node itself or not",
            {"a", "b"} <= subtree or None,
        )
        node = await self.scope.visible_nodes("what does the probe count and keep in its own node", (self.scope.path,))
        self.note("a lens of the node alone", _join(node), "the node", node == {"node"} or None)
        for own, other in (("a", "b"), ("b", "a")):
            visible = await self.scope.visible_nodes("what does the probe keep", (self.scope.child(own),))
            self.note(
                f"the lens of {own}, asked what {other} was asked",
                _join(visible),
                f"{own}",
                other not in visible,
                needed=True,
                meaning="one user would see another's memories",
            )

    async def _ask_batch(self) -> None:
        """Only `write: batch` depends on this."""
        session, _ = await self.scope.open_session(((self.scope.child("a"),),))
        body: dict[str, Json] = {
            "extract": "per_message",
            "infer": "none",
            "messages": [{"role": "user", "content": text} for text in TEXTS],
            "scopes": [[self.scope.child("a")]],
            "session_id": session,
        }
        data = canonical_json(body).encode()
        answer = await self.scope.until_not_busy(self.scope.api.post_batch, data, key=self.scope.key("batch"))
        turns = await self.scope.api.turns(session)
        turn_ids = answer.body.get("turnIds") if isinstance(answer.body, dict) else None
        fits = turn_ids == [turn.id for turn in turns] and [turn.content for turn in turns] == list(TEXTS)
        self.note(
            "the messages of a batch",
            f"{status_of(answer)}, {'answered and listed in order' if fits else counted(len(turns), 'turn')}",
            "answered and listed in order",
            fits,
            meaning="batches in doubt cannot be decided: keep `write: facts`",
        )

    async def _ask_extraction(self) -> None:
        body = fact_body(FACT, self.session, self.scope.path, "full", observed_at=OBSERVED)
        began = self.clock()
        answer = await self.scope.until_not_busy(self.scope.api.post_fact, body, key=self.scope.key("full"))
        seconds = self.clock() - began
        receipt = classify(answer, session_id=self.session, infer="full")
        extracted = isinstance(receipt, Receipt) and receipt.extracted
        self.note(
            "extraction",
            "on" if extracted else f"nothing was extracted ({status_of(answer)})",
            "on",
            extracted,
            meaning="texts are stored and found, but no facts are made of them and nothing supersedes anything",
        )
        self.note(FULL_WRITE, f"{seconds:.3f}", "not known", None)
        if not extracted:
            return
        is_kept = await self.scope.colour_is_known_at(AFTER) and not await self.scope.colour_is_known_at(BEFORE)
        self.note(
            "the known time of a fact (observed_at, asOf)",
            "kept" if is_kept else "not kept",
            "kept",
            is_kept,
            meaning="asOf does not tell what was known when; the order of writing still decides what is current",
        )

    async def _write(self, number: int) -> Response:
        body, key = self._bodies[number], self.scope.key(number)
        return await self.scope.until_not_busy(self.scope.api.post_fact, body, key=key)

    def _receipt(self, answer: Response) -> Receipt:
        verdict = classify(answer, session_id=self.session, infer="none")
        if not isinstance(verdict, Receipt):
            raise Unreachable(f"a write was answered with {status_of(answer)}")
        return verdict


def _join(names: set[str]) -> str:
    return " and ".join(sorted(names)) or "nothing"
