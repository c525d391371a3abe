"""How a new fact changes what is known."""

from __future__ import annotations

import pytest

from tests.local.support import Spectron

ALICE, BOB = "user/alice", "user/bob"


@pytest.fixture(autouse=True)
def registered(local: Spectron) -> None:
    """Two users."""
    local.register(ALICE, BOB)


@pytest.mark.every_generation
def test_a_new_value_supersedes_the_old_one_and_the_old_one_stays_in_the_history(local: Spectron) -> None:
    local.remember("Prefers vegetarian food", ALICE, observed_at="2024-01-01T00:00:00Z")
    made = local.remember("Now eats fish", ALICE, observed_at="2025-06-01T00:00:00+02:00")

    (correction,) = made["extraction"]["corrections"]
    old, new = local.ok("GET", "/entities/person/user/history/food_preference")["history"]
    assert ("vegetarian food", "fish") == (correction["oldValue"], correction["newValue"])
    assert "vegetarian food" == old["value"]
    assert "2024-01-01T00:00:00.000000Z" == old["createdAt"]
    assert "2025-05-31T22:00:00.000000Z" == old["validUntil"]
    assert old["id"] == new["supersedes"]
    assert new["id"] == old["supersededBy"]
    assert new["validUntil"] is None
    facts = local.recall("what food does the user eat", include=["facts"])
    assert ["user food preference: fish"] == [hit["text"] for hit in facts]


def test_scopes_never_contradict_each_other(local: Spectron) -> None:
    local.remember("Lives in Berlin", ALICE)
    made = local.remember("Lives in Lisbon", BOB)

    assert [] == made["extraction"]["corrections"]
    assert [("Berlin", True), ("Lisbon", True)] == local.history("lives_in")


def test_the_same_value_again_changes_nothing(local: Spectron) -> None:
    first = local.remember("Lives in Berlin", ALICE)
    again = local.remember("I live in Berlin now", ALICE)

    assert first["extraction"]["attributes"][0]["id"] != ""
    assert [("Berlin", True)] == local.history("lives_in")
    assert [] == again["extraction"]["corrections"]


def test_arrival_decides_and_not_the_known_time(local: Spectron) -> None:
    local.remember("Moved to Lisbon", ALICE, observed_at="2025-01-01T00:00:00Z")
    local.remember("Moved to Berlin", ALICE, observed_at="2020-01-01T00:00:00Z")

    assert [("Lisbon", False), ("Berlin", True)] == local.history("lives_in")


@pytest.mark.every_generation
def test_an_uncertain_statement_supersedes_nothing_and_is_recorded(local: Spectron) -> None:
    local.remember("Prefers green tea", ALICE)
    made = local.remember("Maybe prefers black tea", ALICE)

    assert [("green tea", True), ("black tea", True)] == local.history("tea_preference")
    assert 1 == len(made["extraction"]["uncertainties"])
    assert 1 == len(local.ok("GET", "/state")["unknowns"])
    assert ["green tea", "black tea"] == local.ok("POST", "/fsck", {"check": "contradictions"})["contradictions"][0][
        "values"
    ]


def test_triples_are_superseded_by_triples_only(local: Spectron) -> None:
    triple = {"entity": {"type": "person", "name": "user"}, "key": "lives_in", "value": "Berlin"}
    write = {"infer": "triples", "scopes": [[ALICE]]}
    local.ok("POST", "/facts", {**write, "triples": [triple]})

    made = local.remember("Moved to Lisbon", ALICE)
    assert [("Berlin", True)] == local.history("lives_in")
    assert 1 == len(made["extraction"]["uncertainties"])

    local.ok("POST", "/facts", {**write, "triples": [{**triple, "value": "Rome"}]})
    assert [("Berlin", False), ("Rome", True)] == local.history("lives_in")


