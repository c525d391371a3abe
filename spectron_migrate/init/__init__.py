"""Init: writes both settings files from what it finds, and never overwrites a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from spectron_migrate.errors import InputError, MigrateError
from spectron_migrate.init.texts import Owners, mapping_text, settings_text
from spectron_migrate.mapping import load_mapping
from spectron_migrate.mem0.open import open_reader
from spectron_migrate.mem0.stores.oss_config import DEFAULT, read_mem0_config
from spectron_migrate.records import Json, Memory
from spectron_migrate.reporter import Reporter
from spectron_migrate.settings import load_settings

MOST_ROWS_READ = 20_000
"""The most rows that are read: more would take long and change little."""
CONFIG_NAMES = ("mem0.yaml", "mem0.yml", "mem0.json", "config.yaml", "config.yml", "config.json")
RAW_NAMES = ("get_all*.json", "mem0*.jsonl", "memories*.json")
MAPPING = "mapping.yaml"
_FAMILIES = (
    ("SPECTRON_ENDPOINT", "SPECTRON_CONTEXT", "SPECTRON_API_KEY"),
    ("AGENT_MEMORY_ENDPOINT", "AGENT_MEMORY_CONTEXT", "AGENT_MEMORY_API_KEY"),
    ("SURREAL_MEMORY_URL", "SURREAL_MEMORY_CONTEXT_ID", "SURREAL_MEMORY_API_KEY"),
)


@dataclass(frozen=True)
class Discovery:
    """What init found, which it writes into the settings."""

    mem0: Mapping[str, Any] | None
    """The `mem0` section for the settings; None if no Mem0 was found."""
    why: str
    """How Mem0 was found, in words."""
    variables: tuple[str, str, str]
    """Environment variables for endpoint, context and key."""
    owners: Owners | None = None
    unread: str = ""
    """Why the memories were not read."""
    unset: tuple[str, ...] = ()
    """Which of these variables are not set."""


@dataclass(frozen=True)
class InitSummary:
    """The files that were written, and what was found."""

    files: tuple[Path, ...]
    found: Discovery
    kept: tuple[Path, ...] = ()
    """Files that existed already and were left alone."""

    def to_json(self) -> dict[str, Json]:
        """The fields of `init --json`: counts, no ids."""
        owners = self.found.owners
        return {
            "files": [str(file) for file in self.files],
            "mem0": next(iter(self.found.mem0)) if self.found.mem0 else None,
            "found": self.found.why,
            "memories": owners.rows if owners else None,
            "owners": {" and ".join(ids) or "nobody": n for ids, n in owners.together.items()} if owners else {},
            "unread": self.found.unread or None,
        }


def run_init(
    *,
    settings_file: Path,
    mem0_config: str | None,
    env: Mapping[str, str],
    now: datetime,
    reporter: Reporter,
) -> InitSummary:
    """Write `settings_file` and its mapping, or the one that is missing, from what is found beside them.

    What was written is removed if it does not load. Raises InputError if both files exist already, or `mem0_config` is
    not a configuration of Mem0.
    """
    mapping_file = settings_file.with_name(MAPPING)
    kept = tuple(file for file in (settings_file, mapping_file) if os.path.lexists(file))
    if len(kept) == 2:
        raise InputError.of_all(
            [f"{file} exists already" for file in kept],
            hint="nothing is overwritten: move one away, or name another file with --config",
        )
    if settings_file in kept and mem0_config is not None:
        raise InputError(
            f"{settings_file} exists already and says which Mem0 is read",
            hint="without --mem0-config, init writes the mapping for it",
        )
    if settings_file in kept:
        found = _named_in(settings_file, env)
    else:
        found = discover(settings_file.parent, mem0_config=mem0_config, env=env)
    found = count_owners(found, settings_file.parent, now=now, reporter=reporter)
    texts = {
        settings_file: settings_text(found.mem0, found.why, found.variables),
        mapping_file: mapping_text(found.owners),
    }
    written: list[Path] = []
    try:
        for file, text in texts.items():
            if file in kept:
                continue
            _create(file, text)
            written.append(file)
        if mapping_file in written:
            load_mapping(mapping_file)
        if settings_file in written:
            load_settings(settings_file, env={}, overrides={})
    except BaseException:
        for file in written:
            file.unlink()
        raise
    return InitSummary(tuple(written), found, kept)


def _named_in(settings_file: Path, env: Mapping[str, str]) -> Discovery:
    """What an existing settings file names; raises InputError if it does not load."""
    settings = load_settings(settings_file, env=env, overrides={})
    section: dict[str, Any] | None = None
    match settings.mem0:
        case None:
            pass
        case mem0 if mem0.kind == "oss":
            section = {"oss": {"config": mem0.config}}
        case mem0 if mem0.kind == "files":
            section = {"files": list(mem0.files)}
        case mem0:
            section = {mem0.kind: {}}
    return Discovery(section, f"named in {settings_file}", _FAMILIES[0], unset=_unset(_FAMILIES[0], env))


def _unset(variables: tuple[str, ...], env: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in variables if not env.get(name))


def discover(folder: Path, *, mem0_config: str | None, env: Mapping[str, str]) -> Discovery:
    """Find Mem0 and Spectron from the options, the environment and the files in `folder`."""
    mem0, why = _mem0(folder, mem0_config, env)
    variables = next((family for family in _FAMILIES if any(env.get(name) for name in family)), _FAMILIES[0])
    return Discovery(mem0, why, variables, unset=_unset(variables, env))


def count_owners(found: Discovery, folder: Path, *, now: datetime, reporter: Reporter) -> Discovery:
    """Add the owners of the memories if these can be read at no cost; otherwise add the reason why not."""
    if found.mem0 is None:
        return found
    if not {"oss", "files"} & set(found.mem0):
        return replace(found, unread="init does not read from a service: `spectron-migrate export` does")
    owners = Owners()
    reporter.stage("reading the memories")
    try:
        with open_reader(_from(folder, found.mem0), now=now) as reader:
            rows = iter(reader.rows())
            for row in islice(rows, MOST_ROWS_READ):
                reporter.advance(1)
                if isinstance(row, Memory):
                    owners.add(row)
            owners.all = next(rows, None) is None
    except MigrateError as error:
        reporter.warn(f"the memories were not read: {error.message}")
        return replace(found, unread=error.message)
    return replace(found, owners=owners)


def _from(folder: Path, mem0: Mapping[str, Any]) -> dict[str, Any]:
    """The section, with its paths resolved from `folder`, which paths in the settings are relative to."""
    if "files" in mem0:
        return {"files": [str(folder / pattern) for pattern in mem0["files"]]}
    config = mem0["oss"]["config"]
    return {"oss": {"config": config if config == DEFAULT else str(folder / config)}}


def _mem0(folder: Path, named: str | None, env: Mapping[str, str]) -> tuple[dict[str, Any] | None, str]:
    if named == "-":
        raise InputError(
            "a configuration from standard input cannot be named in a settings file",
            hint="save it to a file, and name that",
        )
    if named is not None:
        read_mem0_config(named)
        config = named if named == DEFAULT else _relative(Path(named), folder)
        return {"oss": {"config": config}}, "named by --mem0-config"
    for name in CONFIG_NAMES:
        if _is_config(folder / name):
            return {"oss": {"config": name}}, f"{name} is a configuration of Mem0"
    if env.get("MEM0_BASE_URL"):
        keyed = {"api_key": "${MEM0_API_KEY}"} if env.get("MEM0_API_KEY") else {}
        return {"server": {"base_url": "${MEM0_BASE_URL}", **keyed}}, "MEM0_BASE_URL is set"
    if env.get("MEM0_API_KEY"):
        return {"platform": {"api_key": "${MEM0_API_KEY}"}}, "MEM0_API_KEY is set"
    for pattern in RAW_NAMES:
        if any(folder.glob(pattern)):
            return {"files": [pattern]}, f"there are files {pattern}"
    return None, "no Mem0 was found here"


def _relative(path: Path, folder: Path) -> str:
    whole, home = path.resolve(), folder.resolve()
    return str(whole.relative_to(home)) if whole.is_relative_to(home) else str(whole)


def _is_config(path: Path) -> bool:
    """Whether a file has a `vector_store`: a `config.yaml` may belong to anything."""
    try:
        return path.is_file() and "vector_store" in read_mem0_config(str(path))
    except InputError:
        return False


def _create(file: Path, text: str) -> None:
    """Create a file; raises InputError if it exists, even if it was created only now."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as written:
            written.write(text)
    except OSError as error:
        file.unlink()
        raise InputError(f"{file} cannot be written: {error.strerror}") from error
