"""Small mappings and memories, and what a mapping makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spectron_migrate.mapping import ScopeMapping, parse_mapping
from spectron_migrate.records import Memory, Placement

TENANTS = """{when: {user_id: "*"}, lookup: {file: orgs.csv, key: user_id, value: org},
    scope: {org: "{org}", user: "{user_id}"}"""
"""A rule with a lookup table, without its closing brace."""


def mapping_of(rules: str, settings: str = "", folder: Path = Path()) -> ScopeMapping:
    """A mapping of these rules, with settings of the whole mapping before them."""
    return parse_mapping(f"version: 1\n{settings}\nrules:\n{rules}", folder)


def memory(**fields: Any) -> Memory:
    """A memory with these fields."""
    return Memory(id="m1", memory="likes tea", **fields)


def mapped(mapping: ScopeMapping, **fields: Any) -> Placement:
    """Where a memory with these fields is written; it must be written."""
    found = mapping.map_memory(memory(**fields))
    assert isinstance(found, Placement), found
    return found
