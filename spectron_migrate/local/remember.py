"""The write pipeline: check scopes, extract, then one transaction for session, turns, passages, facts and answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spectron_migrate.local.auth import Caller
from spectron_migrate.local.bodies import Write
from spectron_migrate.local.engine import Engine
from spectron_migrate.local.errors import forbidden
from spectron_migrate.local.extract import Extraction, Fact, Names
from spectron_migrate.local.fact_updates import ExtractionResult, Source, apply_extraction
from spectron_migrate.local.ids import new_id
from spectron_migrate.local.rows import Item, Session, Turn
from spectron_migrate.local.scopes import Selector

if TYPE_CHECKING:
    from spectron_migrate.local.rows import Vector

PASSAGE_LENGTH = 2000
"""Longer texts are split into passages of at most this many characters, if possible at the end of a sentence."""

EMBEDDED_INLINE = 8
"""Up to this many passages are embedded on the event loop: a thread would cost more."""

_BREAK = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(slots=True)
class WriteResult:
    """What a write stored; the answer is made from it."""

    session: str
    turns: list[str] = field(default_factory=list)
    passages: list[str] = field(default_factory=list)
    """The first passage of each turn."""
    extractions: list[ExtractionResult] = field(default_factory=list)


class _Preview(Exception):
    """Rolls back the transaction of a preview and carries its answer."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


async def remember(
    engine: Engine, caller: Caller, write: Write, key: str, digest: str, answer: Callable[[WriteResult], bytes]
) -> bytes:
    """Do a write, once per idempotency key, and return the body of its answer.

    Args:
        engine: the context.
        caller: the authenticated caller.
        write: the request.
        key: the idempotency key; empty for none.
        digest: of the request, to compare with an earlier request with the same key.
        answer: makes the body of the answer.

    Raises:
        ApiError: 400 for an unregistered scope, 403 outside the caller's grants or for an unknown session, 409 for a
            key in flight or used with another body.
    """
    if not key:
        extractions, vectors = await _extract(engine, caller, write), await _embed(engine, write)
        return await _done(engine, lambda: _commit(engine, caller, write, extractions, vectors, answer))
    known = engine.idempotency.stored(caller.identity, key, digest, engine.clock())
    if known is not None:
        return known
    with engine.idempotency.reserved(caller.identity, key, digest):
        extractions, vectors = await _extract(engine, caller, write), await _embed(engine, write)

        def keep(made: WriteResult) -> bytes:
            body = answer(made)
            engine.idempotency.keep(caller.identity, key, digest, body, engine.clock())
            return body

        return await _done(engine, lambda: _commit(engine, caller, write, extractions, vectors, keep))


def open_session(engine: Engine, caller: Caller, scopes: Selector, metadata: object = None) -> tuple[Session, Selector]:
    """Create a session in these scopes; without scopes, in the caller's whole write region. Raises ApiError."""
    selector = scopes or caller.default_region()
    caller.require("memory:write", selector)
    if scopes:
        engine.require_registered(scopes)
    number = engine.store.selector_number(selector, unscoped=not scopes)
    session = Session(new_id("sess"), number, engine.now(), metadata)
    engine.store.put_session(session)
    return session, selector


def split(text: str) -> list[str]:
    """Split a text into passages; only white space between them is lost."""
    if len(text) <= PASSAGE_LENGTH:
        return [text]
    passages = []
    rest = text
    while len(rest) > PASSAGE_LENGTH:
        ends = [match.start() for match in _BREAK.finditer(rest, 1, PASSAGE_LENGTH)]
        space = rest.rfind(" ", 1, PASSAGE_LENGTH)
        at = ends[-1] if ends else space if space > 0 else PASSAGE_LENGTH
        passages.append(rest[:at])
        rest = rest[at:].lstrip()
    return [passage for passage in [*passages, rest] if passage.strip()]


async def _extract(engine: Engine, caller: Caller, write: Write) -> list[Extraction]:
    """One extraction per message, or one for the whole conversation; empty ones if nothing is to be extracted."""
    session = _session(engine, caller, write)
    if not session:
        caller.require("memory:write", write.scopes or caller.default_region())
        engine.require_registered(write.scopes)
    if write.infer not in ("full", "preview") or not engine.settings.extraction:
        return [Extraction() for _ in range(_passes(write))]
    conversation = [(message.role, message.content) for message in write.messages]
    number = session.selector if session else None

    def known() -> Names:
        region = frozenset() if number is None else frozenset({number})
        return [(entity.type, entity.name) for entity in engine.store.entities(region)]

    parts = [conversation] if write.whole_conversation else [[message] for message in conversation]
    return [await engine.extractor.extract(part, known) for part in parts]


