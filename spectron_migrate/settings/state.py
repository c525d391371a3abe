"""Where the state is: a directory, or a schema of Postgres."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from spectron_migrate.database.location import (
    WHERE_SECRETS_GO,
    PostgresLocation,
    has_password,
    is_url,
    parse_location,
)
from spectron_migrate.errors import InputError
from spectron_migrate.settings.layers import VARIABLE, Layers
from spectron_migrate.settings.strict_yaml import printable

ENVIRONMENT = "SPECTRON_MIGRATE_STATE"
DEFAULT = Path(".spectron-migrate")
_FLATTENED = re.compile(r"postgres(ql)?:/+[^/]")
"""A URL that was taken for a path, so that only one of its slashes is left."""


def state_of(layers: Layers) -> Path | PostgresLocation:
    """The option, else the variable of the environment, else the setting, else the default."""
    node = layers.find("state")
    if node is None:
        return DEFAULT
    text = str(node.value).strip()
    if not is_url(text) and not _FLATTENED.match(text):
        return layers.path_of("state", node)
    written = layers.written.get("state") if layers.is_of_file("state") else None
    if written is not None and has_password(VARIABLE.sub("", str(written.value))):
        layers.problems.add(written.where, "`state` contains a password", hint=WHERE_SECRETS_GO)
        return DEFAULT
    try:
        return _location(text)
    except InputError as error:
        layers.problems.add(node.where, printable(error.message), hint=error.hint)
        return DEFAULT


def named_state(option: str | None, env: Mapping[str, str]) -> Path | PostgresLocation | None:
    """The state that an option or the environment names, without any file; None if neither does.

    Raises InputError for a URL that names none.
    """
    text = (option or env.get(ENVIRONMENT, "")).strip()
    if not text:
        return None
    return _location(text) if is_url(text) or _FLATTENED.match(text) else Path(text)


def _location(text: str) -> PostgresLocation:
    if not is_url(text):
        raise InputError("`state` is a URL with one slash, it must be text, not a path: postgresql://…")
    return parse_location(text)
