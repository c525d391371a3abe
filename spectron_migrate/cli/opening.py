"""Opens what the settings name: the dump, Mem0, the API of Spectron."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectron_migrate.errors import InputError, WrongLedger

if TYPE_CHECKING:
    from datetime import datetime

    from spectron_migrate.dump import Dump
    from spectron_migrate.mem0.reader import Reader
    from spectron_migrate.metrics.exporter import Exporter
    from spectron_migrate.migration.replay_options import ReplayOptions
    from spectron_migrate.migration.rounds import CatchUpSettings
    from spectron_migrate.settings import Mem0Settings, Settings
    from spectron_migrate.spectron.api import SpectronApi
    from spectron_migrate.state.store import StateStore


def open_dump(paths: list[Path]) -> Dump:
    """A dump directory or raw Mem0 files; raises InputError naming every path that does not exist."""
    from spectron_migrate.dump import open_any

    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError.of_all(
            [f"there is no dump at {path}" for path in missing],
            hint="spectron-migrate export makes one; --dump takes any raw Mem0 file too",
        )
    return open_any(paths)


def open_api(settings: Settings, *, max_connections: int) -> SpectronApi:
    """The API of the Spectron in the settings; raises InputError or KeyRefused if they lack anything."""
    from spectron_migrate.spectron.api import SpectronApi

    access = settings.spectron.require()
    return SpectronApi(
        access.endpoint,
        access.context,
        api_key=access.api_key.reveal(),
        timeout_s=access.timeout_s,
        max_connections=max_connections,
    )


@contextmanager
def exporting(
    settings: Settings, state: StateStore, mapping: str, *, warn: Callable[[str], None]
) -> Iterator[Exporter | None]:
    """Export metrics during the block, if the settings say so; see `metrics.exporter.exporting`."""
    if not settings.metrics.is_on:
        yield None
        return
    from spectron_migrate.metrics.exporter import exporting

    with exporting(settings, state, mapping, warn=warn) as exporter:
        yield exporter


def mem0_section(mem0: Mem0Settings) -> dict[str, Any]:
    """The section `mem0` in the form that `mem0.open` takes; raises InputError or KeyRefused if it lacks anything."""
    match mem0.kind:
        case "oss":
            return {"oss": {"config": mem0.config}}
        case "files":
            return {"files": list(mem0.files)}
        case kind:
            return {kind: {"base_url": mem0.require_base_url(), "api_key": mem0.require_key().reveal()}}


def migration_of(settings: Settings, state: StateStore) -> str:
    """The migration id for a cutover: that of the ledger, or the one that the first replay will give it.

    Raises WrongLedger if the ledger belongs to another migration, and InputError if the settings name no Mem0, one that
    cannot be followed, or no context.
    """
    from spectron_migrate.ledger import Ledger, migration_id
    from spectron_migrate.ledger.cutover_note import refuse_lost_journal
    from spectron_migrate.mem0.open import require_followable, source_info
    from spectron_migrate.state.journal import read_journal

    if settings.mem0 is None or settings.spectron.context is None:
        raise InputError(
            "a cutover needs to know its Mem0 and its context",
            hint="set SPECTRON_CONTEXT, and the section `mem0` of spectron-migrate.yaml",
        )
    section = mem0_section(settings.mem0)
    require_followable(section)
    expected = migration_id(settings.spectron.context, source_info(section).identity)
    if not Ledger.exists(state):
        return expected
    with Ledger.open_for_reading(state) as ledger:
        refuse_lost_journal(ledger, ever_began=read_journal(state).state.ever_began, after="complete")
        found = ledger.migration()
    if found is not None and found.id != expected:
        raise WrongLedger(
            f"the ledger in {state} belongs to context {found.context}, source {found.source}, which the"
            " settings do not name",
            hint="is --state right? each migration has its own",
        )
    return expected


def catch_up_settings(settings: Settings, state: StateStore, options: ReplayOptions | None = None) -> CatchUpSettings:
    """What a round of catching up reads and writes, and how fast.

    Raises InputError if the settings do not say which Mem0 to follow, KeyRefused without a key.
    """
    from spectron_migrate.mapping import load_mapping
    from spectron_migrate.mem0.open import open_reader, require_followable
    from spectron_migrate.mem0.state_mark import state_mark
    from spectron_migrate.migration.rounds import CatchUpSettings

    settings.spectron.require()
    if settings.mem0 is None:
        raise InputError(
            "no Mem0 is named that could be followed",
            hint="name it in the section `mem0` of spectron-migrate.yaml",
        )
    section = mem0_section(settings.mem0)
    require_followable(section)

    def open_source(now: datetime) -> Reader:
        return open_reader(section, now=now)

    return CatchUpSettings(
        state=state,
        dump=settings.dump,
        mapping=load_mapping(settings.mapping),
        open_reader=open_source,
        state_mark=lambda now_ns: state_mark(section, now_ns=now_ns),
        settle_s=settings.cutover.settle_s,
        max_lag_s=settings.cutover.max_lag_s,
        reconcile_s=settings.cutover.reconcile_s,
        max_in_flight=options.max_in_flight if options else settings.replay.max_in_flight,
        max_rps=options.max_rps if options else settings.replay.max_rps,
        into_existing=options.into_existing if options else False,
        accept_expiry=options.accept_expiry if options else False,
    )
