"""Where a state is: a directory, or a schema of a Postgres database named by a URL.

    postgresql://migrator@db.example:5432/app?schema=spectron_migrate&sslmode=verify-full

Everything but `schema` is for libpq: several hosts, TLS, `service=`, `passfile=`, and the variables PGPASSFILE,
PGSERVICE, ….
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from spectron_migrate.errors import InputError

DEFAULT_SCHEMA = "spectron_migrate"
_SCHEMES = ("postgresql", "postgres")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SECRETS = ("password", "sslpassword")
WHERE_SECRETS_GO = (
    "leave the password out of the URL: libpq reads it from ~/.pgpass (PGPASSFILE), from a service file or from"
    " PGPASSWORD"
)


@dataclass(frozen=True, slots=True)
class PostgresLocation:
    """A schema of a database. Written out, it has no password."""

    url: str = field(repr=False)
    """The URL for libpq, which may contain a password."""
    schema: str

    def __str__(self) -> str:
        """The URL without a password, for an operator to see."""
        parts = urlsplit(self.url)
        owner, at, host = parts.netloc.rpartition("@")
        shown = [each for each in parts.query.split("&") if each and each.partition("=")[0] not in _SECRETS]
        if self.schema != DEFAULT_SCHEMA:
            shown.append(f"schema={self.schema}")
        query = f"?{'&'.join(shown)}" if shown else ""
        return f"postgresql://{owner.partition(':')[0]}{at}{host}{parts.path}{query}"


def is_url(text: str) -> bool:
    """Whether a state is named by a URL, rather than a directory."""
    return _URL.match(text) is not None


def has_password(text: str) -> bool:
    """Whether a URL contains a password, which no settings file may."""
    parts = _parts(text)
    owner = parts.netloc.rpartition("@")[0]
    return bool(owner.partition(":")[2]) or any(each.partition("=")[0] in _SECRETS for each in parts.query.split("&"))


def parse_location(text: str) -> PostgresLocation:
    """The location that a URL names; raises InputError."""
    scheme = _URL.match(text)
    if scheme is None or scheme[1].lower() not in _SCHEMES:
        shown = f"{scheme[1]}://…" if scheme else text
        raise InputError(f"`state` is {shown}, it must be a directory or postgresql://…")
    parts = _parts(text)
    options = [each.partition("=") for each in parts.query.split("&") if each]
    schemas = [unquote(value) for name, _, value in options if name == "schema"] or [DEFAULT_SCHEMA]
    if len(schemas) > 1 or not _SCHEMA.fullmatch(schemas[0]) or schemas[0].startswith("pg_"):
        raise InputError(
            f"`schema` of `state` is {', '.join(schemas)}, it must be one name of lower-case letters, digits and _",
            hint=f"without it, the schema is {DEFAULT_SCHEMA}",
        )
    query = "&".join(f"{name}{equals}{value}" for name, equals, value in options if name != "schema")
    return PostgresLocation(parts._replace(scheme="postgresql", query=query).geturl(), schemas[0])


def _parts(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:
        raise InputError("`state` is no URL: its host cannot be read") from None
