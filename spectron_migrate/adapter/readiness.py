"""Checks whether searches may go to Spectron: ledger, mapping and context must be those that wrote the memories."""

from __future__ import annotations

import logging
from collections.abc import Callable

from spectron_migrate.adapter.catalogue import Catalogue
from spectron_migrate.settings.types import SpectronAccess

LOOK_EVERY_S = 1.0
"""How often to check."""
_log = logging.getLogger("spectron_migrate.adapter")


class Readiness:
    """One per adapter."""

    def __init__(
        self,
        catalogue: Catalogue,
        mapping_digest: str,
        access: Callable[[], SpectronAccess],
        *,
        clock: Callable[[], float],
    ) -> None:
        """Checks nothing yet. `access` may raise MigrateError if settings are missing."""
        self._catalogue = catalogue
        self._mapping_digest = mapping_digest
        self._access = access
        self._clock = clock
        self._problem: str | None = "not looked at yet"
        self._looked_at = float("-inf")

    def is_given(self) -> bool:
        """Whether ledger, mapping and context are there and match; logs each new reason why not."""
        if self._clock() - self._looked_at >= LOOK_EVERY_S:
            found = self._look()
            if found is not None and found != self._problem:
                _log.warning("searches are answered by Mem0: %s", found)
            self._problem, self._looked_at = found, self._clock()
        return self._problem is None

    def forget(self) -> None:
        """Check again at the next call."""
        self._looked_at = float("-inf")

    def _look(self) -> str | None:
        """Why searches have to stay with Mem0; None if they need not."""
        try:
            migration = self._catalogue.migration()
            context = self._access().context
        except Exception as error:
            return str(error)
        if migration.mapping_digest != self._mapping_digest:
            return "the memories were written with another mapping: give the application the same mapping.yaml"
        if migration.context != context:
            return f"the memories are in context {migration.context}, and the settings name {context}"
        return None
