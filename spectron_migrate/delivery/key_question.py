"""Asks the server whether it still holds an idempotency key, without writing anything (docs/protocol.md, Recovery).

The question is a preview under the key of the write. A server that holds the key answers 409, because the body differs.
A server that has forgotten it makes the preview and stores nothing. So nothing is stored twice after a restart or a
failover that loses keys.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum

from spectron_migrate.delivery.evidence import KEY_LIFETIME
from spectron_migrate.delivery.key_memory import KeyQuestion
from spectron_migrate.delivery.run import FactResult, Run
from spectron_migrate.ledger import probes
from spectron_migrate.ledger.read.answered import newest_answered
from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.records import Receipt, format_time, parse_time
from spectron_migrate.spectron.answers import Doubt, InFlight, KeyNotHeld, OtherBody, Refused, ScopeRejected

QUESTION = "a preview under a key that is held"
"""The name under which the ledger records that an endpoint answers the key question."""
MOST_IN_VAIN = 3
"""After this many keys that the server should hold and does not, the key question is no longer trusted."""


class Key(Enum):
    """What the server knows about a key."""

    HELD = "held"
    """A resend of the same bytes brings the first answer back and writes nothing."""
    FORGOTTEN = "forgotten"
    """A resend of the same bytes would be written again."""
    UNKNOWN = "unknown"
    """The answers of this server prove nothing: the key counts as forgotten."""


async def ask_key(run: Run, fact: IntendedFact) -> Key | FactResult:
    """Find out whether the server still holds the key of a write; another result if its answer does not show it.

    A Receipt is the server's stored answer to the write.
    """
    usable = await _is_usable(run)
    if not isinstance(usable, bool):
        return usable
    if not usable:
        return Key.UNKNOWN
    memory = run.deferred.keys
    result = await run.send(KeyQuestion(fact))
    match result:
        case KeyNotHeld():
            memory.note_lost()
            return Key.FORGOTTEN
        case OtherBody():
            return Key.HELD
        case InFlight(reason) if reason == memory.held_reason:
            return Key.HELD  # the words of this server for that answer
        case Refused(_, reason) | ScopeRejected(reason):
            return Doubt(reason, finished=True)
        case _:
            return result


async def may_be_forgotten(run: Run, key: str) -> bool:
    """Whether the server may have forgotten a key since it was sent, as far as that can be told.

    It may have if it forgot a key that it held earlier, or if it refused a connection, as a server does while it
    restarts.
    """
    memory = run.deferred.keys
    memory.note_refused_connections(run.api.wire.refused)
    held = memory.held_before(key)
    if held is None or memory.may_be_forgotten(key) or not _is_worth_asking(run, held[0].key):
        return memory.may_be_forgotten(key)
    if isinstance(await run.send(KeyQuestion(held[0])), KeyNotHeld):
        memory.asked_in_vain.add(held[0].key)
        memory.note_lost()
    return memory.may_be_forgotten(key)


async def remember_held_key(run: Run) -> None:
    """Before this process sends its first byte: remember the newest answered write in the ledger."""
    memory = run.deferred.keys
    if not memory.has_begun:
        since = format_time(parse_time(run.now()) - KEY_LIFETIME + timedelta(hours=1))
        memory.begin(await run.writer.grouped(newest_answered, since))


def _is_worth_asking(run: Run, key: str) -> bool:
    memory = run.deferred.keys
    in_vain = memory.asked_in_vain
    return key not in in_vain and (memory.question_works or len(in_vain) < MOST_IN_VAIN)


async def _is_usable(run: Run) -> bool | FactResult:
    """Whether the answer to a key question can be trusted.

    The first question is about a key that the server should hold. As long as no such key is known, answers are taken as
    they are.
    """
    memory = run.deferred.keys
    if not memory.question_works and not memory.held_reason:
        memory.held_reason = await run.writer.grouped(probes.answer_to, run.api.endpoint, run.api.context, QUESTION)
        memory.question_works = bool(memory.held_reason)
    if memory.question_works:
        return True
    if memory.newest_held is None:
        return True
    known, turn_id = memory.newest_held
    if not _is_worth_asking(run, known.key):
        return False
    result = await run.send(KeyQuestion(known))
    match result:
        case OtherBody(reason) | InFlight(reason):
            memory.question_works, memory.held_reason = True, reason
            answer = probes.ProbeAnswer(QUESTION, reason, run.now())
            await run.writer.grouped(probes.keep_answer, run.api.endpoint, run.api.context, answer)
            return True
        case Receipt() if result.turn_id == turn_id:
            memory.question_works = True  # this server repeats the stored answer, whatever the body
            return True
        case KeyNotHeld() | Receipt() | Refused() | ScopeRejected():
            memory.asked_in_vain.add(known.key)
            if isinstance(result, KeyNotHeld):
                memory.note_lost()
            return False
        case _:
            return result
