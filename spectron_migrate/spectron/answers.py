"""Classifies responses to writes: what every status means, 200 included, is decided here and nowhere else (pure).

The table is that of docs/protocol.md, Recovery; what `delivery` does about each class is in `delivery/recovery.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from spectron_migrate.records import BatchReceipt, Infer, Json, Receipt, counted
from spectron_migrate.spectron.wire import UNKNOWN_STATUSES, Response

_DIFFERENT_BODY = re.compile(r"different|mismatch|does not match|other (body|request|payload)|reused", re.IGNORECASE)
_OF_SESSION = re.compile(r"\bsession(_id)?\b", re.IGNORECASE)
_SESSION_IS_OVER = re.compile(
    r"\bsession\b[^.;]{0,80}? (?:is|was|has|has been) (?:already )?(?:closed|ended|expired|archived|deleted)\b",
    re.IGNORECASE,
)
_OF_FIRST_REQUEST = re.compile(r"\bidempotency\b|\bkey\b|\b(?:first|original|earlier) request\b", re.IGNORECASE)
_RUNNING = re.compile(r"being processed|still (?:running|process)|in progress|in flight", re.IGNORECASE)
_EXTRACTED = ("entities", "attributes", "relations", "instructions", "uncertainties", "corrections")


@dataclass(frozen=True, slots=True)
class WrongSession:
    """200, but the server wrote to another session than the one named."""

    session_id: str


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The work was not started; the same bytes may be sent later."""

    reason: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class InFlight:
    """409: the first request with this key is still being processed."""

    reason: str


@dataclass(frozen=True, slots=True)
class OtherBody:
    """409: this key was used before with other bytes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The server rejects this memory; its lane goes on."""

    status: int
    reason: str

    @property
    def may_be_of_session(self) -> bool:
        """Whether the server may be refusing the session, rather than the memory."""
        return self.status in UNKNOWN_STATUSES or _OF_SESSION.search(self.reason) is not None


@dataclass(frozen=True, slots=True)
class KeyRejected:
    """401, or 422 that names the context: nothing more can be sent to this context with this API key."""

    reason: str


@dataclass(frozen=True, slots=True)
class ScopeRejected:
    """403: nothing more can be sent to this scope with this API key."""

    reason: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """It is unknown whether the work was done. `finished`: a whole response was read."""

    reason: str
    finished: bool = False


@dataclass(frozen=True, slots=True)
class KeyNotHeld:
    """A preview was made: the server does not know the idempotency key, and has stored nothing."""


NotStored = WrongSession | RetryLater | InFlight | OtherBody | Refused | KeyRejected | ScopeRejected | Doubt
WriteResult = Receipt | NotStored
BatchResult = BatchReceipt | NotStored


def classify(response: Response, *, session_id: str, infer: Infer) -> WriteResult:
    """What a whole response to POST /facts says about the memory."""
    if response.status == 200:
        return _stored(response.body, session_id=session_id, infer=infer)
    return _not_stored(response)


def classify_question(response: Response, *, session_id: str, infer: Infer) -> WriteResult | KeyNotHeld:
    """What a whole response to the key question says (`infer: preview` under the key of a write).

    OtherBody: the key is held. Receipt: the server gave the answer that it stored under the key.
    """
    body = response.body
    if response.status != 200:
        return _not_stored(response)
    if isinstance(body, dict) and body.get("mode") == "preview":
        return KeyNotHeld()
    result = _stored(body, session_id=session_id, infer=infer)
    if isinstance(body, dict) and body.get("mode") and isinstance(result, Receipt) and result.turn_id is not None:
        return result
    return Doubt("200 that is neither a preview nor a stored answer")


def classify_batch(response: Response, *, session_id: str, infer: Infer, messages: int) -> BatchResult:
    """What a whole response to POST /facts/batch says about its messages; extractions are joined by `turnId`."""
    if response.status != 200:
        return _not_stored(response)
    body = response.body
    if not isinstance(body, dict) or not isinstance(body.get("sessionId"), str):
        return Doubt("200 with a body that is not the answer to a batch")
    if body["sessionId"] != session_id:
        return WrongSession(body["sessionId"])
    turns = body.get("turnIds")
    if not isinstance(turns, list) or len({turn for turn in turns if _text(turn)}) != messages:
        return Doubt(f"200 without a turn for each of {counted(messages, 'message')}")
    rows = [row for row in body.get("extractions") or [] if isinstance(row, dict)]
    extractions = {row.get("turnId"): row for row in rows}
    return BatchReceipt(tuple(_receipt(turn, None, extractions.get(turn, {}), infer) for turn in turns))


def _not_stored(response: Response) -> NotStored:
    reason = f"{response.status} {response.message}"
    if response.status in (429, 503) and response.retry_after_s is not None:
        return RetryLater(reason, response.retry_after_s)
    if response.status == 409:
        return _conflict(response.message, reason)
    if response.names_bad_context:
        return KeyRejected(reason)
    if response.status in (400, 413, 422, *UNKNOWN_STATUSES):
        return Refused(response.status, reason)
    if response.status == 401:
        return KeyRejected(reason)
    if response.status == 403:
        return ScopeRejected(reason)
    return Doubt(reason, finished=response.status >= 500)


def _conflict(message: str, reason: str) -> NotStored:
    """What a 409 says. It may speak of the first request with this key, and name the session of that one."""
    is_other = _DIFFERENT_BODY.search(message) is not None
    of_first = (is_other or _RUNNING.search(message)) and _OF_FIRST_REQUEST.search(message)
    if _SESSION_IS_OVER.search(message) and not of_first:
        return Refused(409, reason)
    return OtherBody(reason) if is_other else InFlight(reason)


def _stored(body: Json, *, session_id: str, infer: Infer) -> WriteResult:
    if not isinstance(body, dict) or not isinstance(body.get("sessionId"), str):
        return Doubt("200 with a body that is not the answer to a write")
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
    """What a write cost. No published answer says so; if one does in the usual form, it is used."""
    usage = body.get("usage")
    total = usage.get("totalTokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and total >= 0 else None


def _ids(extraction: dict[str, Json]) -> list[str]:
    rows = [row for kind in ("attributes", "entities") for row in extraction.get(kind) or [] if isinstance(row, dict)]
    return [row["id"] for row in rows if isinstance(row.get("id"), str)]


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None
