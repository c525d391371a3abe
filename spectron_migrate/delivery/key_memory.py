"""What one process knows about the idempotency keys that a server holds. It may lose them in a restart or failover."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.ledger.sessions import SessionRow
from spectron_migrate.records import Infer, canonical_json


@dataclass(frozen=True, slots=True)
class KeyQuestion:
    """A preview under the key of a write. The server makes the preview only if it does not know the key."""

    fact: IntendedFact

    @property
    def key(self) -> str:
        return self.fact.key

    @property
    def session(self) -> SessionRow:
        return self.fact.session

    @property
    def infer(self) -> Infer:
        """`infer` of the write, because the server may repeat the write's stored answer."""
        return self.fact.infer

    @property
    def content(self) -> bytes:
        """The bytes of the write with `infer: preview`, which is another body under the same key."""
        return canonical_json({**json.loads(self.fact.content), "infer": "preview"}).encode()


Held = tuple[IntendedFact, str]
"""A write that was answered, so that the server should hold its key, and the turn that the answer named."""


@dataclass
class KeyMemory:
    """Sends and losses are numbered together. A key that was sent before the newest loss may be forgotten."""

    question_works: bool = False
    """Whether the server gave the right answer to the key question, for a key that it must hold."""
    held_reason: str = ""
    """The words of that answer."""
    asked_in_vain: set[str] = field(default_factory=set)
    """How many keys it should hold, but made a preview for or did not answer about."""
    newest_held: Held | None = None
    """The newest answered write of this process; before its first one, the newest in the ledger."""
    has_begun: bool = False
    """Whether the ledger has been asked for it."""
    _events: int = 0
    _lost: int = 0
    _sent: dict[str, tuple[int, Held | None]] = field(default_factory=dict)
    _before: Held | None = None
    _refused: int = 0

    def begin(self, held: Held | None) -> None:
        """Begin in this process. `held`: the newest answered write of earlier processes."""
        self.has_begun = True
        self.newest_held = self._before = held

    def note_send(self, key: str) -> None:
        """Note that the key is being sent."""
        self._events += 1
        self._sent[key] = (self._events, self.newest_held)

    def note_lost(self) -> None:
        """Note that the server lacks a key that it should hold, or may have restarted."""
        self._events += 1
        self._lost = self._events

    def note_refused_connections(self, refused: int) -> None:
        """Note `refused`: how many connections the host has refused so far, as it does while the server restarts."""
        if refused > self._refused:
            self._refused = refused
            self.note_lost()

    def forget(self, key: str) -> None:
        """Forget a key whose write is decided."""
        self._sent.pop(key, None)

    def held_before(self, key: str) -> Held | None:
        """A write that was answered before this key was sent. If its key is forgotten, this one may be too."""
        return self._sent[key][1] if key in self._sent else self._before

    def may_be_forgotten(self, key: str) -> bool:
        """Whether the server may have lost the key since it was sent."""
        return self._sent.get(key, (0, None))[0] < self._lost