def test_each_like_has_its_own_key_until_it_is_negated(local: Spectron) -> None:
    local.remember("Likes tea", ALICE)
    local.remember("Likes chess", ALICE)
    local.remember("No longer likes tea", ALICE)

    assert [("chess", True)] == local.history("likes_chess")
    assert [("tea", False), ("no longer: tea", True)] == local.history("likes_tea")


@pytest.mark.every_generation
def test_as_of_shows_what_was_known_then(local: Spectron) -> None:
    local.remember("Lives in Berlin", ALICE, observed_at="2024-01-01T00:00:00Z")
    local.remember("Moved to Lisbon", ALICE, observed_at="2025-01-01T00:00:00Z")

    def known(as_of: str) -> list[str]:
        return [hit["text"] for hit in local.recall("where does the user live", asOf=as_of)]

    assert [] == known("2023-01-01T00:00:00Z")
    assert ["user lives in: Berlin"] == known("2024-06-01T00:00:00Z")
    assert ["user lives in: Lisbon"] == known("2025-06-01T00:00:00Z")
    assert {"user lives in: Lisbon", "Lives in Berlin", "Moved to Lisbon"} == set(known("2026-06-01T00:00:00Z"))


def test_facts_have_the_category_of_their_write_and_never_context_by_themselves(local: Spectron) -> None:
    given = local.remember("Lives in Berlin", ALICE, memory_category="context")
    chosen = local.remember("Lives in Berlin", BOB)

    assert "context" == given["extraction"]["attributes"][0]["memoryCategory"]
    assert "identity" == chosen["extraction"]["attributes"][0]["memoryCategory"]


def test_instructions_are_in_the_profile(local: Spectron) -> None:
    local.remember("Always answer in German. Never use emojis.", ALICE)
    local.remember("Always answer in German.", ALICE)

    texts = [row["description"] for row in local.ok("GET", "/profile")["instructions"]]
    assert ["Always answer in German.", "Never use emojis."] == texts


@pytest.mark.every_generation
def test_profile_groups_facts_of_the_callers_whole_region(local: Spectron) -> None:
    local.remember("Lives in Berlin and prefers dark mode", ALICE)
    local.remember("Drives a tram", BOB)

    profile = local.ok("GET", "/profile")

    def entries(group: str) -> list[tuple[str, str]]:
        return [(entry["key"], entry["value"]) for entry in profile[group]]

    assert [("lives_in", "Berlin")] == entries("static")
    assert [("mode_preference", "dark mode")] == entries("preferences")
    assert [("drives", "a tram")] == entries("dynamic")


def test_a_deleted_entity_returns_with_its_history_when_it_is_named_again(local: Spectron) -> None:
    local.remember("Lives in Berlin", ALICE)

    local.ok("DELETE", "/entities/person/user")
    assert 404 == local.call("GET", "/entities/person/user").status
    assert [("Berlin", False)] == local.history("lives_in")

    local.remember("Lives in Rome", ALICE)
    assert ["Rome"] == [row["value"] for row in local.ok("GET", "/entities/person/user")["attributes"]]


@pytest.mark.every_generation
def test_entities_are_listed_in_pages_by_type_and_name(local: Spectron) -> None:
    local.remember("Lives in Berlin and works at Siemens", ALICE)

    def names(**query: object) -> list[str]:
        return [row["name"] for row in local.rows("/entities", **query)]

    assert ["Berlin", "Siemens", "user"] == names()
    assert ["Siemens"] == names(limit=1, offset=1)
    assert ["Berlin"] == names(type="location")


def test_an_escaped_slash_is_part_of_a_name(local: Spectron) -> None:
    triple = {"entity": {"type": "organisation", "name": "AC/DC"}, "key": "a/b", "value": "x"}
    local.ok("POST", "/facts", {"infer": "triples", "triples": [triple]})

    assert "AC/DC" == local.ok("GET", "/entities/organisation/AC%2FDC")["entity"]["name"]
    history = local.ok("GET", "/entities/organisation/ac%2fdc/history/a%2Fb")["history"]
    assert ["x"] == [row["value"] for row in history]
