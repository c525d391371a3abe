"""Where memories are written: scope, lane and session by the rules, and what is skipped or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.mapping import Unmapped, load_mapping
from spectron_migrate.records import Skipped
from tests.mapping.support import TENANTS, mapped, mapping_of, memory


@pytest.mark.parametrize(
    ("fields", "path", "lane"),
    [
        ({"user_id": "Al"}, "user/x---41l", "user/x---41l"),
        ({"user_id": "al", "agent_id": "bot"}, "user/al/agent/bot", "user/al"),
        ({"agent_id": "bot", "app_id": "web"}, "agent/bot", "agent/bot"),
        ({"app_id": "web", "run_id": "r"}, "app/web", "app/web"),
        ({"run_id": "r"}, "run/r", "run/r"),
    ],
)
def test_the_default_writes_below_the_first_of_user_agent_app_and_run(
    fields: dict[str, str], path: str, lane: str
) -> None:
    """The lane is the user's, whatever the agent: order is kept among all memories of a user."""
    found = mapped(load_mapping(None), **fields)

    assert ((path,),) == found.selector
    assert lane == found.lane
    assert "full" == found.infer
    assert "knowledge" == found.category
    assert ("source=mem0",) == found.labels
    assert -1 == found.rule
    assert fields.get("run_id") == found.run


def test_the_default_refuses_a_memory_without_an_owner() -> None:
    assert Unmapped("m1", "no rule takes it") == load_mapping(None).map_memory(memory(actor_id="x"))


@pytest.mark.parametrize("state", ["expired", "deleted", "archived", "replaced"])
def test_a_memory_that_mem0_does_not_show_is_skipped_unless_a_rule_names_its_state(state: Any) -> None:
    """Even if an earlier rule takes an active memory with the same fields."""
    rules = """
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
  - {when: {user_id: "*", STATE: true}, scope: {old: "{user_id}"}}
"""
    hidden = memory(user_id="al", state=state)

    assert Skipped("m1", state) == load_mapping(None).map_memory(hidden)
    assert Skipped("m1", state) == mapping_of(rules.replace("STATE: true", f"{state}: false")).map_memory(hidden)
    naming = mapping_of(rules.replace("STATE", state))
    assert (("old/al",),) == mapped(naming, user_id="al", state=state).selector
    assert (("user/al",),) == mapped(naming, user_id="al").selector


def test_the_first_rule_that_matches_wins_with_its_own_options() -> None:
    """A rule's labels replace those of the file key by key."""
    mapping = mapping_of(
        """
  - {when: {metadata.k: kb}, scope: {org: acme}, category: identity, infer: none, labels: {kind: kb, source: x}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
""",
        "labels: {source: mem0, env: prod}\ncategory: context",
    )
    first = mapped(mapping, user_id="al", metadata={"k": "kb"})
    second = mapped(mapping, user_id="al")

    assert 0 == first.rule
    assert "identity" == first.category
    assert "none" == first.infer
    assert ("source=x", "env=prod", "kind=kb") == first.labels
    assert 1 == second.rule
    assert "context" == second.category
    assert "full" == second.infer
    assert ("source=mem0", "env=prod") == second.labels


def test_a_rule_that_skips_gives_its_name_as_the_reason() -> None:
    mapping = mapping_of("  - {name: small talk, when: {metadata.kind: chat}, skip: true}\n  - {when: {}, skip: true}")

    assert Skipped("m1", "rule small talk") == mapping.map_memory(memory(metadata={"kind": "chat"}))
    assert Skipped("m1", "rule 2") == mapping.map_memory(memory())


