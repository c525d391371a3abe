"""Checks Mem0: its version and its store, and what can go wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from spectron_migrate.doctor.check import Check, failed
from spectron_migrate.errors import ExitCode, MigrateError, Unreachable
from spectron_migrate.records import Memory, counted

LAST_ERASING_VERSION = (1, 0, 7)
"""mem0ai up to this version erases an embedded Qdrant folder when it opens it without `on_disk: true`."""

FIRST_ROWS = 20
"""How many rows are read, to find one with an owner that a question can be about."""

_SAVED_ANSWERS = "(dual-verify needs it; --mem0-results takes answers that were saved elsewhere)"
_NAME_THE_SOURCE = (
    "name it in spectron-migrate.yaml: `mem0: {oss: {config: FILE}}`; where there is no such file yet, spectron-migrate"
    " init --mem0-config FILE writes it"
)


def check_mem0(section: Mapping[str, Any] | None, *, version: str | None, now: datetime) -> Iterator[Check]:
    """Open the source as an export would, count its rows, read the first ones, and ask Mem0 a question about one.

    Nothing in it is changed: the question goes to Mem0 on a copy with that one memory.

    `section`: `mem0` of the settings; `version`: of the installed mem0ai, None if it is not installed.
    """
    if section is None:
        yield Check("mem0", "unknown", "the settings do not say which Mem0 to read", _NAME_THE_SOURCE)
        return
    if "oss" in section:
        try:
            yield _check_version(section, version)
        except MigrateError as error:
            yield failed("mem0", error)
            return
    first: list[Memory] = []
    yield _check_readable(section, now, first)
    if "oss" in section and version is not None and first:
        yield from _check_search(section, first[0])


def _check_search(section: Mapping[str, Any], memory: Memory) -> Iterator[Check]:
    """Ask Mem0 one real question, about one memory, to see whether the embedder that dual-verify needs answers."""
    from spectron_migrate.files.scratch import Scratch
    from spectron_migrate.mem0.dump_search import open_dump_search
    from spectron_migrate.mem0.open import read_mem0_config
    from spectron_migrate.mem0.stores.config_spellings import TYPESCRIPT
    from spectron_migrate.mem0.stores.oss_config import MEMORY, vector_store

    config = read_mem0_config(str(section["oss"].get("config") or "default"))
    ids = {name: value for name, value in memory.entity_ids.items() if name in ("user_id", "agent_id", "run_id")}
    if config.get(TYPESCRIPT) or vector_store(config).provider == MEMORY or not ids:
        return
    try:
        with Scratch() as scratch, open_dump_search(config, [memory], scratch=scratch) as search:
            search.search("What do you know?", top_k=1, **ids)
            finding = f"a question was answered by {search.describe().split(', on a copy')[0]}"
    except Unreachable as error:
        yield Check("mem0 search", "fail", error.message, f"{error.hint} {_SAVED_ANSWERS}", error.exit_code)
    except MigrateError as error:
        yield Check("mem0 search", "warn", error.message, f"{error.hint or ''} {_SAVED_ANSWERS}".strip())
    else:
        yield Check("mem0 search", "ok", finding)


def _check_readable(section: Mapping[str, Any], now: datetime, first: list[Memory]) -> Check:
    """Whether rows can be read; the first memory with an owner of the first rows goes into `first`."""
    from spectron_migrate.mem0.open import open_reader
    from spectron_migrate.mem0.stores.listed import ListedReader

    try:
        with open_reader(section, now=now) as reader:
            count = reader.native_count()
            rows_read = list(islice(reader.rows(), FIRST_ROWS)) if "oss" in section else []
            gives_rows = "oss" not in section or bool(rows_read)
            first += [row for row in rows_read if isinstance(row, Memory) and row.state == "active" and row.entity_ids]
            may_write = reader.may_write() if isinstance(reader, ListedReader) else None
            history = reader.history is not None
            place = f"{reader.info.kind} {reader.info.place}"
    except MigrateError as error:
        return failed("mem0", error)
    if count == 0:
        return Check("mem0", "fail", f"{place} is empty", "is it the right path, collection and account?")
    if not gives_rows:
        finding = f"{place} reads as empty, but counts {counted(count, 'row') if count is not None else 'nothing'}"
        return Check("mem0", "fail", finding, "may the key read rows, and not only count them?", ExitCode.INCOMPLETE)
    rows = counted(count, "row") if count is not None else "readable; it does not report how many rows it has"
    if may_write:
        rows += "; this key may write as well, which an export does not need"
    if not history and section.get("oss") is not None:
        hint = "its path is history_db_path in Mem0's config; without it, the times of edited memories are guesses"
        return Check("mem0", "warn", f"{place}: {rows}, and no history database", hint)
    return Check("mem0", "ok", f"{place}: {rows}")


def _check_version(section: Mapping[str, Any], version: str | None) -> Check:
    """Warn of versions of mem0ai that erase the store that they open."""
    from spectron_migrate.mem0.open import read_mem0_config
    from spectron_migrate.mem0.stores.config_spellings import TYPESCRIPT
    from spectron_migrate.mem0.stores.oss_config import vector_store

    config = section["oss"].get("config") or "default"
    mem0_config = read_mem0_config(str(config))
    store = vector_store(mem0_config)
    erases_when_opened = store.provider == "qdrant" and store.path is not None and not store.settings.get("on_disk")
    if erases_when_opened and TYPESCRIPT in mem0_config:
        finding = f"Mem0 for TypeScript erases {store.path} when an application opens it without `onDisk: true`"
        return Check("mem0 version", "warn", finding, "back up the folder, and set onDisk: true in every config of it")
    if version is None:
        finding = "mem0ai is not installed here, so dual-verify cannot ask Mem0"
        return Check("mem0 version", "unknown", finding)
    if not erases_when_opened:
        return Check("mem0 version", "ok", f"mem0ai {version}, {store.provider}")
    if _version_tuple(version) <= LAST_ERASING_VERSION:
        finding = f"mem0ai {version} erases {store.path} when an application opens it without `on_disk: true`"
        hint = "back up the folder, and set on_disk: true in the application's config before it starts again"
        return Check("mem0 version", "fail", finding, hint, ExitCode.NOT_LEGAL)
    finding = f"mem0ai {version}; versions up to 1.0.7 erase this store when they open it without `on_disk: true`"
    return Check("mem0 version", "warn", finding, "set on_disk: true wherever the folder is opened")


def _version_tuple(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:3]
    return tuple(int("".join(letter for letter in part if letter.isdigit()) or 0) for part in parts)
