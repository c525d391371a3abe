"""A configuration as `Memory.from_config` takes it: read, checked for what an export needs, never run.

Only the vector store and the history matter here; models and embedders are not looked at, so that an export
needs no key.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from spectron_migrate.errors import InputError
from spectron_migrate.records import SourceInfo

DEFAULT = "default"
PROVIDERS = (
    "qdrant",
    "chroma",
    "pgvector",
    "pinecone",
    "mongodb",
    "milvus",
    "baidu",
    "cassandra",
    "neptune",
    "upstash_vector",
    "azure_ai_search",
    "azure_mysql",
    "redis",
    "valkey",
    "databricks",
    "elasticsearch",
    "vertex_ai_vector_search",
    "opensearch",
    "supabase",
    "weaviate",
    "faiss",
    "langchain",
    "s3_vectors",
    "turbopuffer",
    "oracledb",
)
_EMBEDDED = ("qdrant", "faiss", "chroma")
"""Stores that Mem0 keeps under `/tmp/<provider>` where no path is given."""

_QDRANT_PORT = 6333
_CREDENTIALS = ("password", "api_key", "token", "secret", "access_key")


@dataclass(frozen=True, slots=True)
class VectorStore:
    """The `vector_store` section with Mem0's defaults filled in."""

    provider: str
    collection: str
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def path(self) -> Path | None:
        """The folder of an embedded store, as Mem0 resolves it: from the directory the process runs in."""
        if self.provider not in _EMBEDDED or self.url is not None:
            return None
        given = self.settings.get("path")
        if isinstance(given, str) and given:
            return Path(os.path.realpath(given))
        return Path(f"/tmp/{self.provider}")  # noqa: S108  (Mem0's own default)

    @property
    def url(self) -> str | None:
        """Where a store that is served listens, without a credential; None for an embedded one."""
        url, host, port = (self.settings.get(name) for name in ("url", "host", "port"))
        if isinstance(url, str) and url:
            return without_credentials(self._with_defaults(url))
        if not host or (self.provider in _EMBEDDED and not port):
            return self._served_without_an_address()
        return without_credentials(self._with_defaults(f"{host}:{port}" if port else str(host)))

    def _served_without_an_address(self) -> str | None:
        """A key alone makes Mem0 leave the folder and ask a server: the cloud's, or Qdrant's on this machine."""
        if self.provider == "chroma" and self.settings.get("api_key") and self.settings.get("tenant"):
            return "https://api.trychroma.com"
        if self.provider == "qdrant" and (self.settings.get("api_key") or self.settings.get("https") is not None):
            return self._with_defaults("localhost")
        return None

    def _with_defaults(self, url: str) -> str:
        """Scheme and port as the store's own client fills them in: Qdrant's takes https where there is a key."""
        if "://" not in url:
            https = self.settings.get("https")
            secure = bool(self.settings.get("api_key")) if https is None else bool(https)
            url = f"{'https' if secure else 'http'}://{url}"
        if self.provider == "qdrant" and urlsplit(url).port is None:
            parts = urlsplit(url)
            url = urlunsplit((parts.scheme, f"{parts.netloc}:{_QDRANT_PORT}", parts.path, "", ""))
        return url