def test_unmapped_memories_are_refused_or_skipped_with_the_reason(tmp_path: Path) -> None:
    """No rule, no row in the table, a field with several values."""
    (tmp_path / "orgs.csv").write_text("user_id,org\nal,acme\n", encoding="utf-8")
    rules = """
  - {when: {metadata.team: "*"}, scope: {team: "{metadata.team}"}}
  - when: {user_id: "*"}
    lookup: {file: orgs.csv, key: user_id, value: org}
    scope: {org: "{org}", user: "{user_id}"}
"""
    strict = mapping_of(rules, folder=tmp_path)
    lenient = mapping_of(rules, "unmapped: skip", folder=tmp_path)

    assert Unmapped("m1", "rule 2 (mapping.yaml:6): orgs.csv has no row for its user_id") == strict.map_memory(
        memory(user_id="bo")
    )
    assert Unmapped(
        "m1", "rule 1 (mapping.yaml:5): its metadata.team is not a single text or number"
    ) == strict.map_memory(memory(metadata={"team": ["a"]}))
    assert Skipped("m1", "unmapped: no rule takes it") == lenient.map_memory(memory())


def test_runs_become_sessions_unless_the_mapping_says_otherwise() -> None:
    rule = '  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}'

    by_run = mapping_of(rule, "session: {size: 7}")

    assert 7 == by_run.session_size
    assert "r1" == mapped(by_run, user_id="al", run_id="r1").run
    assert mapped(mapping_of(rule, "session: {by: none}"), user_id="al", run_id="r1").run is None


def test_the_lane_of_all_of_is_the_users_node_and_that_of_any_of_the_selector() -> None:
    """The order of the paths in the clause does not matter."""
    user, team, member = '{user: "{user_id}"}', "{team: x}", '{org: acme, member: "{user_id}", topic: food}'
    rule = '  - {{when: {{user_id: "*"}}, scope: {{{kind}: [{paths}]}}}}'

    def lane(kind: str, *paths: str) -> str:
        return mapped(mapping_of(rule.format(kind=kind, paths=", ".join(paths))), user_id="al").lane

    assert "user/al" == lane("all_of", user, team)
    assert lane("all_of", member, user) == lane("all_of", user, member) == "org/acme/member/al"
    assert '[["team/x"],["user/al"]]' == lane("any_of", user, team)
    assert '[["team/x","team/y"]]' == lane("all_of", "{team: x}", "{team: y}")


def test_a_selector_has_one_spelling() -> None:
    """Selectors with the same meaning are equal, so that their memories share a lane."""
    rule = '  - {when: {metadata.a: "*", metadata.b: "*"}, scope: {all_of: [{t: "{metadata.a}"}, {t: "{metadata.b}"}]}}'
    mapping = mapping_of(rule)
    one = mapped(mapping, metadata={"a": "x", "b": "y"})
    other = mapped(mapping, metadata={"a": "y", "b": "x"})

    assert one == other
    assert (("t/x",),) == mapped(mapping, metadata={"a": "x", "b": "x"}).selector


def test_the_digest_depends_on_what_is_written_and_on_nothing_else(tmp_path: Path) -> None:
    """Comments, names and line breaks change nothing; a row of a lookup table does."""
    (tmp_path / "orgs.csv").write_text("user_id,org\nal,acme\n", encoding="utf-8")
    rule = TENANTS
    plain = mapping_of(f"  - {rule}}}", folder=tmp_path).digest
    named = mapping_of(f"  # a comment\n  - {rule}, name: tenants}}\n", folder=tmp_path).digest
    changed = {
        mapping_of(f"  - {rule}, infer: none}}", folder=tmp_path).digest,
        mapping_of(f"  - {rule}, category: identity}}", folder=tmp_path).digest,
        mapping_of(f"  - {rule}}}", "labels: {a: b}", folder=tmp_path).digest,
        mapping_of(f"  - {rule}}}", "session: {size: 5}", folder=tmp_path).digest,
        mapping_of(f"  - {rule}}}", "session: {by: none}", folder=tmp_path).digest,
        mapping_of(f"  - {rule}}}", "write: batch", folder=tmp_path).digest,
        mapping_of(f"  - {rule}}}", "unmapped: skip", folder=tmp_path).digest,
    }
    (tmp_path / "orgs.csv").write_text("user_id,org\nal,initech\n", encoding="utf-8")
    changed.add(mapping_of(f"  - {rule}}}", folder=tmp_path).digest)

    assert plain == named
    assert 8 == len(changed)
    assert plain not in changed
