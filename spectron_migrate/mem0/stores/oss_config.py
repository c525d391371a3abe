"""Reads and checks a configuration for `Memory.from_config`, and never uses it to construct Mem0.

Only the vector store and the history matter; models and embedders are ignored, so that an export needs no key.
"""

from __future__ import annotations

import json
import os
import re
import sys
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.addresses import without_credentials
from spectron_migrate.mem0.stores.config_spellings import TYPESCRIPT, TYPESCRIPT_ONLY, python_config
from spectron_migrate.mem0.stores.store_settings import NAMES, PLACES
from spectron_migrate.records import SourceInfo

DEFAULT = "default"
MEMORY = "memory"
"""The default store of Mem0 for TypeScript, a SQLite file; Python's Mem0 does not have it."""

_MEMORY_FILE = "vector_store.db"
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
"""Stores that Mem0 keeps under `/tmp/<provider>` if no path is given."""

_OWN_NAMES = {"vectorize": "index_name", "supabase": "table_name"}
"""Settings of Mem0 for TypeScript that count instead of the name of the collection, which it ignores."""
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|^env:([A-Za-z_][A-Za-z0-9_]*)$")
_QDRANT_PORT = 6333
_SEARCH_ENGINES = ("elasticsearch", "opensearch")
_CREDENTIALS = ("password", "api_key", "token", "secret", "access_key")


@dataclass(frozen=True, slots=True)
class VectorStore:
    """The `vector_store` section with Mem0's defaults filled in."""

    provider: str
    collection: str
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def path(self) -> Path | None:
        """The folder, or TypeScript's file, of an embedded store, resolved from the working directory as Mem0 does."""
        if self.provider == MEMORY:
            return _memory_file(self.settings.get("db_path"))
        if self.provider not in _EMBEDDED or self.url is not None:
            return None
        given = self.settings.get("path")
        if isinstance(given, str) and given:
            return Path(os.path.realpath(given))
        return Path(f"/tmp/{self.provider}")  # noqa: S108  (Mem0's own default)

    @property
    def url(self) -> str | None:
        """The address of a store server, without credentials; None for an embedded store."""
        if self.provider in _SEARCH_ENGINES:
            return self._search_engine()
        url, host, port = (self.settings.get(name) for name in ("url", "host", "port"))
        if isinstance(url, str) and url:
            return without_credentials(self._with_defaults(url))
        if not host or (self.provider in _EMBEDDED and not port):
            return self._default_server()
        return without_credentials(self._with_defaults(f"{host}:{port}" if port else str(host)))

    def _default_server(self) -> str | None:
        """With a key and no address, Mem0 uses Chroma's cloud or a Qdrant server on this machine, not a folder."""
        if self.provider == "chroma" and self.settings.get("api_key") and self.settings.get("tenant"):
            return "https://api.trychroma.com"
        if self.provider == "qdrant" and (self.settings.get("api_key") or self.settings.get("https") is not None):
            return self._with_defaults("localhost")
        return None

    def _search_engine(self) -> str:
        """Elasticsearch's host has its scheme, and a cloud id stands for all; OpenSearch has `use_ssl`."""
        cloud = self.settings.get("cloud_id")
        if cloud:
            domain, _, cluster = b64decode(str(cloud).rpartition(":")[2]).decode().partition("$")
            return f"https://{cluster.partition('$')[0]}.{domain}"
        host, port = str(self.settings.get("host") or "localhost"), self.settings.get("port") or 9200
        if "://" not in host:
            host = f"{'https' if self.settings.get('use_ssl') else 'http'}://{host}"
        parts = urlsplit(host)
        return without_credentials(host if parts.port else f"{parts.scheme}://{parts.netloc}:{port}{parts.path}")

    def _with_defaults(self, url: str) -> str:
        """Add scheme and port as the store's own client does. Qdrant's uses https if there is a key."""
        if "://" not in url:
            https = self.settings.get("https")
            secure = bool(self.settings.get("api_key")) if https is None else bool(https)
            url = f"{'https' if secure else 'http'}://{url}"
        if self.provider == "qdrant" and urlsplit(url).port is None:
            parts = urlsplit(url)
            url = urlunsplit((parts.scheme, f"{parts.netloc}:{_QDRANT_PORT}", parts.path, "", ""))
        return url


