"""After `complete` a text is stored once, in its scope, whatever the server does, and however often a call is made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from spectron_migrate.adapter.after_complete import RETRY_S
from spectron_migrate.errors import NotLegal, Unreachable
from tests.adapter.support import Stage, Untouchable, texts, turns
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import forged

pytestmark = pytest.mark.slow

DOUBTFUL = ["500_after_released", "cut_after_released", "cut_after", "garbage"]


def completed(stage: Stage) -> Stage:
    stage.start()
    stage.step("complete")
    return stage


def through(stage: Stage, base_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SPECTRON_ENDPOINT", base_url)
    return completed(stage).adapter(Untouchable())


def add_until_it_works(adapter: Any, messages: Any, user: str, **more: Any) -> Any:
    for _ in range(5):
        try:
            return adapter.add(messages, user_id=user, **more)
        except Unreachable:
            continue
    raise AssertionError("five times in doubt")


@pytest.mark.parametrize("infer", [False, None])
@pytest.mark.parametrize("fault", DOUBTFUL)
def test_a_text_is_stored_once_whatever_becomes_of_its_response(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, fault: str, infer: bool | None
) -> None:
    writes = 0

    def every_third(seen: Seen) -> Fault:
        nonlocal writes
        writes += seen.writes_fact
        return fault if seen.writes_fact and writes % 3 == 1 else "none"

    with misbehaving(stage.server.base_url, every_third) as proxy:
        adapter = through(stage, proxy.base_url, monkeypatch)
        for number in range(8):
            add_until_it_works(adapter, f"thing {number}", stage.user, **({} if infer is None else {"infer": infer}))
        adapter._core.close()
    assert [f"thing {number}" for number in range(8)] == turns(stage)


def failing(first: int) -> tuple[Callable[[Seen], Fault], list[str]]:
    """Stores and answers nothing, for as many writes as it takes until a call gives up; listings are cut too."""
    keys: list[str] = []

    def choose(seen: Seen) -> Fault:
        if not seen.writes_fact:
            return "cut_before" if "/turns" in seen.path and len(keys) <= first else "none"
        keys.append(seen.headers["idempotency-key"])
        return "cut_after" if len(keys) <= first else "none"

    return choose, keys


def test_a_call_that_failed_and_is_made_again_keeps_its_key(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    choose, keys = failing(1)
    with misbehaving(stage.server.base_url, choose) as proxy:
        adapter = through(stage, proxy.base_url, monkeypatch)
        with pytest.raises(Unreachable):
            adapter.add("I moved to Porto", user_id=stage.user)
        keys.append("listings work again")
        answer = adapter.add("I moved to Porto", user_id=stage.user)
        adapter._core.close()
    assert ["I moved to Porto"] == texts(answer)
    assert ["I moved to Porto"] == turns(stage)


def test_of_a_conversation_that_failed_half_way_nothing_is_stored_twice(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [{"role": "user", "content": "I moved to Porto"}, {"role": "assistant", "content": "Porto it is"}]
    broken = True

    def choose(seen: Seen) -> Fault:
        second = seen.writes_fact and b"Porto it is" in seen.body
        return "cut_after" if broken and second else "cut_before" if broken and "/turns" in seen.path else "none"

    with misbehaving(stage.server.base_url, choose) as proxy:
        adapter = through(stage, proxy.base_url, monkeypatch)
        with pytest.raises(Unreachable):
            adapter.add(said, user_id=stage.user)
        broken = False
        answer = adapter.add(said, user_id=stage.user)
        adapter._core.close()
    assert ["I moved to Porto", "Porto it is"] == texts(answer)
    assert ["I moved to Porto", "Porto it is"] == turns(stage)


def lost_answer(adapter: Any, keys: list[str], user: str, **more: Any) -> None:
    """A call that raises, although its text is stored."""
    with pytest.raises(Unreachable):
        adapter.add("I live in Porto", user_id=user, **more)
    keys.append("listings work again")


def test_what_is_said_again_after_an_hour_is_a_new_statement(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    choose, keys = failing(1)
    with misbehaving(stage.server.base_url, choose) as proxy:
        adapter = through(stage, proxy.base_url, monkeypatch)
        lost_answer(adapter, keys, stage.user)
        adapter.add("I live in Lisbon", user_id=stage.user)
        adapter._core._clock = lambda: time.monotonic() + RETRY_S
        adapter.add("I live in Porto", user_id=stage.user)
        adapter._core.close()
    assert ["I live in Porto", "I live in Lisbon", "I live in Porto"] == turns(stage)


def test_a_new_statement_in_doubt_is_not_taken_for_the_one_that_failed_before(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose, keys = failing(1)
    again = iter(["cut_before", *["none"] * 9])

    def then(seen: Seen) -> Fault:
        fault = choose(seen)
        return next(again) if seen.writes_fact and len(keys) > 2 else fault

    with misbehaving(stage.server.base_url, then) as proxy:
        adapter = through(stage, proxy.base_url, monkeypatch)
        lost_answer(adapter, keys, stage.user, metadata={"message": 1})
        adapter.add("I live in Porto", user_id=stage.user, metadata={"message": 2})
        assert ["I live in Porto"] * 2 == turns(stage)
        adapter.add("I live in Porto", user_id=stage.user, metadata={"message": 1})
        adapter._core.close()
    assert ["I live in Porto"] * 2 == turns(stage)


def test_the_same_text_twice_on_purpose_is_stored_twice(stage: Stage) -> None:
    adapter = completed(stage).adapter(Untouchable())
    for _ in range(2):
        adapter.add("again", user_id=stage.user)
    assert ["again"] * 2 == turns(stage)


def test_nothing_is_written_to_a_session_in_another_scope(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(seen: Seen, body: bytes) -> bytes | None:
        if seen.method != "POST" or not seen.path.endswith("/sessions"):
            return None
        return json.dumps({**json.loads(body), "scopes": [["shared/"]]}).encode()

    forged(monkeypatch, shared)
    with misbehaving(stage.server.base_url) as proxy:
        adapter = through(stage, proxy.base_url, monkeypatch)
        with pytest.raises(NotLegal, match="instead of"):
            adapter.add("my PIN is 1234", user_id=stage.user)
        adapter._core.close()
    assert [] == turns(stage)


@pytest.mark.parametrize("is_listed", [True, False])
@pytest.mark.parametrize("status", [404, 410])
def test_what_is_said_after_a_session_ended_goes_to_a_new_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, status: int, *, is_listed: bool
) -> None:
    ended: list[str] = []

    def end_after_some(seen: Seen) -> Fault:
        if "/turns" in seen.path and not is_listed and seen.path.split("/")[-2] in ended:
            return refusing(404, "no such session")
        if not seen.writes_fact:
            return "none"
        session = json.loads(seen.body)["session_id"]
        if b"thing 3" in seen.body and not ended:
            ended.append(session)
        return refusing(status, "the session is closed") if session in ended else "none"

    with misbehaving(stage.server.base_url, end_after_some) as proxy:
        adapter = through(stage, proxy.base_url, monkeypatch)
        for number in range(6):
            adapter.add(f"thing {number}", user_id=stage.user, infer=False)
        adapter._core.close()
    assert [f"thing {number}" for number in range(6)] == turns(stage)
