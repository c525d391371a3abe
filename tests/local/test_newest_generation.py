"""What 0.3.0 answers beyond the older generations: labels and scope of facts, bounded entities, uncertainties."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.local.engine import ContractReading
from spectron_migrate.local.server import store_path
from tests.local.support import Spectron, spectron

ALICE, BOB = "user/alice", "user/bob"


def facts(local: Spectron, **query: Any) -> list[tuple[str, tuple[str, ...]]]:
    """Values of live attributes with their labels, newest first."""
    return [(row["value"], tuple(row["labels"])) for row in local.rows("/attributes", **query)]


def triples(local: Spectron, *entries: dict[str, Any]) -> int:
    return local.call("POST", "/facts", {"infer": "triples", "triples": entries}).status


def test_facts_and_relations_show_scope_and_the_labels_of_their_write(local: Spectron) -> None:
    local.register(ALICE)
    local.remember("Lives in Berlin", ALICE, labels=["mem0_id=m1", "source=mem0"])

    (fact,) = local.rows("/attributes", entity="person/user")
    (edge,) = local.rows("/relations", src="person/user", dst="location/Berlin")

    for row in (fact, edge):
        assert ["mem0_id=m1", "source=mem0"] == row["labels"]
        assert [["user/alice/"]] == row["scope"]
        assert 0.9 == row["confidence"]
    assert "entity:person/user" == fact["entity"]


@pytest.mark.parametrize(("merges", "labels"), [(True, ("mem0_id=m1", "mem0_id=m2")), (False, ("mem0_id=m1",))])
def test_a_fact_that_is_stated_again_gets_the_labels_by_the_reading(merges: bool, labels: tuple[str, ...]) -> None:
    with spectron(reading=ContractReading(merges_labels=merges)) as local:
        local.remember("Lives in Berlin", labels=["mem0_id=m1"])
        local.remember("Lives in Berlin", labels=["mem0_id=m2"])

        assert [("Berlin", labels)] == facts(local)


def test_labels_of_a_batch_and_of_older_generations_reach_no_row(local: Spectron) -> None:
    messages = [{"role": "user", "content": "Lives in Berlin"}]
    local.ok("POST", "/facts/batch", {"messages": messages, "labels": ["mem0_id=m1"]})

    assert [("Berlin", ())] == facts(local)
    with spectron(api="0.2.1") as older:
        older.remember("Lives in Berlin", labels=["mem0_id=m1"])
        assert [] == older.recall("Berlin", labels=["mem0_id=m1"])


def test_an_entity_is_a_bounded_head_and_its_attributes_are_walked(local: Spectron) -> None:
    for number in range(5):
        local.remember(f"Speaks language{number}")

    head = local.ok("GET", "/entities/person/user", limit=2)

    assert ["language4", "language3"] == [row["value"] for row in head["attributes"]]
    assert {"attributes": True, "relations": False} == head["truncated"]
    assert {"attributes": False, "relations": False} == local.ok("GET", "/entities/person/user")["truncated"]
    first = local.ok("GET", "/attributes", entity="person/user", limit=3, count="true")
    second = local.ok("GET", "/attributes", entity="person/user", limit=3, cursor=first["page"]["nextCursor"])
    assert 5 == first["page"]["totalSize"]
    walked = [row["value"] for page in (first, second) for row in page["attributes"]]
    assert [f"language{number}" for number in (4, 3, 2, 1, 0)] == walked


def test_an_entity_is_shown_as_of_a_time(local: Spectron) -> None:
    local.remember("Lives in Berlin", observed_at="2024-01-01T00:00:00Z")
    local.remember("Lives in Rome", observed_at="2025-01-01T00:00:00Z")

    then = local.ok("GET", "/entities/person/user", asOf="2024-06-01T00:00:00Z")

    assert ["Berlin"] == [row["value"] for row in then["attributes"]]
    assert 422 == local.call("GET", "/entities/person/user", asOf="then").status


def test_the_history_of_all_keys_has_superseded_values(local: Spectron) -> None:
    local.remember("Lives in Berlin and drives a tram")
    local.remember("Lives in Rome")

    rows = local.rows("/entities/person/user/history")

    assert {("lives_in", "Berlin"), ("lives_in", "Rome"), ("drives", "a tram")} == {
        (row["key"], row["value"]) for row in rows
    }
    (old,) = [row for row in rows if row["value"] == "Berlin"]
    (new,) = [row for row in rows if row["value"] == "Rome"]
    assert new["id"] == old["supersededBy"]
    assert 404 == local.call("GET", "/entities/person/nobody/history").status
    assert 404 == local.call("GET", "/entities/person/user/history/none").status


def test_an_uncertainty_names_entity_key_and_labels(local: Spectron) -> None:
    local.register(ALICE)
    local.remember("Lives in Berlin", ALICE, labels=["mem0_id=m1"])
    local.remember("Might live in Rome. Maybe lives in Rome", ALICE, labels=["mem0_id=m2"])

    rows = local.rows("/uncertainty", resolved="false", entity="person/user")

    assert [("entity:person/user", "lives_in", ["mem0_id=m2"])] == [
        (row["entity"], row["key"], row["labels"]) for row in rows
    ]
    assert [] == local.rows("/uncertainty", resolved="true")
    assert [] == local.rows("/uncertainty", entity="person/nobody")


def test_ranks_beyond_k_are_beside_the_hits(local: Spectron) -> None:
    for number in range(4):
        local.remember(f"chess game {number} was a draw, said witness{number * 7}", infer="none")

    answer = local.ok("POST", "/query", {"query": "chess", "k": 1, "includeDuplicates": True})

    assert 1 == len(answer["hits"])
    assert 3 == len(answer["contextHits"])
    assert answer["hits"][0]["id"] not in {row["id"] for row in answer["contextHits"]}


def test_entries_of_four_families_are_taken_or_422(local: Spectron) -> None:
    bob = {"entity": {"type": "person", "name": "Bob"}}
    siemens = {"type": "organisation", "name": "Siemens"}

    assert 200 == triples(local, {**bob, "key": "role", "value": "chef", "confidence": 0.8})
    assert 200 == triples(local, {**bob, "key": "works_at", "target": siemens, "valid_from": "2024-01-01T00:00:00Z"})
    assert 200 == triples(local, bob)
    assert [("chef", ())] == facts(local, entity="person/bob")
    for wrong in (
        {**bob, "value": "chef"},
        {**bob, "key": "role", "value": "chef", "target": siemens},
        {**bob, "key": "role", "value": "chef", "occurred_at": "2024-01-01T00:00:00Z", "temporal_hint": "today"},
        {**bob, "key": "role", "value": "chef", "valid_from": "2024-01-01T00:00:00Z"},
        {**bob, "key": "role", "value": "chef", "confidence": 2},
        {**bob, "key": "role", "verb": "shipped"},
        {"key": "role", "value": "chef"},
    ):
        assert 422 == triples(local, wrong), wrong
    assert 501 == triples(local, {**bob, "verb": "shipped", "object": "a boat"})


def test_a_lifetime_that_is_no_number_is_422_where_no_400_is_published(local: Spectron) -> None:
    local.ok("POST", "/keys", {"name": "spare"})

    assert 422 == local.call("POST", "/keys/spare/rotate", ttlSeconds="null").status


def test_a_context_of_a_subject_has_its_facts_alone(local: Spectron) -> None:
    local.remember("Lives in Berlin. Bob lives in Rome.")

    text = local.ok("POST", "/context", {"query": "home", "subject": "person/bob"})["context"]

    assert "- lives_in: Rome" in text
    assert "- lives_in: Berlin" not in text
    assert 404 == local.call("POST", "/context", {"query": "home", "subject": "person/nobody"}).status


def test_a_store_of_the_first_format_is_brought_up_to_date(tmp_path: Path) -> None:
    with spectron(data=tmp_path) as local:
        local.remember("Lives in Berlin")
    with sqlite3.connect(store_path(tmp_path, "local")) as db:
        db.executescript(
            "DROP VIEW facts; ALTER TABLE attribute DROP COLUMN labels; ALTER TABLE relation DROP COLUMN confidence;"
            "ALTER TABLE relation DROP COLUMN labels; ALTER TABLE note DROP COLUMN entity;"
            "ALTER TABLE note DROP COLUMN key; ALTER TABLE note DROP COLUMN labels;"
            "CREATE VIEW facts AS SELECT id FROM attribute; PRAGMA user_version = 1;"
        )
    db.close()

    with spectron(data=tmp_path) as local:
        local.remember("Speaks French", labels=["mem0_id=m2"])

        assert [("French", ("mem0_id=m2",)), ("Berlin", ())] == facts(local)
