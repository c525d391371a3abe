"""Settings: where things are, and how fast.

An option overrides the environment, which overrides `spectron-migrate.yaml`. What decides *what is written* is in the
mapping. Keys come from the environment or from a file that the settings name; a literal key is refused, and no key is
ever printed.
"""

from spectron_migrate.settings.load import load_settings
from spectron_migrate.settings.types import (
    DEFAULT_FILE,
    AdapterSettings,
    CutoverSettings,
    GuardSettings,
    Mem0Settings,
    MetricsSettings,
    ReplaySettings,
    Secret,
    Settings,
    SourceKind,
    SpectronAccess,
    SpectronSettings,
    VerifySettings,
)
from spectron_migrate.settings.values import is_loopback, parse_endpoint

__all__ = [
    "DEFAULT_FILE",
    "AdapterSettings",
    "CutoverSettings",
    "GuardSettings",
    "Mem0Settings",
    "MetricsSettings",
    "ReplaySettings",
    "Secret",
    "Settings",
    "SourceKind",
    "SpectronAccess",
    "SpectronSettings",
    "VerifySettings",
    "is_loopback",
    "load_settings",
    "parse_endpoint",
]
