"""Everything that a state holds besides the ledger, read from one place and written to another.

Positions in the log of calls differ between files and tables, so a copy has the lines from the oldest running call on,
and how many of them were drained. Locks, `log.jsonl`, `progress/` and `verify.db` belong to a place and stay there.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectron_migrate.database.digests import TableDigest, digest_of
from spectron_migrate.state.added_tables import COLUMNS as ADDED
from spectron_migrate.state.added_tables import DDL as ADDED_DDL
from spectron_migrate.state.added_tables import NAME as ADDED_NAME
from spectron_migrate.state.call_log import ANYBODY, CallLog, missed_at
from spectron_migrate.state.call_log import FILE as LOG
from spectron_migrate.state.directory import DirectoryState
from spectron_migrate.state.outbox import DDL as OUTBOX_DDL
from spectron_migrate.state.outbox import NAME as OUTBOX
from spectron_migrate.state.outbox import stamp
from spectron_migrate.state.outbox_before import absorb_calls
from spectron_migrate.state.routing import FILE as ROUTING
from spectron_migrate.state.routing import parse_routing
from spectron_migrate.state.seal import MARK, SEAL
from spectron_migrate.state.sqlite_tables import SqliteTables

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase

_BUSY_S = 5.0
_KEPT = ("marked", "last")
"""Entries of the outbox that are neither a position nor the name of a host."""
_HERE = ("progress/", "running/", "shard-")
"""Folders whose files are not documents of the state."""


@dataclass(frozen=True, slots=True)
class StateContents:
    """The contents of a state, read at one moment or while nobody changes it."""

    documents: list[tuple[str, bytes]] = field(default_factory=list)
    journals: list[tuple[str, int, bytes]] = field(default_factory=list)
    """Name of the journal, number of the line from 1, and the line with its newline."""
    calls: list[str] = field(default_factory=list)
    """Lines of the log of calls, from the one of the oldest running call on."""
    drained: int = 0
    """How many of them were drained."""
    outbox: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    """Unknown calls: their times, and whose memories they are about."""
    added: Mapping[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    def digests(self) -> list[TableDigest]:
        """Rows and digest of each kind."""
        outbox = [*sorted(self.outbox), ("drained", self.drained)] if self.has_outbox else []
        return [
            digest_of("documents", sorted(self.documents)),
            digest_of("journals", sorted(self.journals)),
            digest_of("calls", [(line,) for line in self.calls]),
            digest_of("outbox", outbox),
            digest_of("unknown calls", sorted(self.unknown)),
            *(digest_of(f"added {name}", self.added.get(name, [])) for name in ADDED),
        ]

    @property
    def has_outbox(self) -> bool:
        """Whether calls were ever captured."""
        return bool(self.calls or self.outbox or self.unknown)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing at all."""
        return not (self.documents or self.journals or self.has_outbox or any(self.added.values()))

    def with_all_unknown(self, at: datetime) -> StateContents:
        """The contents for a copy that misses all later calls: they count as unknown until Mem0 is read."""
        if not self.has_outbox:
            return self
        return replace(self, unknown=[*self.unknown, (stamp(at), ANYBODY.to_json())])


# -- a directory --


def read_directory(folder: Path, *, now: datetime) -> StateContents:
    """The contents of a state directory. Raises OSError or sqlite3.Error.

    Anything that depends on something else is read before it, for example the outbox before the ledger that receives
    its results.
    """
    names = sorted(_names_in(folder))
    calls, drained, outbox, unknown = _read_outbox(folder, now)
    return StateContents(
        documents=[(name, data) for name in names if name.endswith(".json") and (data := _read(folder / name))],
        journals=[
            (name, number, line)
            for name in names
            if name.endswith(".jsonl")
            for number, line in enumerate(DirectoryState(folder).lines(name), start=1)
        ],
        calls=calls,
        drained=drained,
        outbox=outbox,
        unknown=unknown,
        added=_read_added(folder),
    )


