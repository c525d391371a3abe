"""A mapping under which two ids could share a scope is refused when it is loaded, and the rules are named."""

from pathlib import Path

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.mapping import Unmapped, parse_mapping
from spectron_migrate.records import Memory, Placement

REFUSED = {
    "two fields under one word": """
  - {when: {agent_id: "*"}, scope: {user: "{agent_id}"}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
""",
    "plain text that can be an id": """
  - {when: {metadata.source: kb}, scope: {user: everyone}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
""",
    "plain text that a glob admits": """
  - {when: {user_id: "team-*"}, scope: {user: "{user_id}"}}
  - {when: {metadata.source: kb}, scope: {user: team-kb}}
""",
    "a capture beside the whole id": """
  - {when: {user_id: "{org}:{user}"}, scope: {org: "{org}", user: "{user}"}}
  - {when: {user_id: "*"}, scope: {org: acme, user: "{user_id}"}}
""",
    "two captures that give the same parts": """
  - {when: {user_id: "{org}:{user}"}, scope: {org: "{org}", user: "{user}"}}
  - {when: {user_id: "{org}/{user}"}, scope: {org: "{org}", user: "{user}"}}
""",
    "one capture, its parts swapped": """
  - {when: {user_id: "{a}:{b}", metadata.x: "*"}, scope: {org: "{a}", user: "{b}"}}
  - {when: {user_id: "{a}:{b}"}, scope: {org: "{b}", user: "{a}"}}
""",
    "a part of a capture above the whole id": """
  - {when: {user_id: "{org}:{user}", metadata.x: "*"}, scope: {org: "{org}", user: "{user}"}}
  - {when: {user_id: "{org}:{user}"}, scope: {org: "{org}", user: "{user_id}"}}
""",
    "a capture below a node of the same capture": """
  - {when: {user_id: "{org}:{user}", metadata.x: "*"}, scope: {org: "{org}", user: "{user}"}}
  - {when: {user_id: "{org}:{user}"}, scope: {org: acme, user: "{user}", tenant: "{org}"}}
""",
    "a part of a capture alone": """
  - {when: {user_id: "{org}:{user}"}, scope: {user: "{user}"}}
""",
    "a part of a capture in one path of two": """
  - {when: {user_id: "{org}:{user}"}, scope: {all_of: [{org: "{org}"}, {user: "{user}"}]}}
""",
    "a path into the node of an id": """
  - {when: {user_id: "*", metadata.team: "*"}, scope: {team: "{metadata.team}", user: "{user_id}"}}
  - {when: {user_id: "*"}, scope: {team: "{user_id}"}}
""",
    "a table that can give an id": """
  - when: {user_id: "*", agent_id: "*"}
    lookup: {file: owners.csv, key: agent_id, value: owner}
    scope: {user: "{owner}"}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
""",
    "plain text that a table can give": """
  - when: {agent_id: "*", user_id: "*"}
    lookup: {file: owners.csv, key: agent_id, value: owner}
    scope: {org: "{owner}", user: "{user_id}"}
  - {when: {metadata.source: kb}, scope: {org: bob, user: "{metadata.source}"}}
""",
    "two paths of one rule": """
  - {when: {user_id: "*", metadata.peer: "*"}, scope: {any_of: [{user: "{user_id}"}, {user: "{metadata.peer}"}]}}
""",
    "a field of the memory that is not an id": """
  - {when: {metadata.owner: "*"}, scope: {user: "{metadata.owner}"}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
""",
    "the actor under the user's word": """
  - {when: {actor_id: "*"}, scope: {user: "{actor_id}"}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
""",
    "an id as plain text beside its field": """
  - {when: {user_id: alice}, scope: {user: alice}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
""",
}

SOUND = {
    "one user under several rules": """
  - {when: {user_id: "*", agent_id: "*"}, scope: {user: "{user_id}", agent: "{agent_id}"}}
  - {when: {user_id: "*", metadata.team: "*"}, scope: {user: "{user_id}", team: "{metadata.team}"}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
""",
    "plain text under another word": """
  - {when: {metadata.source: kb}, scope: {org: acme}}
  - {when: {user_id: "*"}, scope: {org: acme, user: "{user_id}"}}
""",
    "plain text that the glob excludes": """
  - {when: {user_id: "u-*"}, scope: {user: "{user_id}"}}
  - {when: {metadata.source: kb}, scope: {user: everyone}}
""",
    "plain text that is not the one id": """
  - {when: {user_id: root}, scope: {user: "{user_id}"}}
  - {when: {metadata.source: kb}, scope: {user: everyone}}
""",
    "plain text that the table never gives": """
  - when: {agent_id: "*", user_id: "*"}
    lookup: {file: owners.csv, key: agent_id, value: owner}
    scope: {org: "{owner}", user: "{user_id}"}
  - {when: {metadata.source: kb}, scope: {org: initech, user: "{metadata.source}"}}
""",
    "the same capture twice": """
  - {when: {user_id: "{org}:{user}", agent_id: "*"}, scope: {org: "{org}", user: "{user}", agent: "{agent_id}"}}
  - {when: {user_id: "{tenant}:{who}"}, scope: {org: "{tenant}", user: "{who}"}}
""",
    "the org of a user from three places": """
  - {when: {user_id: "*", metadata.org: "*"}, scope: {org: "{metadata.org}", user: "{user_id}"}}
  - when: {user_id: "*", agent_id: "*"}
    lookup: {file: owners.csv, key: agent_id, value: owner}
    scope: {org: "{owner}", user: "{user_id}"}
  - {when: {user_id: "*"}, scope: {org: acme, user: "{user_id}"}}
""",
    "paths of different length": """
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
  - {when: {agent_id: "*"}, scope: {agent: "{agent_id}"}}
  - {when: {metadata.team: "*"}, scope: {team: "{metadata.team}", agent: "{metadata.team}"}}
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a table."""
    (tmp_path / "owners.csv").write_text("agent_id,owner\nbot,bob\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("rules", REFUSED.values(), ids=REFUSED)
def test_a_mapping_that_could_mix_two_ids_is_refused(rules: str, folder: Path) -> None:
    """The message names the rules with their lines."""
    with pytest.raises(InputError, match="become one scope for two different") as refused:
        parse_mapping(f"version: 1\nrules:{rules}", folder)

    assert "rule 1 (mapping.yaml:3)" in refused.value.message
    assert refused.value.hint is not None


@pytest.mark.parametrize("rules", SOUND.values(), ids=SOUND)
def test_a_mapping_that_cannot_mix_two_ids_is_accepted(rules: str, folder: Path) -> None:
    assert parse_mapping(f"version: 1\nrules:{rules}", folder).rules


def test_two_ids_never_have_the_same_captured_parts() -> None:
    """Each part but the last is as short as possible."""
    rules = '\n  - {when: {user_id: "{org}:{user}"}, scope: {org: "{org}", user: "{user}"}}'
    mapping = parse_mapping(f"version: 1\nrules:{rules}", Path())
    mapped = {
        name: mapping.map_memory(Memory("m", "text", user_id=name)) for name in ("a:b:c", "::b", "a:b", ":b", "a:", "a")
    }

    found = {name: place.selector[0][0] for name, place in mapped.items() if isinstance(place, Placement)}
    assert {"a:b:c": "org/a/user/x--b-3ac", "::b": "org/x---3a/user/b", "a:b": "org/a/user/b"} == found
    assert all(isinstance(mapped[name], Unmapped) for name in (":b", "a:", "a"))
