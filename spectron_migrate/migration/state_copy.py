"""`state copy`: moves a state as a whole from one place to another, or makes a backup of it.

A move holds the source alone, fills the target, compares both, seals the source and then removes the mark of the
target. The seal decides: until the source is sealed, it is the state; after that, the target is. See `state/seal.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from spectron_migrate.database.digests import TableDigest
from spectron_migrate.database.interface import Database
from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.errors import InputError, MigrateError
from spectron_migrate.ledger import copying
from spectron_migrate.migration.state_places import StatePlace, no_state, open_place
from spectron_migrate.records import Json, format_time, name_first
from spectron_migrate.reporter import Reporter
from spectron_migrate.state import seal
from spectron_migrate.state.contents import StateContents
from spectron_migrate.state.processes import fold
from spectron_migrate.state.seal import MARK, SEAL, Move, StateMoved


@dataclass(frozen=True, slots=True)
class CopiedState:
    """The result of a complete copy."""

    source: str
    target: str
    tables: tuple[TableDigest, ...]
    """What both places hold; empty if an earlier run had copied everything."""
    shards: int = 0
    """How many ledgers of shards were gathered."""
    is_backup: bool = False

    def to_json(self) -> dict[str, Json]:
        """As `--json` prints it."""
        return {
            "from": self.source,
            "to": self.target,
            "backup": self.is_backup,
            "sealed": not self.is_backup,
            "shards": self.shards,
            "tables": [{"name": each.name, "rows": each.rows, "sha256": each.sha256} for each in self.tables],
        }


def move_state(
    source: Path | PostgresLocation, target: Path | PostgresLocation, *, now: Callable[[], datetime], reporter: Reporter
) -> CopiedState:
    """Copy a whole state, and seal the place that it left.

    Raises StateBusy while somebody uses either place, and InputError for a target that is not empty.
    """
    _refuse_nested(source, target)
    with suppress(StateMoved):
        _fold(source)
    with open_place(source) as left, left.alone(), open_place(target, create=True) as filled, filled.alone():
        seal_of_source, mark = Move.read(left.read, SEAL), Move.read(filled.read, MARK)
        if seal_of_source is not None:
            if seal_of_source.target != seal.name_of(target):
                seal.refuse_left(left.read)
            if mark is None:
                left.leave()
                return CopiedState(left.name, filled.name, ())
            tables = _compare(left, filled, now=now())
        else:
            _refuse_unfinished(left.read)
            _refuse_nothing(left)
            move = _begin(mark, source, target, filled, now=now())
            tables = _fill(left, filled, now=now(), reporter=reporter)
            left.write(SEAL, move.to_bytes())
        left.leave()
        filled.remove(MARK)
        return CopiedState(left.name, filled.name, tables, shards=left.shards)


def back_up_state(
    source: Path | PostgresLocation, target: Path | PostgresLocation, *, now: Callable[[], datetime], reporter: Reporter
) -> CopiedState:
    """Copy a state as it is at one moment, while others go on using it; a replay from the copy asks for an adoption.

    Raises InputError for a target that is not empty.
    """
    _refuse_nested(source, target)
    with open_place(source) as read, open_place(target, create=True) as filled, filled.alone():
        seal.refuse_left(read.read)
        _refuse_nothing(read)
        began = now()
        _begin(Move.read(filled.read, MARK), source, target, filled, now=began)
        tables = _fill(read, filled, now=began, reporter=reporter, is_backup=True)
        filled.remove(MARK)
        return CopiedState(read.name, filled.name, tables, shards=read.shards, is_backup=True)


def _refuse_nested(source: Path | PostgresLocation, target: Path | PostgresLocation) -> None:
    if isinstance(source, Path) and isinstance(target, Path):
        here, there = source.resolve(), target.resolve()
        if here.is_relative_to(there) or there.is_relative_to(here):
            raise InputError(f"{source} and {target} are not two places", hint="copy it beside the directory")
    elif source == target:
        raise InputError(f"{source} and {target} are not two places")


def _fold(place: Path | PostgresLocation) -> None:
    """Add the counts of dead processes to the past, because in a database they would count as live for a minute."""
    if isinstance(place, Path):
        if place.is_dir():
            fold(place)
        return
    from spectron_migrate.state.postgres import PostgresState

    with closing(PostgresState(place)) as store:
        fold(store)


def _refuse_nothing(place: StatePlace) -> None:
    if place.is_empty():
        raise no_state(place.name)


def _refuse_unfinished(read: seal.Read) -> None:
    if read(MARK) is not None:
        seal.refuse_left(read)


def _begin(
    mark: Move | None,
    source: Path | PostgresLocation,
    target: Path | PostgresLocation,
    filled: StatePlace,
    *,
    now: datetime,
) -> Move:
    """Mark the target, and remove what an earlier run of this copy left there."""
    move = Move.between(source, target, now=format_time(now))
    if mark is None:
        if not filled.is_empty():
            raise InputError(
                f"{filled.name} is not empty: a state is copied to a place of its own",
                hint="name another directory, or another schema: postgresql://…?schema=NAME",
            )
    elif (mark.source, mark.source_host) != (move.source, move.source_host):
        seal.refuse_left(filled.read)
    filled.write(MARK, move.to_bytes())
    filled.clear()
    return move


def _fill(
    source: StatePlace, filled: StatePlace, *, now: datetime, reporter: Reporter, is_backup: bool = False
) -> tuple[TableDigest, ...]:
    with source.reading(now) as (state, ledger):
        if is_backup:
            state = state.with_all_unknown(now)
        reporter.info(f"copying {source.name} to {filled.name}")
        filled.fill(state, ledger)
        expected = _digests(state, ledger)
    found = _found(filled, now)
    _refuse_difference(source, filled, expected, found)
    if is_backup and ledger is not None:
        filled.note_backup(format_time(now))
    return tuple(found)


def _compare(source: StatePlace, filled: StatePlace, *, now: datetime) -> tuple[TableDigest, ...]:
    expected, found = _found(source, now), _found(filled, now)
    _refuse_difference(source, filled, expected, found)
    return tuple(found)


def _found(place: StatePlace, now: datetime) -> list[TableDigest]:
    with place.reading(now) as (state, ledger):
        return _digests(state, ledger)


def _digests(state: StateContents, ledger: Database | None) -> list[TableDigest]:
    return [*state.digests(), *(copying.digests_of(ledger) if ledger is not None else [])]


def _refuse_difference(
    source: StatePlace, filled: StatePlace, expected: list[TableDigest], found: list[TableDigest]
) -> None:
    differ = [each.name for each in {*expected} ^ {*found}]
    if differ:
        raise MigrateError(
            f"{filled.name} does not hold what {source.name} does: {name_first(sorted(set(differ)))}",
            hint=f"the state is still in {source.name}; remove what is in {filled.name} and copy again",
        )
