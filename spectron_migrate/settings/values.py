"""Parses single values: endpoints, contexts, keys, durations, and the families of environment variables."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from urllib.parse import urlsplit

from spectron_migrate.settings.strict_yaml import Node, Problems, shown
from spectron_migrate.settings.types import Secret

FAMILIES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "SPECTRON": {
        "endpoint": ("SPECTRON_ENDPOINT", "SPECTRON_URL"),
        "context": ("SPECTRON_CONTEXT", "SPECTRON_CONTEXT_ID"),
        "api_key": ("SPECTRON_API_KEY",),
    },
    "AGENT_MEMORY": {
        "endpoint": ("AGENT_MEMORY_ENDPOINT",),
        "context": ("AGENT_MEMORY_CONTEXT",),
        "api_key": ("AGENT_MEMORY_API_KEY",),
    },
    "SURREAL_MEMORY": {
        "endpoint": ("SURREAL_MEMORY_URL",),
        "context": ("SURREAL_MEMORY_CONTEXT_ID",),
        "api_key": ("SURREAL_MEMORY_API_KEY",),
    },
}

_CONTEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~-]{0,199}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]{0,250}[a-z0-9])?\.?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_KEY = re.compile(r"[\x21-\x7e]{1,4096}")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def context_in(env: Mapping[str, str]) -> str | None:
    """The Spectron context in the environment, from the variables of any family; None if there is none.

    Raises ValueError if two variables name different contexts.
    """
    found = {name: env[name] for family in FAMILIES.values() for name in family["context"] if env.get(name)}
    if len(set(found.values())) > 1:
        raise ValueError(f"{' and '.join(list(found)[:2])} differ")
    return next(iter(found.values()), None)


def parse_endpoint(text: str) -> str:
    """An endpoint in one spelling: no slash at the end, no `/api/v1`, the host in lower case.

    Raises ValueError for anything but https (http is allowed to this machine only), for a user or password, a query,
    a fragment, and text that is not an address. The error never repeats the text: it may contain a password.
    """
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError("contains a character that no address has")
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise ValueError("is not an address such as https://host") from None
    if "@" in parts.netloc:
        raise ValueError("contains a user or password; a key belongs into its own setting")
    if parts.scheme not in ("http", "https") or not _is_host(host):
        raise ValueError("is not an address such as https://host")
    if "?" in text or "#" in text:
        raise ValueError("ends in a query or fragment, which no endpoint has")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("must be https, because a key is sent there; http is allowed to this machine only")
    prefix = parts.path.rstrip("/").removesuffix("/api/v1").rstrip("/")
    if "/api/v1" in prefix:
        raise ValueError("continues after /api/v1; the context is a setting of its own")
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("has a path that no endpoint has")
    shown_host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown_host}{'' if port is None else f':{port}'}{prefix}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: `localhost`, 127.0.0.0/8 or ::1, and no name that only begins like these."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback if address.version == 4 else address == ipaddress.IPv6Address("::1")


def _is_host(host: str) -> bool:
    if ":" not in host:
        return _HOST.fullmatch(host) is not None
    try:
        return "%" not in host and ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def parse_context(text: str) -> str:
    """A context id; raises ValueError for characters that could change the path of a request."""
    if not _CONTEXT.fullmatch(text):
        raise ValueError("contains a character that no context id has")
    return text


def parse_duration(text: str) -> float:
    """Seconds of `120s`, `800ms`, `24h`; raises ValueError for anything else."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("is not a duration such as 120s, 24h or 800ms")
    return float(found[1]) * _SECONDS[found[2]]


def parse_key(text: str) -> Secret:
    """A key that can be sent in a header; raises ValueError, which never repeats the text."""
    if not _KEY.fullmatch(text):
        raise ValueError("contains a character that no key has")
    return Secret(text)


def read_key(path: Path) -> Secret:
    """The key in a file that contains nothing else; raises ValueError with the reason if there is none."""
    try:
        with path.open("rb") as file:
            text = file.read(8192).decode("ascii").strip()
    except UnicodeDecodeError:
        raise ValueError("contains a character that no key has") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"cannot be read: {reason}") from None
    if not text:
        raise ValueError("is empty")
    return parse_key(text)


def read_environment(env: Mapping[str, str], problems: Problems) -> dict[str, Node]:
    """Spectron's `endpoint`, `context` and `api_key` in the environment.

    Two variables with different values for one setting, or settings from two families, are problems, because the key of
    one deployment must never be sent to the endpoint of another.
    """
    found: dict[str, Node] = {}
    families: dict[str, dict[str, str]] = {family: {} for family in FAMILIES}
    for family, settings in FAMILIES.items():
        for setting, names in settings.items():
            for name in names:
                value = env.get(name, "").strip()
                if not value:
                    continue
                families[family].setdefault(setting, name)
                first = found.setdefault(setting, Node(value, name))
                if str(first.value).rstrip("/") != value.rstrip("/"):
                    problems.add("environment", f"{first.where} and {name} differ", hint="unset one of them")
    for (left, some), (right, others) in combinations(families.items(), 2):
        if some.keys() - others.keys() and others.keys() - some.keys():
            one = next(name for setting, name in some.items() if setting not in others)
            other = next(name for setting, name in others.items() if setting not in some)
            text = f"{one} and {other} belong to two families, which are never mixed"
            problems.add("environment", text, hint=f"use {left}_… or {right}_…, not both")
    return found


def setting_names(schema: Mapping[str, object], prefix: str = "") -> list[str]:
    """The dotted names of all settings, without those of the sections."""
    names: list[str] = []
    for key, below in schema.items():
        names += setting_names(below, f"{prefix}{key}.") if isinstance(below, Mapping) else [prefix + key]
    return names


def option_node(key: str, value: object) -> Node:
    """The node for an option's value: paths as text, lists item by item."""
    where = f"option `{shown(key)}`"
    if isinstance(value, list | tuple):
        return Node(tuple(option_node(key, item) for item in value), where)
    if isinstance(value, bool | int | float):
        return Node(value, where, raw=str(value))
    return Node(str(value), where, raw=str(value))
