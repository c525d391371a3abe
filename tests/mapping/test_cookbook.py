"""The example files in configs/: each loads and does what its comments say."""

from pathlib import Path

import pytest

from spectron_migrate.mapping import NotServable, ScopeMapping, Unmapped, load_mapping
from spectron_migrate.records import Memory, Placement, Selector, Skipped
from spectron_migrate.settings import load_settings

CONFIGS = Path(__file__).parents[2] / "configs"
MAPPINGS = sorted([CONFIGS / "mapping.yaml", *(CONFIGS / "mappings").glob("*.yaml")])


def example(name: str) -> ScopeMapping:
    """One mapping of the cookbook."""
    return load_mapping(CONFIGS / "mappings" / f"{name}.yaml")


def selector(mapping: ScopeMapping, **fields: object) -> Selector:
    """Where a memory with these fields is written."""
    found = mapping.map_memory(Memory("m1", "likes tea", **fields))  # type: ignore[arg-type]
    assert isinstance(found, Placement), found
    return found.selector


@pytest.mark.parametrize("path", MAPPINGS, ids=lambda path: path.stem)
def test_every_mapping_of_the_cookbook_writes_a_user_to_a_scope_of_its_own(path: Path) -> None:
    mapping = load_mapping(path)
    user = "acme:alice" if path.stem == "tenants-in-ids" else "alice"

    assert "alice" in selector(mapping, user_id=user)[0][0]


def test_the_settings_example_loads_with_the_mapping_beside_it() -> None:
    env = {"SPECTRON_ENDPOINT": "https://spectron.example", "SPECTRON_API_KEY": "sk-ctx-1"}

    found = load_settings(CONFIGS / "spectron-migrate.yaml", env=env, overrides={})

    assert "acme-staging" == found.spectron.require().context
    assert found.mapping is not None
    assert load_mapping(found.mapping).rules


def test_agent_per_user_is_read_together_or_agent_by_agent() -> None:
    mapping = example("agent-per-user")

    assert (("user/alice",), ("user/alice/*",)) == mapping.lens(user_id="alice").selector
    assert ("user/alice/agent/bot",) == mapping.lens(user_id="alice", agent_id="bot").selector[0]


def test_agent_first_is_read_by_agent_alone() -> None:
    mapping = example("agent-first")

    assert (("agent/bot",), ("agent/bot/*",)) == mapping.lens(agent_id="bot").selector
    with pytest.raises(NotServable):
        mapping.lens(user_id="alice")


def test_all_of_and_any_of_make_one_clause_or_several() -> None:
    medical = selector(example("all-of"), user_id="alice", metadata={"kind": "medical"})
    decision = selector(example("any-of"), user_id="alice", metadata={"team": "red", "kind": "decision"})

    assert (("clearance/medical", "user/alice"),) == medical
    assert (("team/red",), ("user/alice",)) == decision


def test_tenants_come_from_the_id_or_from_a_table() -> None:
    """A user without a tenant is refused by name."""
    in_ids, by_table = example("tenants-in-ids"), example("tenants-by-table")

    assert (("tenant/acme/user/alice",),) == selector(in_ids, user_id="acme:alice")
    assert (("tenant/initech/user/alice",),) == selector(in_ids, user_id="initech:alice")
    assert (("org/acme/user/alice",),) == selector(by_table, user_id="alice")
    assert (
        ("org/initech/user/bob",),
        ("org/initech/user/bob/*",),
        ("org/initech",),
    ) == by_table.lens(user_id="bob").selector
    assert isinstance(in_ids.map_memory(Memory("m1", "text", user_id="alice")), Unmapped)
    assert isinstance(by_table.map_memory(Memory("m1", "text", user_id="eve")), Unmapped)


def test_skipping_leaves_small_talk_out_by_name() -> None:
    mapping = example("skipping")

    found = mapping.map_memory(Memory("m1", "hi", user_id="alice", categories=("small_talk",)))

    assert Skipped("m1", "rule small talk") == found


def test_old_memories_are_written_without_extraction_and_expired_ones_apart() -> None:
    mapping = example("old-memories")
    old = mapping.map_memory(Memory("m1", "text", user_id="alice", text_at="2023-05-01T00:00:00.000000Z"))
    new = mapping.map_memory(Memory("m1", "text", user_id="alice", text_at="2024-05-01T00:00:00.000000Z"))

    assert isinstance(old, Placement)
    assert isinstance(new, Placement)
    assert "none" == old.infer
    assert "full" == new.infer
    assert old.selector == new.selector
    assert (("user/alice/kept/expired",),) == selector(mapping, user_id="alice", state="expired")
