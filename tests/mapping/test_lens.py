"""The lens law: a lens covers every memory that its filter matches in Mem0, and none of another user."""

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings

from spectron_migrate.mapping import Lens, NotServable, ScopeMapping, covers, load_mapping, parse_mapping
from spectron_migrate.records import Memory, Placement, Selector
from tests.mapping.strategies import IDS, kindred, mapping_texts, sound, write_table
from tests.mapping.support import mapping_of
from tests.support.examples import examples

pytestmark = pytest.mark.slow

FILTERS = [names for count in (1, 2, 3, 4) for names in combinations(IDS, count)]

ACME = """
version: 1
rules:
  - when: {metadata.source: "kb-*"}
    scope: {org: acme}
    infer: none
  - when: {user_id: "*", agent_id: "*"}
    scope: {org: acme, user: "{user_id}", agent: "{agent_id}"}
  - when: {user_id: "*"}
    scope: {org: acme, user: "{user_id}"}
  - when: {agent_id: "*"}
    scope: {org: acme, agent: "{agent_id}"}
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lookup tables that generated mappings name."""
    folder = tmp_path_factory.mktemp("tables")
    write_table(folder)
    return folder


def lens_of(mapping: ScopeMapping, memory: Memory, names: tuple[str, ...]) -> Lens | None:
    """The lens for the filter by these ids of the memory; None where it is not servable."""
    try:
        return mapping.lens(**{name: getattr(memory, name) for name in names})
    except NotServable:
        return None