def _names_in(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.json*"):
        name = path.relative_to(folder).as_posix()
        if _is_kept(name):
            yield name


def _is_kept(name: str) -> bool:
    return not name.startswith((".", "log.jsonl", *_HERE)) and "/." not in name and name not in (SEAL, MARK)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # it has been removed in the meantime
        return None


def _read_outbox(folder: Path, now: datetime) -> tuple[list[str], int, list[tuple[str, str]], list[tuple[str, str]]]:
    meta, unknown = _read_outbox_tables(folder)
    before = absorb_calls(folder, now)
    unknown += [(stamp(at), subject.to_json()) for at, subject in before.unknown]
    if (missed := missed_at(folder)) > 0:
        unknown.append((stamp(datetime.fromtimestamp(missed, UTC)), ANYBODY.to_json()))
    calls: list[str] = []
    drained = 0
    if (folder / LOG).exists():
        with closing(CallLog(folder)) as log:
            offsets = {
                name: int(offset)
                for name in ("restart", "drained")
                for file, _, offset in [meta.get(name, "").rpartition(" ")]
                if offset and file == log.name
            }
            position = offsets.get("restart", log.first_line())
            while lines := log.lines_from(position):
                for text, after in lines:
                    if text and not text.startswith(b"filling "):
                        calls.append(text.decode("utf-8", "replace"))
                        drained += position < offsets.get("drained", 0)
                    position = after
            if log.size > position:
                calls.append("torn")
    return calls, drained, [(name, meta[name]) for name in _KEPT if name in meta], unknown


def _read_outbox_tables(folder: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    path = folder / f"{OUTBOX}.db"
    if not path.exists():
        return {}, []
    with closing(_open_snapshot(path)) as db:
        meta = {str(name): str(value) for name, value in db.execute("SELECT name, value FROM meta")}
        return meta, db.execute("SELECT at, about FROM unknown ORDER BY id").fetchall()


def _read_added(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    path = folder / f"{ADDED_NAME}.db"
    if not path.exists():
        return {}
    with closing(_open_snapshot(path)) as db:
        return {name: db.execute(_select(name, columns)).fetchall() for name, columns in ADDED.items()}


def _open_snapshot(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=30.0)
    db.execute("BEGIN")
    return db


def _select(name: str, columns: Sequence[str], prefix: str = "") -> str:
    key = columns if name == "made" else columns[:1]
    return f"SELECT {', '.join(columns)} FROM {prefix}{name} ORDER BY {', '.join(key)}"


def write_directory(folder: Path, contents: StateContents) -> None:
    """Write everything, durably, to a directory that holds none of it. Raises OSError or sqlite3.Error."""
    state = DirectoryState(folder)
    for name, data in contents.documents:
        (folder / name).parent.mkdir(mode=0o700, exist_ok=True)
        state.write(name, data, durable=True, public=name == ROUTING)
    for name, lines in _by_name(contents.journals).items():
        (folder / name).parent.mkdir(mode=0o700, exist_ok=True)
        state.write(name, b"".join(lines), durable=True)
    if contents.has_outbox:
        _write_outbox(folder, contents)
    if any(contents.added.values()):
        with closing(SqliteTables(folder / f"{ADDED_NAME}.db", ADDED_DDL, busy_s=_BUSY_S)) as tables:
            tables.change(*_insertions(contents.added))


def _by_name(journals: Sequence[tuple[str, int, bytes]]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for name, _, line in journals:
        found.setdefault(name, []).append(line)
    return found


def _write_outbox(folder: Path, contents: StateContents) -> None:
    with closing(CallLog(folder)) as log:
        restart = drained = log.size
        for number, line in enumerate(contents.calls, start=1):
            log.append(line)
            if number == contents.drained:
                drained = log.size
        log.sync()
        positions = [("restart", f"{log.name} {restart}"), ("drained", f"{log.name} {drained}")]
    with closing(SqliteTables(folder / f"{OUTBOX}.db", OUTBOX_DDL, busy_s=_BUSY_S)) as tables:
        tables.change(
            ("INSERT INTO meta(name, value) VALUES (?, ?)", [*contents.outbox, *positions]),
            ("INSERT INTO unknown(at, about) VALUES (?, ?)", contents.unknown),
        )


def clear_directory(folder: Path) -> None:
    """Remove an unfinished copy, but not its mark."""
    import shutil

    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (MARK, ".gitignore") and path.suffix != ".lock":
            path.unlink()


def is_empty_directory(folder: Path) -> bool:
    """Whether the directory holds nothing of a state."""
    if not folder.is_dir():
        return True
    names = {path.name for path in folder.iterdir() if path.suffix != ".lock"}
    return all(name in (MARK, ".gitignore") or name.startswith("log.jsonl") for name in names)


# -- Postgres --


def read_postgres(db: PostgresDatabase) -> StateContents:
    """The contents of a schema; call inside a transaction that is a snapshot."""
    meta = {row["name"]: row["value"] for row in db.execute("SELECT name, value FROM outbox_meta")}
    offsets = {
        name: int(number)
        for name in ("restart", "drained")
        for schema, _, number in [meta.get(name, "").rpartition(" ")]
        if number and schema == db.location.schema
    }
    lines = db.execute(
        "SELECT position, line FROM call_line WHERE position >= ? ORDER BY position", (offsets.get("restart", 0),)
    ).fetchall()
    documents = db.execute("SELECT name, data FROM document ORDER BY name")
    journals = db.execute("SELECT name, n, line FROM journal ORDER BY name, n")
    return StateContents(
        documents=[(row["name"], bytes(row["data"])) for row in documents if _is_kept(row["name"])],
        journals=[(row["name"], row["n"], bytes(row["line"])) for row in journals],
        calls=[row["line"] for row in lines],
        drained=sum(row["position"] < offsets.get("drained", 0) for row in lines),
        outbox=[(name, meta[name]) for name in _KEPT if name in meta],
        unknown=[tuple(row) for row in db.execute("SELECT at, about FROM outbox_unknown ORDER BY id")],
        added={
            name: [tuple(row) for row in db.execute(_select(name, columns, f"{ADDED_NAME}_"))]
            for name, columns in ADDED.items()
        },
    )


def write_postgres(db: PostgresDatabase, contents: StateContents) -> None:
    """Write everything to a schema that holds none of it; call inside a transaction."""
    db.executemany(
        "INSERT INTO document(name, data, epoch, version) VALUES (?, ?, ?, 1)",
        [(name, data, _epoch_of(name, data)) for name, data in contents.documents],
    )
    db.executemany("INSERT INTO journal(name, n, line) VALUES (?, ?, ?)", contents.journals)
    db.executemany(
        "INSERT INTO call_line(key, line) VALUES (?, ?)", [(secrets.token_hex(12), line) for line in contents.calls]
    )
    positions = [int(row[0]) for row in db.execute("SELECT position FROM call_line ORDER BY position").fetchall()]
    if contents.has_outbox:
        after = positions[-1] + 1 if positions else 1
        at = {"restart": positions[0] if positions else after, "drained": [*positions, after][contents.drained]}
        db.executemany(
            "INSERT INTO outbox_meta(name, value) VALUES (?, ?)",
            [*contents.outbox, *((name, f"{db.location.schema} {each}") for name, each in at.items())],
        )
    db.executemany("INSERT INTO outbox_unknown(at, about) VALUES (?, ?)", contents.unknown)
    for statement, rows in _insertions(contents.added, f"{ADDED_NAME}_"):
        db.executemany(statement, rows)


def _insertions(
    added: Mapping[str, list[tuple[Any, ...]]], prefix: str = ""
) -> list[tuple[str, list[tuple[Any, ...]]]]:
    return [
        (f"INSERT INTO {prefix}{name}({', '.join(ADDED[name])}) VALUES ({', '.join('?' * len(ADDED[name]))})", rows)
        for name, rows in added.items()
    ]


def _epoch_of(name: str, data: bytes) -> int:
    """The epoch of a document, because a routing never goes back to an older one."""
    if name != ROUTING:
        return 0
    try:
        return parse_routing(data).epoch
    except ValueError:
        return 0


def clear_postgres(db: PostgresDatabase) -> None:
    """Remove an unfinished copy, but not its mark; call inside a transaction."""
    for table in ("journal", "call_line", "outbox_meta", "outbox_unknown", *(f"{ADDED_NAME}_{name}" for name in ADDED)):
        db.execute(f"DELETE FROM {table}")
    db.execute("DELETE FROM document WHERE name != ?", (MARK,))
