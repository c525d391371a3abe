"""What an answer to a write means: every status is classified, 200 included (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from spectron_migrate.records import Infer, Json
from spectron_migrate.spectron.wire import Answer

_DIFFERENT_BODY = re.compile(r"different|mismatch|does not match|other (body|request|payload)|reused", re.IGNORECASE)
_EXTRACTED = ("entities", "attributes", "relations", "instructions", "uncertainties", "corrections")


@dataclass(frozen=True, slots=True)
class Receipt:
    """A write that is decided: stored, with the ids that verification matches hits by."""

    turn_id: str | None
    chunk_id: str | None
    ids: tuple[str, ...]
    """Entity and attribute ids of the extraction."""
    extracted: bool
    """False where `full` was asked for and nothing came out: stored, not extracted."""
    tokens: int | None = None
    """What it cost, where the answer says so."""


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """A batch that is decided: one receipt a message, in their order."""

    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True)
class WrongSession:
    """200, but in another session than the one named: ours was ignored."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The work has not begun; send the same bytes later."""

    reason: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """409: the first send of this key is still at work."""

    reason: str


@dataclass(frozen=True, slots=True)
class OtherBody:
    """409: this key was sent before with other bytes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The server will not have this memory; its lane goes on."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class KeyStopped:
    """401: nothing more can be sent with this key."""

    reason: str


@dataclass(frozen=True, slots=True)
class ScopeStopped:
    """403: nothing more can be sent to this scope."""

    reason: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """Nobody knows whether the work was done; `ended` where an answer was read whole."""

    reason: str
    ended: bool = False


NotStored = WrongSession | Wait | Running | OtherBody | Refused | KeyStopped | ScopeStopped | Doubt
Verdict = Receipt | NotStored
BatchVerdict = BatchReceipt | NotStored


def classify(answer: Answer, *, session_id: str, infer: Infer) -> Verdict:
    """What a whole answer to POST /facts says about the memory."""
    if answer.status == 200:
        return _stored(answer.body, session_id=session_id, infer=infer)
    return _not_stored(answer)


def classify_batch(answer: Answer, *, session_id: str, infer: Infer, messages: int) -> BatchVerdict:
    """What a whole answer to POST /facts/batch says about its messages; extractions are joined by their turn."""
    if answer.status != 200:
        return _not_stored(answer)
    body = answer.body
    if not isinstance(body, dict) or not isinstance(body.get("sessionId"), str):
        return Doubt("200 with a body that is no answer to a batch")
    if body["sessionId"] != session_id:
        return WrongSession(body["sessionId"])
    turns = body.get("turnIds")
    if not isinstance(turns, list) or len({turn for turn in turns if _text(turn)}) != messages:
        return Doubt(f"200 without a turn for each of {messages} messages")
    rows = [row for row in body.get("extractions") or [] if isinstance(row, dict)]
    extractions = {row.get("turnId"): row for row in rows}
    return BatchReceipt(tuple(_receipt(turn, None, extractions.get(turn, {}), infer) for turn in turns))


def _not_stored(answer: Answer) -> NotStored:
    said = f"{answer.status} {answer.message}"
    if answer.status in (429, 503) and answer.retry_after_s is not None:
        return Wait(said, answer.retry_after_s)
    if answer.status == 409:
        return OtherBody(said) if _DIFFERENT_BODY.search(answer.message) else Running(said)
    if answer.status in (400, 404, 413, 422):
        return Refused(answer.status, said)
    if answer.status == 401:
        return KeyStopped(said)
    if answer.status == 403:
        return ScopeStopped(said)
    return Doubt(said, ended=answer.status >= 500)


def _stored(body: Json, *, session_id: str, infer: Infer) -> Verdict:
    if not isinstance(body, dict) or not isinstance(body.get("sessionId"), str):
        return Doubt("200 with a body that is no answer to a write")
    if body["sessionId"] != session_id:
        return WrongSession(body["sessionId"])
    found = body.get("extraction")
    extraction: dict[str, Json] = found if isinstance(found, dict) else {}
    turn = _text(body.get("turnId")) or _text(extraction.get("turnId"))
    return _receipt(turn, _text(body.get("chunkId")), extraction, infer, tokens=_tokens(body))


def _receipt(
    turn: str | None, chunk: str | None, extraction: dict[str, Json], infer: Infer, *, tokens: int | None = None
) -> Receipt:
    extracted = infer == "none" or any(extraction.get(kind) for kind in _EXTRACTED)
    return Receipt(turn, chunk, tuple(_ids(extraction)), extracted, tokens)


def _tokens(body: dict[str, Json]) -> int | None:
    """No published answer tells what a write cost; one that does, in the usual form, is believed."""
    usage = body.get("usage")
    total = usage.get("totalTokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and total >= 0 else None


def _ids(extraction: dict[str, Json]) -> list[str]:
    rows = [row for kind in ("attributes", "entities") for row in extraction.get(kind) or [] if isinstance(row, dict)]
    return [row["id"] for row in rows if isinstance(row.get("id"), str)]


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None
