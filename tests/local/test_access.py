"""Keys, principals, grants, delegation."""

from __future__ import annotations

from typing import Any

import pytest

from spectron_migrate.local.engine import ContractReading
from tests.local.support import Clock, Spectron, spectron

ALICE, BOB = "user/alice", "user/bob"
PRINCIPALS: dict[str, Any] = {
    "alice-bot": {
        "key": "sk-alice",
        "grants": {verb: ["user/alice/*"] for verb in ("memory:read", "memory:write", "scope:read")},
    },
    "writer": {"key": "sk-writer", "grants": {"memory:write": ["user/alice"]}},
    "nobody": {"key": "sk-nobody", "grants": {}},
}


def as_(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


ALICE_BOT, WRITER, NOBODY = as_("sk-alice"), as_("sk-writer"), as_("sk-nobody")


@pytest.fixture
def shared() -> Any:
    """Two users and four principals."""
    with spectron(principals=PRINCIPALS) as local:
        local.register(ALICE, BOB)
        local.remember("Alice plays the violin", ALICE, infer="none")
        local.remember("Bob plays the trumpet", BOB, infer="none")
        yield local


@pytest.mark.parametrize("header", [{}, as_("wrong"), {"authorization": "sk-local"}, {"authorization": "Basic c2s="}])
def test_every_call_without_a_valid_key_is_401(local: Spectron, header: dict[str, str]) -> None:
    for method, path in (("GET", "/me"), ("POST", "/facts"), ("GET", "/traces"), ("POST", "/query")):
        answer = local.call(method, path, {}, headers={"authorization": "", **header})
        assert 401 == answer.status


@pytest.mark.every_generation
def test_an_unknown_context_is_401_like_a_wrong_key_and_a_malformed_one_is_422(local: Spectron) -> None:
    local.context = "other"
    unknown = local.call("GET", "/me")
    local.context = "not!an!id"
    malformed = local.call("GET", "/me")

    assert (401, 422) == (unknown.status, malformed.status)


def test_me_shows_the_grants_of_principal_and_key(shared: Spectron) -> None:
    me = shared.ok("GET", "/me", headers=ALICE_BOT)

    assert ("alice-bot", "agent") == (me["principalId"], me["kind"])
    assert ["user/alice/*"] == me["effectiveGrants"]["memory:read"]


def test_outside_the_grants_a_write_is_403_and_a_read_is_empty(shared: Spectron) -> None:
    written = shared.call("POST", "/facts", {"text": "x", "scopes": [[BOB]]}, headers=ALICE_BOT)
    both = shared.call("POST", "/facts", {"text": "x", "scopes": [[ALICE, BOB]]}, headers=ALICE_BOT)
    session = shared.call("POST", "/sessions", {"scopes": [[BOB]]}, headers=ALICE_BOT)

    assert [403, 403, 403] == [written.status, both.status, session.status]
    assert ["Alice plays the violin"] == shared.passages("who plays", headers=ALICE_BOT)
    assert [] == shared.passages("who plays", headers=ALICE_BOT, lens=[[BOB]])


def test_a_session_outside_the_grants_is_403_to_write_and_404_to_read(shared: Spectron) -> None:
    session = shared.ok("POST", "/sessions", {"scopes": [[BOB]]})["id"]

    assert 403 == shared.call("POST", "/facts", {"text": "x", "session_id": session}, headers=ALICE_BOT).status
    assert 404 == shared.call("GET", f"/sessions/{session}/turns", headers=ALICE_BOT).status
    assert 404 == shared.call("DELETE", f"/sessions/{session}", headers=ALICE_BOT).status


def test_a_write_grant_alone_answers_writes_with_200_and_reads_with_nothing(shared: Spectron) -> None:
    session = shared.ok("POST", "/sessions", {"scopes": [[ALICE]]}, headers=WRITER)["id"]
    shared.ok("POST", "/facts", {"text": "written", "session_id": session}, headers=WRITER)

    assert [] == shared.ok("GET", f"/sessions/{session}/turns", headers=WRITER)["turns"]
    assert [] == shared.passages("written", headers=WRITER)
    assert 1 == len(shared.ok("GET", f"/sessions/{session}/turns")["turns"])


def test_a_write_without_scopes_goes_to_the_callers_whole_region_and_fsck_lists_it(shared: Spectron) -> None:
    made = shared.ok("POST", "/sessions", {}, headers=ALICE_BOT)

    assert [["user/alice/"]] == made["scopes"]
    assert 403 == shared.call("POST", "/sessions", {}, headers=NOBODY).status
    (finding,) = shared.ok("POST", "/fsck", {"check": "unscoped_content"})["unscopedContent"]
    assert ("session", [made["id"]]) == (finding["table"], finding["sampleIds"])


def test_a_reader_must_cover_every_node_of_one_clause(shared: Spectron) -> None:
    shared.ok("POST", "/facts", {"text": "either plays", "scopes": [[ALICE], [BOB]], "infer": "none"})
    shared.ok("POST", "/facts", {"text": "together plays", "scopes": [[ALICE, BOB]], "infer": "none"})

    assert {"Alice plays the violin", "either plays"} == set(shared.passages("plays", headers=ALICE_BOT))


def test_scopes_are_listed_under_any_grant_and_created_only_with_scope_create(shared: Spectron) -> None:
    paths = [node["path"] for node in shared.rows("/scopes", headers=WRITER)]

    assert ["user/alice/"] == paths
    assert 403 == shared.call("POST", "/scopes", {"path": "user/alice/x"}, headers=ALICE_BOT).status
    assert 403 == shared.call("DELETE", "/scopes", path=ALICE, headers=ALICE_BOT).status
    assert 403 == shared.call("POST", "/scopes/forget", {"path": ALICE}, headers=ALICE_BOT).status


def test_profile_and_state_are_limited_to_the_callers_region(shared: Spectron) -> None:
    shared.remember("Lives in Berlin", ALICE)
    shared.remember("Lives in Rome", BOB)

    assert ["Berlin"] == [row["value"] for row in shared.ok("GET", "/profile", headers=ALICE_BOT)["static"]]
    state = shared.ok("GET", "/state", headers=ALICE_BOT)
    assert ["Berlin"] == [row["value"] for row in state["identity"]["attributes"]]
    assert {"Berlin", "user"} == {row["name"] for row in state["identity"]["entities"]}


def test_delegation_leaves_the_grants_of_both_and_refuses_an_unknown_principal(shared: Spectron) -> None:
    behalf = {"x-spectron-on-behalf-of": "alice-bot"}

    me = shared.ok("GET", "/me", headers=behalf)

    assert ("operator", "alice-bot") == (me["principalId"], me["delegatedPrincipalId"])
    assert {"memory:read", "memory:write", "scope:read"} == set(me["effectiveGrants"])
    assert ["Alice plays the violin"] == shared.passages("who plays", headers=behalf)
    assert 403 == shared.call("POST", "/facts", {"text": "x", "scopes": [[BOB]]}, headers=behalf).status
    shared.checked = False
    assert 403 == shared.call("GET", "/me", headers={"x-spectron-on-behalf-of": "x"}).status


def test_a_new_key_can_only_have_narrower_grants(shared: Spectron) -> None:
    made = shared.ok("POST", "/keys", {"name": "bob-only", "grants": {"memory:read": ["user/bob/*"]}})
    key = as_(made["key"])

    assert made["key"].startswith(f"sp-{made['id']}-")
    assert ["Bob plays the trumpet"] == shared.passages("who plays", headers=key)
    assert {"memory:read": ["user/bob/*"]} == shared.ok("GET", "/me", headers=key)["tokenGrants"]
    wider = {"name": "wide", "grants": {"memory:read": ["/*"]}}
    assert 400 == shared.call("POST", "/keys", wider, headers=key).status
    assert 409 == shared.call("POST", "/keys", {"name": "bob-only"}).status
    assert {"operator", "bob-only"} == {row["name"] for row in shared.rows("/keys")}


def test_expiry_rotation_and_deletion_of_a_key_take_effect_at_once() -> None:
    clock = Clock()
    with spectron(clock, principals=PRINCIPALS) as local:
        made = local.ok("POST", "/keys", {"name": "short"}, ttlSeconds=60)
        assert 200 == local.call("GET", "/me", headers=as_(made["key"])).status
        clock.advance(seconds=61)
        assert 401 == local.call("GET", "/me", headers=as_(made["key"])).status

        rotated = local.ok("POST", "/keys/short/rotate", ttlSeconds=60)
        assert made["id"] == rotated["id"]
        assert 200 == local.call("GET", "/me", headers=as_(rotated["key"])).status
        local.ok("DELETE", "/keys/short")
        assert 401 == local.call("GET", "/me", headers=as_(rotated["key"])).status
        assert 404 == local.call("DELETE", "/keys/short").status
        assert 403 == local.call("DELETE", "/keys/operator").status
        assert 403 == local.call("POST", "/keys", {}, headers={"x-spectron-on-behalf-of": "nobody"}).status


def test_grants_are_changed_only_by_a_manager_of_the_region(shared: Spectron) -> None:
    change = {"path": "user/bob/*", "verbs": ["memory:read"]}

    shared.ok("POST", "/principals/alice-bot/grants", change)
    assert 2 == len(shared.passages("who plays", headers=ALICE_BOT))
    effective = shared.ok("GET", "/principals/alice-bot/effective", path="user/bob")
    assert {"path": "user/bob/", "verbs": ["memory:read"]} == effective
    shared.ok("DELETE", "/principals/alice-bot/grants", change)
    assert 1 == len(shared.passages("who plays", headers=ALICE_BOT))

    assert 403 == shared.call("POST", "/principals/alice-bot/grants", change, headers=ALICE_BOT).status
    assert 403 == shared.call("POST", "/principals/system/grants", change).status
    assert 404 == shared.call("POST", "/principals/who/grants", change).status
    assert 400 == shared.call("POST", "/principals/alice-bot/grants", {**change, "verbs": ["fly"]}).status
    assert {"alice-bot", "nobody", "operator", "system", "writer"} == {row["id"] for row in shared.rows("/principals")}
    assert 403 == shared.call("GET", "/principals", headers=ALICE_BOT).status


@pytest.mark.parametrize(("reading", "status"), [(ContractReading(), 201), (ContractReading(reregister=409), 409)])
def test_registering_twice_answers_by_the_reading(reading: ContractReading, status: int) -> None:
    with spectron(reading=reading) as local:
        local.register(ALICE)

        assert status == local.call("POST", "/scopes", {"path": ALICE}).status


def test_a_write_to_an_unregistered_scope_answers_by_the_reading() -> None:
    with spectron(reading=ContractReading(unregistered=403)) as local:
        assert 403 == local.call("POST", "/facts", {"text": "x", "scopes": [[ALICE]]}).status


def test_a_reading_answers_without_a_turn_id() -> None:
    with spectron(reading=ContractReading(names_turn=False)) as local:
        assert "turnId" not in local.remember("x")
