"""Every answer to a write means exactly one thing."""

from __future__ import annotations

from typing import Any

import pytest

from spectron_migrate.records import Infer, Receipt, canonical_json
from spectron_migrate.spectron.answers import (
    Doubt,
    InFlight,
    KeyRejected,
    OtherBody,
    Refused,
    RetryLater,
    ScopeRejected,
    WrongSession,
    classify,
)
from spectron_migrate.spectron.wire import Response

SESSION = "sess_1"


def answer(status: int, body: Any = None, retry_after_s: float | None = None) -> Response:
    raw = b"" if body is None else canonical_json(body).encode()
    return Response(status=status, body=body, raw=raw, date=None, retry_after_s=retry_after_s)


def verdict(given: Response, infer: Infer = "full") -> Any:
    return classify(given, session_id=SESSION, infer=infer)


def stored(**fields: Any) -> dict[str, Any]:
    return {"mode": "full", "sessionId": SESSION, "turnId": "turn_1", "chunkId": "chunk_1", **fields}


def test_a_whole_answer_in_our_session_is_a_receipt_with_its_ids() -> None:
    extraction = {"turnId": "turn_1", "entities": [{"id": "e1"}], "attributes": [{"id": "a1"}]}
    expected = Receipt(turn_id="turn_1", chunk_id="chunk_1", ids=("a1", "e1"), extracted=True)
    assert expected == verdict(answer(200, stored(extraction=extraction)))


@pytest.mark.parametrize("extraction", [None, {}, {"turnId": "turn_1", "entities": [], "attributes": []}])
def test_full_without_a_single_fact_is_stored_not_extracted(extraction: Any) -> None:
    assert verdict(answer(200, stored(extraction=extraction))).extracted is False


def test_none_asks_for_no_extraction_so_it_lacks_none() -> None:
    assert verdict(answer(200, stored()), infer="none").extracted is True


def test_the_turn_is_found_in_the_extraction_where_it_is_not_beside_it() -> None:
    given = {"mode": "full", "sessionId": SESSION, "extraction": {"turnId": "turn_9"}}
    assert "turn_9" == verdict(answer(200, given)).turn_id


def test_another_session_means_that_ours_was_ignored() -> None:
    assert WrongSession("sess_2") == verdict(answer(200, stored(sessionId="sess_2")))


@pytest.mark.parametrize("body", [None, [], "ok", {"turnId": "t"}, {"sessionId": 5}])
def test_200_with_another_body_decides_nothing(body: Any) -> None:
    assert isinstance(verdict(answer(200, body)), Doubt)


@pytest.mark.parametrize("status", [429, 503])
def test_asked_to_wait_has_not_begun_only_with_retry_after(status: int) -> None:
    assert 2.0 == verdict(answer(status, {"message": "busy"}, retry_after_s=2.0)).retry_after_s
    assert isinstance(verdict(answer(status, {"message": "busy"}, retry_after_s=2.0)), RetryLater)
    assert isinstance(verdict(answer(status, {"message": "busy"})), Doubt)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("idempotency key was used with a different request body", OtherBody),
        ("a request with this key is in flight", InFlight),
        ("words that nobody published", InFlight),
        ("a request of this session has not ended", InFlight),
        ("session sess_1 is closed", Refused),
        ("the session has been archived", Refused),
        ("session s1 is closed: it takes no other request", Refused),
        ("this key was used with a different body, in session s1, which session was closed since", OtherBody),
        ("the first request with this key is being processed; its session was closed meanwhile", InFlight),
    ],
)
def test_409_is_told_apart_by_its_words_and_unknown_words_mean_running(message: str, kind: type) -> None:
    assert isinstance(verdict(answer(409, {"message": message})), kind)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_refusal_carries_the_servers_own_words_in_either_error_form(status: int) -> None:
    assert Refused(status, f"{status} too long") == verdict(answer(status, {"message": "too long"}))
    problem = {"type": "about:blank", "title": "Bad", "status": status, "detail": "too long"}
    assert Refused(status, f"{status} too long") == verdict(answer(status, problem))


def test_422_about_the_context_stops_all_and_any_other_refuses_the_memory() -> None:
    assert isinstance(verdict(answer(422, {"message": "invalid context id"})), KeyRejected)
    assert isinstance(verdict(answer(422, {"message": "a triple has one of value, target and verb"})), Refused)


def test_401_stops_all_and_403_the_scope() -> None:
    assert isinstance(verdict(answer(401, {"message": "no"})), KeyRejected)
    assert isinstance(verdict(answer(403, {"message": "no"})), ScopeRejected)


@pytest.mark.parametrize(
    ("status", "finished"), [(500, True), (502, True), (504, True), (302, False), (201, False), (418, False)]
)
def test_any_other_status_is_in_doubt(status: int, finished: bool) -> None:
    found = verdict(answer(status, {"message": "?"}))
    assert isinstance(found, Doubt)
    assert finished == found.finished


def test_a_servers_words_stay_on_one_line_and_carry_no_escape() -> None:
    hostile = answer(400, {"message": "bad\x1b[2J\nvalue" + "x" * 1000})
    assert "\x1b" not in hostile.message
    assert "\n" not in hostile.message
    assert 300 == len(hostile.message)
