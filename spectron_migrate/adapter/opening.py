"""Opens what an adapter needs: its settings, the state that it uses, the routing, and access to Spectron."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.errors import InputError, Unreachable
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.mapping.unused import describe_unused
from spectron_migrate.settings import load_settings
from spectron_migrate.settings.types import Secret, Settings, SpectronAccess
from spectron_migrate.state.routing_reader import RoutingReader
from spectron_migrate.state.seal import StateBusy, StateMoved
from spectron_migrate.state.state_beside import LostJournal
from spectron_migrate.state.store import StateStore
from spectron_migrate.state.use import use_state

_log = logging.getLogger("spectron_migrate.adapter")


def settings_of(config: str | Path | None, *, state: str | Path | None, mapping: str | Path | None) -> Settings:
    """The settings; the state directory stays the same even if the application changes its working directory."""
    overrides = {"state": _text(state), "mapping": _text(mapping)}
    settings = load_settings(Path(config) if config else None, env=os.environ, overrides=overrides)
    place = settings.state
    return replace(settings, state=place.absolute() if isinstance(place, Path) else place)


def use_if_possible(place: Path | PostgresLocation) -> None:
    """Record that the state is in use.

    Raises if it was moved or is being copied. Other problems are ignored, because then the routing cannot be read
    either, and each write reports that.
    """
    try:
        use_state(place)
    except (Unreachable, OSError) as error:
        if isinstance(error, StateMoved | StateBusy):
            raise


def warn_of_unused_mappings(settings: Settings, mapping: ScopeMapping) -> None:
    """Log each mapping that lies beside the state or the settings and is not the one that is used."""
    beside = [Path(), *([settings.state.parent] if isinstance(settings.state, Path) else [])]
    beside += [settings.file.parent] if settings.file else []
    for text in describe_unused(beside, mapping, settings.mapping):
        _log.warning("%s", text)


def routing_reader(
    routing: str | Path | None, state: StateStore, settings: Settings, lost_journal: LostJournal
) -> RoutingReader:
    """The reader of the named routing, or else of the state's routing; raises InputError if it cannot be read.

    `lost_journal`: as in `RoutingReader`.
    """
    named = bool(routing) or settings.state_is_named
    try:
        source = str(routing) if routing else state.folder or state
        return RoutingReader(source, state=state if routing else state.folder, named=named, lost_journal=lost_journal)
    except ValueError as error:
        raise InputError(str(error)) from None


def access_of(settings: Settings, client: Any | None) -> Callable[[], SpectronAccess]:
    """How to reach Spectron: by the given client, or else by the settings."""
    if client is None:
        return settings.spectron.require
    access = SpectronAccess(client.base_url, client.context, Secret(client._api_key), client._timeout_s)
    return lambda: access


def _text(value: str | Path | None) -> str | None:
    return None if value is None else str(value)
