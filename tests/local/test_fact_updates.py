"""What a new fact does to what is already known."""

from __future__ import annotations

import pytest

from tests.local.support import Spectron

ALICE, BOB = "user/alice", "user/bob"


@pytest.fixture(autouse=True)
def registered(local: Spectron) -> None:
    """Two users."""
    local.register(ALICE, BOB)


def test_a_new_value_supersedes_the_old_one_and_the_old_one_stays_in_the_history(local: Spectron) -> None:
    """Linked both ways, and told as a correction."""
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
    """Each has its own current value of the same entity and key."""
    local.remember("Lives in Berlin", ALICE)
    made = local.remember("Lives in Lisbon", BOB)

    assert [] == made["extraction"]["corrections"]
    assert [("Berlin", True), ("Lisbon", True)] == local.history("lives_in")


def test_the_same_value_again_changes_nothing(local: Spectron) -> None:
    """The answer names the fact that is there."""
    first = local.remember("Lives in Berlin", ALICE)
    again = local.remember("I live in Berlin now", ALICE)

    assert first["extraction"]["attributes"][0]["id"] != ""
    assert [("Berlin", True)] == local.history("lives_in")
    assert [] == again["extraction"]["corrections"]


def test_arrival_decides_and_not_the_clock(local: Spectron) -> None:
    """An old fact that is written late becomes the current one: the writer keeps the order."""
    local.remember("Moved to Lisbon", ALICE, observed_at="2025-01-01T00:00:00Z")
    local.remember("Moved to Berlin", ALICE, observed_at="2020-01-01T00:00:00Z")

    assert [("Lisbon", False), ("Berlin", True)] == local.history("lives_in")


def test_an_uncertain_statement_supersedes_nothing(local: Spectron) -> None:
    """Below the confidence floor both stay live, and the doubt is noted."""
    local.remember("Prefers green tea", ALICE)
    made = local.remember("Maybe prefers black tea", ALICE)

    assert [("green tea", True), ("black tea", True)] == local.history("tea_preference")
    assert 1 == len(made["extraction"]["uncertainties"])
    assert 1 == len(local.ok("GET", "/state")["unknowns"])
    assert ["green tea", "black tea"] == local.ok("POST", "/fsck", {"check": "contradictions"})["contradictions"][0][
        "values"
    ]


def test_what_a_caller_gave_is_not_overwritten_by_talk(local: Spectron) -> None:
    """Triples are authoritative; newer triples supersede them."""
    triple = {"entity": {"type": "person", "name": "user"}, "key": "lives_in", "value": "Berlin"}
    write = {"infer": "triples", "scopes": [[ALICE]]}
    local.ok("POST", "/facts", {**write, "triples": [triple]})

    made = local.remember("Moved to Lisbon", ALICE)
    assert [("Berlin", True)] == local.history("lives_in")
    assert 1 == len(made["extraction"]["uncertainties"])

    local.ok("POST", "/facts", {**write, "triples": [{**triple, "value": "Rome"}]})
    assert [("Berlin", False), ("Rome", True)] == local.history("lives_in")


def test_many_likes_live_side_by_side_until_one_is_taken_back(local: Spectron) -> None:
    """Each has a key of its own."""
    local.remember("Likes tea", ALICE)
    local.remember("Likes chess", ALICE)
    local.remember("No longer likes tea", ALICE)

    assert [("chess", True)] == local.history("likes_chess")
    assert [("tea", False), ("no longer: tea", True)] == local.history("likes_tea")


def test_as_of_shows_what_was_known_then(local: Spectron) -> None:
    """By known time, which `observed_at` sets for facts; passages are known when they arrive."""
    local.remember("Lives in Berlin", ALICE, observed_at="2024-01-01T00:00:00Z")
    local.remember("Moved to Lisbon", ALICE, observed_at="2025-01-01T00:00:00Z")

    def known(as_of: str) -> list[str]:
        return [hit["text"] for hit in local.recall("where does the user live", asOf=as_of)]

    assert [] == known("2023-01-01T00:00:00Z")
    assert ["user lives in: Berlin"] == known("2024-06-01T00:00:00Z")
    assert ["user lives in: Lisbon"] == known("2025-06-01T00:00:00Z")
    assert {"user lives in: Lisbon", "Lives in Berlin", "Moved to Lisbon"} == set(known("2026-06-01T00:00:00Z"))


def test_the_category_of_a_write_goes_onto_its_facts(local: Spectron) -> None:
    """Otherwise the rules give identity or knowledge, never `context`, which expires."""
    given = local.remember("Lives in Berlin", ALICE, memory_category="context")
    chosen = local.remember("Lives in Berlin", BOB)

    assert "context" == given["extraction"]["attributes"][0]["memoryCategory"]
    assert "identity" == chosen["extraction"]["attributes"][0]["memoryCategory"]


def test_instructions_are_kept_as_such(local: Spectron) -> None:
    """They are in the profile."""
    local.remember("Always answer in German. Never use emojis.", ALICE)
    local.remember("Always answer in German.", ALICE)

    texts = [row["description"] for row in local.ok("GET", "/profile")["instructions"]]
    assert ["Always answer in German.", "Never use emojis."] == texts


def test_profile_sorts_facts_by_what_they_are(local: Spectron) -> None:
    """For the caller's whole region: there is no filter by user."""
    local.remember("Lives in Berlin and prefers dark mode", ALICE)
    local.remember("Drives a tram", BOB)

    profile = local.ok("GET", "/profile")

    assert [{"key": "lives_in", "value": "Berlin"}] == profile["static"]
    assert [{"key": "mode_preference", "value": "dark mode"}] == profile["preferences"]
    assert [{"key": "drives", "value": "a tram"}] == profile["dynamic"]


def test_a_deleted_entity_is_gone_and_known_again_when_it_is_spoken_of(local: Spectron) -> None:
    """Softly: its history stays."""
    local.remember("Lives in Berlin", ALICE)

    local.ok("DELETE", "/entities/person/user")
    assert 404 == local.call("GET", "/entities/person/user").status
    assert [("Berlin", False)] == local.history("lives_in")

    local.remember("Lives in Rome", ALICE)
    assert ["Rome"] == [row["value"] for row in local.ok("GET", "/entities/person/user")["attributes"]]


def test_entities_are_listed_by_type_and_name(local: Spectron) -> None:
    """A page at a time, where it is asked for."""
    local.remember("Lives in Berlin and works at Siemens", ALICE)

    def names(**query: object) -> list[str]:
        return [row["name"] for row in local.ok("GET", "/entities", **query)["entities"]]

    assert ["Berlin", "Siemens", "user"] == names()
    assert ["Siemens"] == names(limit=1, offset=1)
    assert ["Berlin"] == names(type="location")


def test_a_name_with_a_slash_is_one_name(local: Spectron) -> None:
    """Escaped in the path it parts nothing."""
    triple = {"entity": {"type": "organisation", "name": "AC/DC"}, "key": "a/b", "value": "x"}
    local.ok("POST", "/facts", {"infer": "triples", "triples": [triple]})

    assert "AC/DC" == local.ok("GET", "/entities/organisation/AC%2FDC")["entity"]["name"]
    history = local.ok("GET", "/entities/organisation/ac%2fdc/history/a%2Fb")["history"]
    assert ["x"] == [row["value"] for row in history]
