"""Injected faults over real connections: tests of clients depend on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from spectron_migrate.local.engine import API_VERSIONS, ContractReading
from spectron_migrate.local.faults import FAULTS, TRANSIENT_FAULTS, Fault, Faults, FaultSettings, SeenRequest
from spectron_migrate.local.server import create_app
from spectron_migrate.local.testing import running_server
from tests.local.support import embedder
from tests.support.proxy import serving

pytestmark = pytest.mark.slow

NO_ANSWER = 0
# What the client sees of a write, how many turns there are then, and what the same bytes are answered next.
SEEN: dict[str, tuple[int, int, int]] = {
    "none": (200, 1, 200),
    "400": (400, 0, 200),
    "429": (429, 0, 200),
    "429_bare": (429, 0, 200),
    "503": (503, 0, 200),
    "503_bare": (503, 0, 200),
    "500_before": (500, 0, 200),
    "500_before_stuck": (500, 0, 409),
    "500_after": (500, 1, 200),
    "500_after_released": (500, 1, 200),
    "500_after_stuck": (500, 1, 409),
    "cut_before": (NO_ANSWER, 0, 200),
    "cut_after": (NO_ANSWER, 1, 200),
    "cut_after_released": (NO_ANSWER, 1, 200),
    "cut_in_headers": (NO_ANSWER, 1, 200),
    "cut_in_batch": (NO_ANSWER, 0, 200),
    "late": (NO_ANSWER, 0, 409),
    "garbage": (NO_ANSWER, 1, 200),
    "half_answer": (NO_ANSWER, 1, 200),
    "hang_before": (NO_ANSWER, 0, 200),
    "hang": (NO_ANSWER, 1, 200),
    "forgets": (200, 1, 200),
    "restart_without_keys": (NO_ANSWER, 1, 200),
    "restart_without_keys_before": (NO_ANSWER, 0, 200),
    "failover_without_keys": (200, 1, 200),
}


class Client:
    """Writes over a real connection; no answer counts as status 0."""

    def __init__(self, url: str, faults: Faults) -> None:
        self.faults = faults
        self.http = httpx.Client(
            base_url=f"{url}/api/v1/local", headers={"authorization": "Bearer sk-local"}, timeout=0.5
        )
        self.session = self.http.post("/sessions", json={}).json()["id"]

    def write(self, text: str = "tea", key: str = "k") -> int:
        """The status."""
        body = {"text": text, "session_id": self.session, "infer": "none"}
        try:
            return self.http.post("/facts", json=body, headers={"idempotency-key": key}).status_code
        except httpx.TransportError:
            return NO_ANSWER

    def turns(self) -> int:
        """The number of stored turns."""
        return len(self.http.get(f"/sessions/{self.session}/turns").json()["turns"])


@pytest.fixture
def client() -> Iterator[Client]:
    """A client of a server with injected faults."""
    faults = Faults()
    with serving(create_app(faults=faults, embedder=embedder())) as url:
        made = Client(url, faults)
        with closing(made.http):
            yield made


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_effects(client: Client, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.faults, "delay", lambda: 3)
    client.faults.change_faults(FaultSettings(plan=[name]))
    assert SEEN[name] == (client.write(), client.turns(), client.write())


@pytest.mark.parametrize(
    ("name", "turns"), [("500_after", 1), ("500_after_released", 2), ("cut_after_released", 2), ("forgets", 2)]
)
def test_a_forgotten_key_writes_twice_and_a_kept_key_once(client: Client, name: str, turns: int) -> None:
    client.faults.change_faults(FaultSettings(plan=[name]))
    client.write()
    client.write()
    assert turns == client.turns()


@pytest.mark.parametrize("name", ["restart_without_keys", "failover_without_keys"])
def test_a_server_that_forgets_every_key_does_earlier_work_again(client: Client, name: str) -> None:
    client.write(key="before")
    client.faults.change_faults(FaultSettings(plan=[name]))
    client.write(key="at that moment")
    client.write(key="before")
    client.write(key="at that moment")
    client.write(key="before")
    assert 4 == client.turns()


def test_a_restart_loses_what_was_to_be_done_later(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.faults, "delay", lambda: 2)
    client.faults.change_faults(FaultSettings(plan=["late", "restart_without_keys_before"]))
    client.write(key="late")
    client.write(key="another")
    assert [0, 0, 0] == [client.turns() for _ in range(3)]


def test_a_cut_batch_is_stored_by_half_and_as_a_whole_when_it_is_resent(client: Client) -> None:
    client.faults.change_faults(FaultSettings(plan=["cut_in_batch"]))
    messages = [{"role": "user", "content": text} for text in "abcd"]
    body = {"messages": messages, "session_id": client.session, "infer": "none"}
    with pytest.raises(httpx.TransportError):
        client.http.post("/facts/batch", json=body, headers={"idempotency-key": "b"})
    assert 2 == client.turns()
    assert 200 == client.http.post("/facts/batch", json=body, headers={"idempotency-key": "b"}).status_code
    assert 6 == client.turns()


def test_late_work_is_in_flight_first_and_then_done_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.faults, "delay", lambda: 4)
    client.faults.change_faults(FaultSettings(plan=["late"]))
    client.write()
    assert [409, 0, 409, 200, 1] == [client.write(), client.turns(), client.write(), client.write(), client.turns()]


def test_a_stuck_key_does_not_block_other_keys(client: Client) -> None:
    client.faults.change_faults(FaultSettings(plan=["500_after_stuck"]))
    assert [500, 409, 409, 200] == [client.write(), client.write(), client.write(), client.write(key="other")]


def test_the_same_seed_gives_the_same_faults(client: Client) -> None:
    def statuses() -> list[int]:
        client.faults.change_faults(FaultSettings(chance=0.5, seed=3, faults=("429", "500_before", "cut_after")))
        statuses = [client.write(key=f"k{number}") for number in range(20)]
        client.faults.change_faults(FaultSettings())
        return statuses

    first = statuses()
    assert first == statuses()
    assert 200 in first
    assert {429, 500, 0} & set(first)


def test_a_function_can_choose_faults_and_can_be_replaced(client: Client) -> None:
    def only_tea(request: SeenRequest) -> str | Fault:
        return "429" if request.writes_fact and json.loads(request.body)["text"] == "tea" else "none"

    client.faults.choose = only_tea
    assert [429, 200] == [client.write("tea"), client.write("rain", key="r")]
    client.faults.choose = lambda request: "none"
    assert 200 == client.write("tea")
    assert 1 == client.faults.counts["429"]


def test_a_clock_moved_by_24_hours_drops_the_keys_and_dates_the_answers(client: Client) -> None:
    client.write()
    before = client.http.get("/me").headers["date"]
    client.faults.change_faults(FaultSettings(ahead_s=23 * 3600))
    assert [200, 1] == [client.write(), client.turns()]
    client.faults.change_faults(FaultSettings(ahead_s=25 * 3600))
    assert [200, 2] == [client.write(), client.turns()]
    assert before != client.http.get("/me").headers["date"]


@pytest.mark.parametrize(
    ("reading", "path", "body", "statuses"),
    [
        ({"unregistered": 403}, "/facts", {"text": "x", "scopes": [["user/nobody"]]}, [400, 403]),
        ({"reregister": 409}, "/scopes", {"path": "user/alice"}, [201, 409]),
    ],
)
def test_registration_readings_can_be_changed_while_it_runs(
    client: Client, reading: dict[str, Any], path: str, body: object, statuses: list[int]
) -> None:
    client.http.post("/scopes", json={"path": "user/alice"})
    first = client.http.post(path, json=body).status_code
    client.faults.change_faults(FaultSettings(reading=reading))
    assert statuses == [first, client.http.post(path, json=body).status_code]


def test_the_other_readings_can_be_changed_while_it_runs(client: Client) -> None:
    client.http.post("/scopes", json={"path": "org/acme"})
    client.http.post("/facts", json={"text": "Likes tea", "scopes": [["org/acme"]]})

    def hits(lens: str) -> int:
        return len(client.http.post("/query", json={"query": "tea", "lens": [[lens]]}).json()["hits"])

    assert hits("org/acme/*") > 0
    client.faults.change_faults(
        FaultSettings(reading={"subtree_has_root": False, "names_turn": False, "shared_cache": True})
    )
    assert 0 == hits("org/acme/*")
    assert "turnId" not in client.http.post("/facts", json={"text": "Likes rain"}).json()
    client.http.post("/query", json={"query": "rain likes"})
    elsewhere = client.http.post("/query", json={"query": "likes rain", "lens": [["org/nobody"]]}).json()
    assert ("cache", True) == (elsewhere["tier"], len(elsewhere["hits"]) > 0)
    client.faults.change_faults(FaultSettings())
    assert hits("org/acme/*") > 0


def test_settings_name_all_readings_and_transient_faults_exclude_lasting_ones() -> None:
    assert {
        "unregistered",
        "reregister",
        "subtree_has_root",
        "names_turn",
        "merges_labels",
        "hits_name_turn",
        "shared_cache",
    } == set(ContractReading.__slots__)
    assert {"400", "none", "hang", "hang_before", "500_after_stuck", "500_before_stuck"} == set(FAULTS) - set(
        TRANSIENT_FAULTS
    )


@pytest.mark.parametrize("wrong", [{"plan": ["x"]}, {"faults": ["y"]}, {"reading": {"z": 1}}])
def test_unknown_fault_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no such fault or reading"):
        FaultSettings(**wrong)


def test_a_server_process_takes_other_fault_settings_and_keeps_them_after_a_kill(tmp_path: Path) -> None:
    with running_server(tmp_path, fault_settings={}) as server:
        server.change_faults(plan=["429", "429"])
        with httpx.Client(
            base_url=f"{server.base_url}/api/v1/local", headers={"authorization": "Bearer sk-local"}
        ) as http:
            assert 429 == http.post("/facts", json={"text": "tea"}).status_code
        server.restart()
        with httpx.Client(
            base_url=f"{server.base_url}/api/v1/local", headers={"authorization": "Bearer sk-local"}
        ) as http:
            assert 429 == http.post("/facts", json={"text": "tea"}).status_code
        with pytest.raises(ValueError, match="no such fault"):
            server.change_faults(plan=["x"])
        assert 1 == server.change_faults(plan=[])["429"]


@pytest.mark.parametrize("api", API_VERSIONS)
def test_a_canned_answer_has_the_error_form_of_its_generation(api: str) -> None:
    faults = Faults(FaultSettings(plan=["503"]))
    with (
        serving(create_app(faults=faults, embedder=embedder(), api=api)) as url,
        httpx.Client(base_url=f"{url}/api/v1/local", headers={"authorization": "Bearer sk-local"}) as http,
    ):
        answer = http.post("/facts", json={"text": "tea"})
    assert 503 == answer.status_code
    assert "0" == answer.headers["retry-after"]
    assert "too many requests in flight" == answer.json()["message"]
    assert (api == "0.2.1") == ("detail" in answer.json())


def test_a_server_without_fault_settings_cannot_be_made_to_fail(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        assert 404 == httpx.put(f"{server.base_url}/faults", json={"chance": 1}).status_code