def read_mem0_config(path_or_default: str) -> dict[str, Any]:
    """The configuration in a JSON or YAML file, from standard input (`-`), or that of `Memory()` (`default`).

    Raises InputError if the file is missing, unreadable, or not a configuration of Mem0.
    """
    if path_or_default == DEFAULT:
        return {}
    name = "standard input" if path_or_default == "-" else path_or_default
    try:
        text = sys.stdin.read() if path_or_default == "-" else _decoded(Path(path_or_default).read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"there is no Mem0 configuration at {name}",
            hint="name the JSON or YAML that your application passes to Memory.from_config, or `default`",
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"the Mem0 configuration {name} cannot be read: {error}",
            hint="save it as UTF-8; from Windows: `iconv -f WINDOWS-1252 -t UTF-8 FILE`",
        ) from error
    except OSError as error:
        raise InputError(f"the Mem0 configuration {name} cannot be read: {error}") from error
    config = _parse(text, name)
    if not isinstance(config, dict):
        raise InputError(f"{name} is not a Mem0 configuration, but {_kind(config)}")
    converted = python_config(config, name)
    vector_store(converted, name=name)  # refuse an unusable configuration before anything else happens
    return converted


def _decoded(data: bytes) -> str:
    """UTF-8, or UTF-16 with its byte order mark, as Windows PowerShell writes it."""
    return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")


def vector_store(config: Mapping[str, Any], *, name: str = "the Mem0 configuration") -> VectorStore:
    """The vector store it names, with Mem0's defaults; raises InputError for one that Mem0 does not have."""
    section = config.get("vector_store", {})
    if not isinstance(section, Mapping):
        raise InputError(f"vector_store in {name} is {_kind(section)}, not a section")
    provider = section.get("provider", "qdrant")
    if provider not in (*PROVIDERS, *TYPESCRIPT_ONLY):
        raise InputError(
            f"vector_store.provider in {name} is {provider!r}, which Mem0 does not have",
            hint=f"it has {', '.join((*PROVIDERS, *TYPESCRIPT_ONLY))}",
        )
    settings = section.get("config")
    if settings is None:
        settings = {}
    if not isinstance(settings, Mapping):
        raise InputError(f"vector_store.config in {name} is {_kind(settings)}, not a section")
    settings = {key: from_environment(value, f"vector_store.config.{key}", name) for key, value in settings.items()}
    _check_place(settings, name)
    is_typescript = bool(config.get(TYPESCRIPT))
    if is_typescript and provider == "pgvector" and not settings.get("connection_string"):
        settings.setdefault("dbname", "vector_store")
    default = "memories" if is_typescript or provider == MEMORY else "mem0"
    own = settings.get(_OWN_NAMES.get(provider, ""))
    collection = own or settings.get("collection_name") or settings.get("index_name") or default
    return VectorStore(provider=provider, collection=collection, settings=settings)


def _check_place(settings: Mapping[str, Any], name: str) -> None:
    """Raise InputError for an invalid address or name, because Mem0's default store would be read instead."""
    for key in (*PLACES, *NAMES):
        value = settings.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            wanted = "a name" if key in NAMES else "an address"
            given = "empty" if isinstance(value, str) else f"{_kind(value)}, not {wanted}"
            raise InputError(f"vector_store.config.{key} in {name} is {given}")
    places = [key for key in PLACES if key in settings]
    if places and all(settings[key] is None for key in places):
        raise InputError(
            f"vector_store.config in {name} has `{places[0]}` without a value",
            hint="give it one, or leave the key out if you mean the store that Mem0 opens by default",
        )