def read_mem0_config(path_or_default: str) -> dict[str, Any]:
    """The configuration in a JSON or YAML file, of standard input (`-`), or what `Memory()` uses (`default`).

    Raises InputError where the file is missing, unreadable, or holds no configuration of Mem0's.
    """
    if path_or_default == DEFAULT:
        return {}
    name = "standard input" if path_or_default == "-" else path_or_default
    try:
        text = sys.stdin.read() if path_or_default == "-" else Path(path_or_default).read_text("utf-8")
    except FileNotFoundError as error:
        raise InputError(
            f"there is no Mem0 configuration at {name}",
            hint="name the JSON or YAML your application gives to Memory.from_config, or `default`",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the Mem0 configuration {name} cannot be read: {error}") from error
    config = _parsed(text, name)
    if not isinstance(config, dict):
        raise InputError(f"{name} holds no Mem0 configuration, but {_kind(config)}")
    vector_store(config, name=name)  # refuse what no export could use, before anything else happens
    return config


def vector_store(config: Mapping[str, Any], *, name: str = "the Mem0 configuration") -> VectorStore:
    """The vector store it names, with Mem0's defaults; raises InputError where it names none that Mem0 has."""
    section = config.get("vector_store")
    if section is None:
        section = {}
    if not isinstance(section, Mapping):
        raise InputError(f"vector_store in {name} is {_kind(section)}, not a section")
    provider = section.get("provider", "qdrant")
    if provider not in PROVIDERS:
        raise InputError(
            f"vector_store.provider in {name} is {provider!r}, which Mem0 does not have",
            hint=f"it has {', '.join(PROVIDERS)}",
        )
    settings = section.get("config")
    if settings is None:
        settings = {}
    if not isinstance(settings, Mapping):
        raise InputError(f"vector_store.config in {name} is {_kind(settings)}, not a section")
    settings = {key: _from_environment(value, f"vector_store.config.{key}", name) for key, value in settings.items()}
    collection = settings.get("collection_name") or settings.get("index_name") or "mem0"
    if not isinstance(collection, str):
        raise InputError(f"vector_store.config.collection_name in {name} is {_kind(collection)}, not a name")
    return VectorStore(provider=provider, collection=collection, settings=settings)


def mem0_source_info(config: Mapping[str, Any]) -> SourceInfo:
    """Which Mem0 this configuration opens, without opening it and without a credential."""
    store = vector_store(config)
    if store.provider in ("pgvector", "supabase"):
        where = _postgres_place(store.settings)
    else:
        where = store.url or (str(store.path) if store.path is not None else _other_place(store.settings))
    return SourceInfo(
        kind="oss",
        place=f"{store.provider}:{where}:{store.collection}",
        provider=store.provider,
        version=_installed_version(),
    )


def without_credentials(url: str) -> str:
    """The URL without user, password, query and a slash at its end."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port is not None else ""
    return urlunsplit((parts.scheme.lower(), host + port, parts.path.rstrip("/"), "", ""))


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = f", line {mark.line + 1}" if mark is not None else ""
            raise InputError(f"{name}{line} is neither JSON nor YAML: {error.problem}") from error
        except (yaml.YAMLError, ValueError) as error:
            raise InputError(f"{name} is neither JSON nor YAML: {error}") from error


def _from_environment(value: Any, field_name: str, name: str) -> Any:
    """`${NAME}` in a YAML stands for the environment, so that no password need be written down."""
    if not (isinstance(value, str) and value.startswith("${") and value.endswith("}")):
        return value
    variable = value[2:-1]
    if variable not in os.environ:
        raise InputError(
            f"{field_name} in {name} asks for the environment variable {variable}, which is not set",
            hint=f"set {variable}",
        )
    return os.environ[variable]


def _postgres_place(settings: Mapping[str, Any]) -> str:
    """Host, port and database, from an address, from libpq's keywords, or from Mem0's own settings."""
    whole = settings.get("connection_string")
    if isinstance(whole, str) and "://" in whole:
        parts = urlsplit(whole)
        told: Mapping[str, Any] = {
            "host": parts.hostname,
            "port": parts.port,
            "dbname": parts.path.strip("/"),
            **dict(parse_qsl(parts.query)),
        }
    elif isinstance(whole, str):
        told = dict(part.split("=", 1) for part in whole.split() if "=" in part)
    else:
        told = settings
    host, port = told.get("host") or "localhost", told.get("port") or 5432
    return f"postgresql://{host}:{port}/{told.get('dbname') or 'postgres'}"


def _other_place(settings: Mapping[str, Any]) -> str:
    """For stores without a URL: whatever of the settings says where it is, and no credential."""
    told = {
        key: value
        for key, value in settings.items()
        if isinstance(value, str | int) and not any(word in key for word in _CREDENTIALS) and "model" not in key
    }
    told.pop("collection_name", None)
    return ",".join(f"{key}={told[key]}" for key in sorted(told))


def _installed_version() -> str | None:
    try:
        return version("mem0ai")
    except PackageNotFoundError:
        return None


def _kind(value: Any) -> str:
    names = {dict: "a section", list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
