"""Addresses of servers that Mem0 runs or uses: without credentials, and https if a key is sent."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from spectron_migrate.errors import InputError
from spectron_migrate.settings.values import is_loopback


def without_credentials(url: str) -> str:
    """The URL without user, password, query and final slash."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port is not None else ""
    return urlunsplit((parts.scheme.lower(), host + port, parts.path.rstrip("/"), "", ""))


def checked_url(url: str, *, with_key: bool) -> str:
    """The address without a final slash.

    Raises InputError unless it is https, or on this machine, or no key is sent.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{without_credentials(url)!r} is not an address", hint="an address begins with https://")
    if parts.username or parts.password:
        raise InputError(
            f"the address {without_credentials(url)} contains a user or a password", hint="give the key separately"
        )
    if with_key and parts.scheme == "http" and not _is_local(parts.hostname):
        raise InputError(f"{without_credentials(url)} is not https, so the key would be sent unencrypted")
    return without_credentials(url)


def _is_local(host: str) -> bool:
    return is_loopback(host) or host.endswith(".localhost")