async def _embed(engine: Engine, write: Write) -> list[Vector]:
    """A vector for each passage; many are computed in a thread, so that other requests go on."""
    texts = [part for message in write.messages for part in split(message.content)]
    if len(texts) <= EMBEDDED_INLINE:
        return engine.embedder.embed(texts)
    return await asyncio.to_thread(engine.embedder.embed, texts)


def _passes(write: Write) -> int:
    return 1 if write.whole_conversation else len(write.messages)


def _session(engine: Engine, caller: Caller, write: Write) -> Session | None:
    """The session that the write names. Raises the same ApiError if it is unknown or out of reach."""
    if write.session is None:
        return None
    session = engine.store.session(write.session)
    if session is None or not caller.may("memory:write", engine.store.selectors()[session.selector]):
        raise forbidden("the session does not exist or is out of reach")
    return session


async def _done(engine: Engine, work: Callable[[], bytes]) -> bytes:
    try:
        return await engine.commits.run(work)
    except _Preview as preview:
        return preview.answer


def _commit(
    engine: Engine,
    caller: Caller,
    write: Write,
    extractions: Sequence[Extraction],
    vectors: Sequence[Vector],
    answer: Callable[[WriteResult], bytes],
) -> bytes:
    """All changes of a write, in the caller's transaction. Raises `_Preview` for a preview."""
    session = _session(engine, caller, write) or open_session(engine, caller, write.scopes)[0]
    made = WriteResult(session.id)
    _Writing(engine, write, session, made, iter(vectors)).run(extractions)
    if write.infer == "preview":
        made.session = write.session or ""
        raise _Preview(answer(made))
    return answer(made)


@dataclass(frozen=True, slots=True)
class _Writing:
    engine: Engine
    write: Write
    session: Session
    made: WriteResult
    vectors: Iterator[Vector]

    def run(self, extractions: Sequence[Extraction]) -> None:
        now = self.engine.now()
        for message in self.write.messages:
            turn = Turn(new_id("turn"), self.session.id, 0, message.role, message.content, now, message.said_at)
            self.engine.store.add_turn(turn)
            self.made.turns.append(turn.id)
            self.made.passages.append(self.passages(turn))
        if self.write.infer == "triples":
            self.triples(now)
        elif self.write.infer != "none":
            turns = self.made.turns[-1:] if self.write.whole_conversation else self.made.turns
            for turn_id, extraction in zip(turns, extractions, strict=True):
                self.facts(extraction, turn_id, now)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels reach the rows only from 0.3.0 on, and never those of a batch."""
        applied = self.engine.settings.is_at_least("0.3.0") and not self.write.is_batch
        return self.write.labels if applied else ()

    def passages(self, turn: Turn) -> str:
        ids = []
        for text in split(turn.content):
            item = Item(
                new_id("chunk"),
                "memory_chunk",
                self.session.selector,
                text,
                turn.created_at,
                labels=self.labels,
                session=self.session.id,
                turn=turn.id,
            )
            self.engine.store.add_item(item, next(self.vectors))
            ids.append(item.id)
        return ids[0]

    def facts(self, extraction: Extraction, turn: str, now: str) -> None:
        source = Source(
            self.session.selector,
            now,
            self.write.observed_at or now,
            turn=turn,
            session=self.session.id,
            category=self.write.category,
            labels=self.labels,
            merges_labels=self.engine.reading.merges_labels,
        )
        result = ExtractionResult(turn)
        apply_extraction(self.engine.store, self.engine.embedder, extraction, source, result)
        self.made.extractions.append(result)

    def triples(self, now: str) -> None:
        result = ExtractionResult("")
        for triple in self.write.triples:
            source = Source(
                self.session.selector,
                now,
                self.write.observed_at or now,
                origin="upsert",
                session=self.session.id,
                category=triple.category or self.write.category,
                labels=self.labels,
                merges_labels=self.engine.reading.merges_labels,
            )
            fact = Fact(
                (triple.type, triple.name), triple.key, triple.value or "", triple.confidence, target=triple.target
            )
            apply_extraction(self.engine.store, self.engine.embedder, Extraction((fact,)), source, result)
        self.made.extractions.append(result)
