"""The mapping: where each memory is written, and which lens answers a Mem0 filter. Pure, and one for both."""

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
