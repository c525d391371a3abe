"""Mem0: its version, its store, and what is dangerous about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from spectron_migrate.doctor.check import Check, failed
from spectron_migrate.errors import ExitCode, MigrateError
from spectron_migrate.records import counted

ERASES_UP_TO = (1, 0, 7)
"""mem0ai up to this version erases an embedded Qdrant folder that it opens without `on_disk: true`."""


_NAME_IT = "spectron-migrate init --mem0-config FILE writes it into spectron-migrate.yaml"


def check_mem0(section: Mapping[str, Any] | None, *, version: str | None, now: datetime) -> Iterator[Check]:
    """Open the source as an export would, and count; nothing of it is changed. `version`: of the installed mem0ai."""
    if section is None:
        yield Check("mem0", "unknown", "which Mem0 is to be read is not said", _NAME_IT)
        return
    if "oss" in section:
        try:
            yield from _dangers(section, version)
        except MigrateError as error:
            yield failed("mem0", error)
            return
    yield _readable(section, now)


def _readable(section: Mapping[str, Any], now: datetime) -> Check:
    from spectron_migrate.mem0.open import open_reader

    try:
        with open_reader(section, now=now) as reader:
            count = reader.native_count()
            history = reader.history is not None
            place = f"{reader.info.kind} {reader.info.place}"
    except MigrateError as error:
        return failed("mem0", error)
    if count == 0:
        return Check("mem0", "fail", f"{place} is empty", "is it the right path, collection and account?")
    rows = counted(count, "row") if count is not None else "readable; it does not say how many rows it has"
    if not history and section.get("oss") is not None:
        hint = "its path is history_db_path in Mem0's config; without it, times of edited memories are guesses"
        return Check("mem0", "warn", f"{place}: {rows}, and no history beside it", hint)
    return Check("mem0", "ok", f"{place}: {rows}")


def _dangers(section: Mapping[str, Any], version: str | None) -> Iterator[Check]:
    from spectron_migrate.mem0.open import read_mem0_config
    from spectron_migrate.mem0.stores.oss_config import vector_store

    named = section["oss"].get("config") or "default"
    store = vector_store(read_mem0_config(str(named)))
    if version is None:
        yield Check("mem0 version", "unknown", "mem0ai is not installed here, so dual-verify cannot ask Mem0")
    elif store.provider == "qdrant" and store.path is not None and not store.settings.get("on_disk"):
        if _numbers(version) <= ERASES_UP_TO:
            said = f"mem0ai {version} erases {store.path} when an application opens it without `on_disk: true`"
            hint = "back the folder up, and set on_disk: true in the application's config before it starts again"
            yield Check("mem0 version", "fail", said, hint, ExitCode.NOT_LEGAL)
        else:
            said = f"mem0ai {version}; with 1.0.7 and older, opening this store without `on_disk: true` erases it"
            yield Check("mem0 version", "warn", said, "set on_disk: true wherever the folder is opened")
    else:
        yield Check("mem0 version", "ok", f"mem0ai {version}, {store.provider}")


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:3]
    return tuple(int("".join(letter for letter in part if letter.isdigit()) or 0) for part in parts)