def mem0_source_info(config: Mapping[str, Any]) -> SourceInfo:
    """The Mem0 that this configuration names, without opening it and without credentials."""
    store = vector_store(config)
    if store.provider == "supabase" and not store.settings.get("connection_string"):
        where = without_credentials(str(store.settings.get("supabase_url") or ""))
    elif store.provider == "oracledb":
        where = oracle_location(store.settings)
    elif store.provider in ("pgvector", "supabase"):
        where = _postgres_location(store.settings)
    else:
        where = store.url or (str(store.path) if store.path is not None else _other_location(store.settings))
    return SourceInfo(
        kind="oss",
        place=f"{store.provider}:{where}:{store.collection}",
        provider=store.provider,
        version=_installed_version(),
    )


def _memory_file(named: Any) -> Path:
    """TypeScript's file of memories; older versions kept it in the working directory."""
    if isinstance(named, str) and named:
        return Path(os.path.realpath(os.path.expanduser(named)))
    home = Path(os.path.expanduser("~")) / ".mem0" / _MEMORY_FILE
    here = Path(os.path.realpath(_MEMORY_FILE))
    return here if here.is_file() and not home.is_file() else home


def _parse(text: str, name: str) -> Any:
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


def from_environment(value: Any, field_name: str, name: str) -> Any:
    """Replace `${NAME}`, or OpenMemory's `env:NAME`, by the environment variable: the file then needs no password."""
    if isinstance(value, Mapping):
        return {key: from_environment(one, f"{field_name}.{key}", name) for key, one in value.items()}
    if not isinstance(value, str):
        return value

    def filled(reference: re.Match[str]) -> str:
        variable = reference[1] or reference[2]
        if variable not in os.environ:
            raise InputError(
                f"{field_name} in {name} refers to the environment variable {variable}, which is not set",
                hint=f"set {variable}",
            )
        return os.environ[variable]

    return _VARIABLE.sub(filled, value)


def _postgres_location(settings: Mapping[str, Any]) -> str:
    """Host, port and database from a connection URL, from libpq's keywords, or from Mem0's own settings."""
    whole = settings.get("connection_string")
    if isinstance(whole, str) and "://" in whole:
        url = urlsplit(whole)
        parts: Mapping[str, Any] = {
            "host": url.hostname,
            "port": url.port,
            "dbname": url.path.strip("/"),
            **dict(parse_qsl(url.query)),
        }
    elif isinstance(whole, str):
        parts = dict(part.split("=", 1) for part in whole.split() if "=" in part)
    else:
        parts = settings
    host, port = parts.get("host") or "localhost", parts.get("port") or 5432
    return f"postgresql://{host}:{port}/{parts.get('dbname') or 'postgres'}"


def oracle_location(settings: Mapping[str, Any]) -> str:
    """User, whose schema has the table, and address of a database of Oracle, without the password."""
    given = settings.get("connection_params")
    parts = given if isinstance(given, Mapping) else {}
    address = str(parts.get("dsn") or "").rpartition("@")[2]
    if not address:
        name = parts.get("service_name") or parts.get("sid") or ""
        address = f"{parts.get('host') or 'localhost'}:{parts.get('port') or 1521}/{name}"
    user = parts.get("user") or str(parts.get("dsn") or "").partition("@")[0].partition("/")[0]
    return f"{str(user).partition('/')[0]}@{address}" if user else address


def _other_location(settings: Mapping[str, Any]) -> str:
    """The location of a store without a URL: all its settings except credentials and models."""
    parts = {
        key: without_secret(value) if isinstance(value, str) else value
        for key, value in settings.items()
        if isinstance(value, str | int) and not any(word in key for word in _CREDENTIALS) and "model" not in key
    }
    for name in ("collection_name", *_OWN_NAMES.values()):
        parts.pop(name, None)
    return ",".join(f"{key}={parts[key]}" for key in sorted(parts))


def without_secret(value: str) -> str:
    """An address without user, password and options; other text as it is."""
    scheme, separator, rest = value.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}" if separator else value


def _installed_version() -> str | None:
    try:
        return version("mem0ai")
    except PackageNotFoundError:
        return None


def _kind(value: Any) -> str:
    names = {dict: "a section", list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
