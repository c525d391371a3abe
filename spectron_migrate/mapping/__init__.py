"""The mapping: the scope to which a memory is written, and the lens for a Mem0 filter, from the same rules. Pure."""

from spectron_migrate.mapping.lens import Lens, NotServable, covers
from spectron_migrate.mapping.load import DEFAULT_MAPPING, load_mapping, parse_mapping
from spectron_migrate.mapping.rules import Rule
from spectron_migrate.mapping.scope_mapping import ScopeMapping, Unmapped
from spectron_migrate.mapping.segments import segment

__all__ = [
    "DEFAULT_MAPPING",
    "Lens",
    "NotServable",
    "Rule",
    "ScopeMapping",
    "Unmapped",
    "covers",
    "load_mapping",
    "parse_mapping",
    "segment",
]
