"""The settings files that `init` writes are valid, whatever was found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.init.texts import Owners, mapping_text, settings_text
from spectron_migrate.mapping.load import DEFAULT_MAPPING, parse_mapping
from spectron_migrate.records import Memory

pytestmark = pytest.mark.slow

_RULES = [("user_id", "agent_id"), ("user_id",), ("agent_id",), ("app_id",), ("run_id",)]
OWNER_IDS = st.fixed_dictionaries(
    {}, optional={name: st.text(min_size=1, max_size=8) for name in ("user_id", "agent_id", "app_id", "run_id")}
)


@settings(deadline=None)
@given(owners=st.lists(OWNER_IDS, max_size=6))
def test_the_mapping_equals_the_built_in_one_with_a_label_for_the_id_whatever_was_found(
    owners: list[dict[str, str]],
) -> None:
    seen = Owners()
    memories = [Memory(id=str(number), memory="x", **ids) for number, ids in enumerate(owners)]
    for memory in memories:
        seen.add(memory)
    written = parse_mapping(mapping_text(seen), Path())
    labelled = DEFAULT_MAPPING.replace("labels: {source: mem0}", 'labels: {source: mem0, mem0_id: "{id}"}')
    built_in = parse_mapping(labelled, Path())
    assert built_in.digest == written.digest
    assert "mem0_id" == written.id_label
    assert len(memories) == sum(seen.together.values())
    assert len(memories) == sum(seen.count_for_rule(ids) for ids in _RULES) + seen.together[()]


@settings(deadline=None)
@given(path=st.text(max_size=40).filter(lambda text: "\0" not in text))
def test_any_path_is_valid_in_the_yaml(path: str) -> None:
    import yaml

    text = settings_text({"oss": {"config": path}}, "found", ("A", "B", "C"))
    assert path == yaml.safe_load(text)["mem0"]["oss"]["config"]