@settings(max_examples=examples(250), deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(mapping_texts(), kindred())
def test_the_lens_law(tables: Path, text: str, found: list[Memory]) -> None:
    """For every memory and every filter that matches it, the lens covers it or the filter is refused."""
    mapping = sound(text, tables)
    assume(mapping is not None)
    assert mapping is not None
    mapped = [(memory, mapping.map_memory(memory)) for memory in found]
    written = [(memory, place) for memory, place in mapped if isinstance(place, Placement)]

    for memory, place in written:
        for names in FILTERS:
            if all(getattr(memory, name) is not None for name in names):
                lens = lens_of(mapping, memory, names)
                if lens is not None:
                    assert covers(lens.selector, place.selector)
                    assert ("run_id" in names) == (lens.run_filter is not None)
                    assert_no_leak(lens, names, memory, written)


def assert_no_leak(lens: Lens, names: tuple[str, ...], memory: Memory, written: list[tuple[Memory, Placement]]) -> None:
    """A memory of another owner is covered only by nodes that are shared on purpose, also by its own rule."""
    owner = names[0]
    for other, place in written:
        if getattr(other, owner) != getattr(memory, owner):
            assert not covers(lens.own, place.selector)
            on_purpose = any(set(clause) <= set(lens.shared) for clause in place.selector)
            assert on_purpose or not covers(lens.selector, place.selector)


def test_a_user_is_read_as_node_and_subtree_beside_what_is_shared() -> None:
    """The shared node without its subtree: below it are all users."""
    mapping = parse_mapping(ACME, Path())

    assert mapping.lens(user_id="alice") == Lens(
        selector=(("org/acme/user/alice",), ("org/acme/user/alice/*",), ("org/acme",)),
        shared=("org/acme",),
        run_filter=None,
    )


def test_a_user_and_agent_are_read_as_their_node_beside_what_is_shared() -> None:
    """Memories of the same user without that agent do not match the filter."""
    node = "org/acme/user/alice/agent/bot"

    lens = parse_mapping(ACME, Path()).lens(user_id="alice", agent_id="bot")

    assert ((node,), (f"{node}/*",), ("org/acme",)) == lens.selector
    assert ("org/acme",) == lens.shared


def test_a_run_beside_a_user_does_not_change_the_lens() -> None:
    """A run is a session, not a scope; its hits are selected by the run in the ledger."""
    mapping = load_mapping(None)

    lens = mapping.lens(user_id="alice", run_id="r1")

    assert mapping.lens(user_id="alice").selector == lens.selector
    assert "r1" == lens.run_filter


@pytest.mark.parametrize("name", ["agent_id", "app_id", "run_id"])
def test_the_default_refuses_filters_without_a_user(name: str) -> None:
    """Their memories can be below any user; the message names the rule."""
    with pytest.raises(NotServable, match=rf"a filter by {name} .* built-in rule 1 writes such memories below a user"):
        load_mapping(None).lens(**{name: "x"})


def test_an_agent_is_servable_where_no_rule_writes_it_below_a_user() -> None:
    """Here the agent's rule comes first."""
    mapping = mapping_of(
        """
  - {when: {agent_id: "*"}, scope: {agent: "{agent_id}"}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
"""
    )

    assert (("agent/bot",), ("agent/bot/*",)) == mapping.lens(agent_id="bot").selector
    with pytest.raises(NotServable, match="rule 1"):
        mapping.lens(user_id="alice")
    with pytest.raises(NotServable, match="rule 1"):
        mapping.lens(user_id="alice", agent_id="bot")


def test_a_run_alone_is_servable_by_its_own_rule() -> None:
    """If the rule for runs is the first, no other rule can take such a memory."""
    mapping = mapping_of('  - {when: {run_id: "*"}, scope: {run: "{run_id}"}}\n')

    assert (("run/r1",), ("run/r1/*",)) == mapping.lens(run_id="r1").selector


def test_a_filter_without_any_id_is_refused() -> None:
    """An empty lens would read everything."""
    with pytest.raises(NotServable):
        load_mapping(None).lens()


def test_a_filter_that_no_rule_takes_is_refused() -> None:
    """An empty lens would read everything."""
    mapping = mapping_of('  - {when: {user_id: "team-*"}, scope: {user: "{user_id}"}}\n')

    with pytest.raises(NotServable, match="no rule"):
        mapping.lens(user_id="alice")


def test_a_shared_node_built_from_other_fields_makes_the_filter_not_servable() -> None:
    """alice's id does not say to which teams her memories were written."""
    mapping = mapping_of(
        """
  - {when: {metadata.team: "*"}, scope: {team: "{metadata.team}"}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
"""
    )

    with pytest.raises(NotServable, match="rule 1"):
        mapping.lens(user_id="alice")


def test_a_clause_of_which_only_one_node_is_constant_makes_the_filter_not_servable() -> None:
    """Reading the constant node alone would show every team's memories."""
    mapping = mapping_of(
        """
  - {when: {metadata.team: "*"}, scope: {all_of: [{org: acme}, {team: "{metadata.team}"}]}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
"""
    )

    with pytest.raises(NotServable, match="rule 1"):
        mapping.lens(user_id="alice")


def test_a_clause_that_is_shared_as_a_whole_is_read_as_a_whole() -> None:
    """A memory in only one of its nodes is not covered."""
    mapping = mapping_of(
        """
  - {when: {metadata.kind: kb}, scope: {all_of: [{org: acme}, {clearance: kb}]}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
"""
    )

    lens = mapping.lens(user_id="alice")

    assert (("user/alice",), ("user/alice/*",), ("org/acme", "clearance/kb")) == lens.selector
    assert lens.own == lens.selector[:2]


def test_a_field_above_the_user_that_the_filter_does_not_name_makes_it_not_servable() -> None:
    """A pattern can end in `/*`, but cannot have it in the middle."""
    mapping = mapping_of(
        '  - {when: {user_id: "*", metadata.org: "*"}, scope: {org: "{metadata.org}", user: "{user_id}"}}\n'
    )

    with pytest.raises(NotServable, match="rule 1"):
        mapping.lens(user_id="alice")


def test_the_subtree_of_a_node_above_the_filter_is_read_only_if_a_rule_writes_there() -> None:
    """Topics are written below the user whatever the agent is, so the filter by both reads them too."""
    mapping = mapping_of(
        """
  - {when: {user_id: "*", metadata.topic: "*"}, scope: {user: "{user_id}", topic: "{metadata.topic}"}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
"""
    )
    exactly = mapping_of('  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}\n')
    user_and_agent = {"user_id": "alice", "agent_id": "bot"}

    assert (("user/alice",), ("user/alice/*",)) == mapping.lens(**user_and_agent).selector
    assert (("user/alice",),) == exactly.lens(**user_and_agent).selector


@pytest.mark.parametrize("asked", ['agent_id: "*"', "agent_id: kb", 'metadata.source: "*"', "expired: true"])
def test_a_rule_hides_a_later_one_only_from_memories_that_it_takes_in_every_case(asked: str) -> None:
    """The first rule does not take all of alice's memories, so the others count."""
    mapping = mapping_of(
        f"""
  - {{when: {{{asked}}}, scope: {{org: acme}}}}
  - {{when: {{user_id: "*", agent_id: "*"}}, scope: {{user: "{{user_id}}", agent: "{{agent_id}}"}}}}
  - {{when: {{user_id: "*"}}, scope: {{user: "{{user_id}}"}}}}
"""
    )

    expected = (("user/alice",), ("user/alice/*",), ("org/acme",))
    assert expected == mapping.lens(user_id="alice").selector


def test_a_rule_is_not_hidden_by_one_with_stricter_conditions() -> None:
    """alice has memories with other agents too."""
    mapping = mapping_of(
        """
  - {when: {agent_id: "kb*"}, scope: {org: acme}}
  - {when: {user_id: "*", agent_id: "*"}, scope: {user: "{user_id}"}}
  - {when: {user_id: "*", agent_id: kb-bot}, scope: {bots: "{agent_id}"}}
"""
    )

    assert (("user/alice",), ("user/alice/*",), ("org/acme",)) == mapping.lens(user_id="alice").selector
    assert (("org/acme",),) == mapping.lens(user_id="alice", agent_id="kb-bot").selector


def test_a_field_that_a_rule_fixes_need_not_be_in_the_filter() -> None:
    """The author of the rule chose the node of that agent, so it is shared on purpose."""
    mapping = mapping_of(
        """
  - {when: {agent_id: kb-bot}, scope: {agent: "{agent_id}"}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
"""
    )

    assert ("agent/kb-bot",) == mapping.lens(user_id="alice").shared
    assert () == mapping.lens(user_id="alice", agent_id="other").shared


def test_a_rule_that_skips_adds_nothing_to_the_lens_and_hides_later_rules() -> None:
    """Its memories are not written."""
    mapping = mapping_of(
        """
  - {when: {agent_id: "*"}, skip: true}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
"""
    )

    assert (("user/alice",), ("user/alice/*",)) == mapping.lens(user_id="alice").selector
    with pytest.raises(NotServable, match="no rule writes"):
        mapping.lens(user_id="alice", agent_id="bot")


def test_captured_parts_and_tables_are_resolved_from_the_filter(tmp_path: Path) -> None:
    (tmp_path / "orgs.csv").write_text("user_id,org\nbob,Initech\n", encoding="utf-8")
    mapping = mapping_of(
        """
  - {when: {user_id: "{tenant}:{user}"}, scope: {tenant: "{tenant}", user: "{user}"}}
  - when: {user_id: "*"}
    lookup: {file: orgs.csv, key: user_id, value: org}
    scope: {org: "{org}", user: "{user_id}"}
""",
        folder=tmp_path,
    )

    assert ("tenant/acme/user/x--al-3aice",) == mapping.lens(user_id="acme:al:ice").selector[0]
    assert ("org/x---49nitech/user/bob",) == mapping.lens(user_id="bob").selector[0]
    with pytest.raises(NotServable, match="no rule writes"):
        mapping.lens(user_id="eve")


def test_a_shared_node_never_shows_memories_that_need_another_node_too() -> None:
    """`all_of` with the shared node would show alice's memory to every reader of that node."""
    mapping = mapping_of(
        """
  - {when: {metadata.source: kb}, scope: {org: acme}}
  - {when: {user_id: "*"}, scope: {all_of: [{user: "{user_id}"}, {org: acme}]}}
"""
    )

    with pytest.raises(NotServable, match=r"rule 1 .* shares org/acme, which rule 2"):
        mapping.lens(user_id="bob")


def test_all_of_and_any_of_are_read_by_the_users_node() -> None:
    """A lens covers a memory by one of its paths; grants limit reading further."""
    for kind in ("all_of", "any_of"):
        mapping = mapping_of(
            f'  - {{when: {{user_id: "*"}}, scope: {{{kind}: [{{user: "{{user_id}}"}}, {{team: x}}]}}}}\n'
        )

        assert (("user/alice",), ("user/alice/*",)) == mapping.lens(user_id="alice").selector


@pytest.mark.parametrize(
    ("lens", "target", "expected"),
    [
        ((("a/b",),), (("a/b",),), True),
        ((("a/b",),), (("a/b/c/d",),), False),
        ((("a/b/*",),), (("a/b/c/d",),), True),
        ((("a/b/*",),), (("a/b",),), False),
        ((("a/b/*",),), (("a/bc",),), False),
        ((("a/b/",),), (("a/b",),), True),
        ((("/*",),), (("a/b",),), True),
        ((("x/y",), ("a/b",)), (("a/b",),), True),
        ((("x/y", "a/b"),), (("a/b",),), False),
        ((("x/y", "a/b"),), (("a/b", "x/y"),), True),
        ((("a/b",),), (("a/b", "x/y"),), True),
        ((("a/b",),), (("x/y",), ("a/b",)), True),
        ((), (("a/b",),), False),
        (((),), (("a/b",),), False),
        ((("a/b",),), (), False),
    ],
)
def test_a_lens_covers_a_memory_that_matches_every_pattern_of_a_clause(
    lens: Selector, target: Selector, expected: bool
) -> None:
    """As published; the lens does not rely on whether a subtree includes its root."""
    assert expected == covers(lens, target)
