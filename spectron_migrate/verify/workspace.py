"""What a verification knows while it runs, in one private file of the state directory.

The receipts of all ledgers are copied here once, indexed by session, scope, id and text, so that memory stays
flat; findings and what is done are kept here too, so that a run which was stopped goes on. The file holds
texts: it has mode 0600, and a run that ends removes it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from spectron_migrate.files.locks import FileLock
from spectron_migrate.ledger.read.receipts import OurSession, ReceiptRow
from spectron_migrate.mapping import covers
from spectron_migrate.records import Json, Selector, canonical_json, digest, selector_of
from spectron_migrate.verify.findings import Finding, FindingKind, Layer
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.tables import DDL, connect, fact_of, hold, path_range, remove, text_key

PAGE = 500
"""Rows that are read at once."""
_FACT = "fact.*, scope.selector FROM fact JOIN scope ON scope.no = fact.scope"
_STANDS = "EXISTS (SELECT 1 FROM expected WHERE expected.mem0_id = fact.mem0_id AND expected.kind = 'stored')"


class Workspace:
    """One verification's file; `open` resumes an unfinished run about the same things."""

    def __init__(self, path: Path, db: sqlite3.Connection, lock: FileLock, *, resumed: bool) -> None:
        """Use `open`."""
        self.path = path
        self.db = db
        self._lock = lock
        self.resumed = resumed

    @classmethod
    def open(cls, path: Path, *, about: str, not_before: str, now: str) -> Self:
        """Go on with the run that is about the same and began at `not_before` or later; else begin anew.

        `about` is a digest of everything that the run depends on; times are compared as text. Raises
        LedgerLocked where another process verifies here.
        """
        lock = hold(path.with_suffix(".lock"))
        if path.exists():
            with suppress(sqlite3.DatabaseError):
                db = connect(path)
                kept = dict(db.execute("SELECT name, value FROM meta").fetchall())
                if kept.get("about") == about and kept.get("staged") and kept.get("began", "") >= not_before:
                    return cls(path, db, lock, resumed=True)
                db.close()
            remove(path)
        path.touch(mode=0o600)
        db = connect(path)
        db.executescript(DDL)
        db.executemany("INSERT INTO meta VALUES (?, ?)", [("about", about), ("began", now)])
        return cls(path, db, lock, resumed=False)

    @property
    def began(self) -> str:
        """When the run began that this is, or goes on with."""
        return str(self.db.execute("SELECT value FROM meta WHERE name = 'began'").fetchone()[0])

    def staged(self) -> None:
        """Everything the ledgers and the dump say is in here: the run can be resumed from now on."""
        self.db.execute("INSERT INTO meta VALUES ('staged', '1')")

    def close(self, *, finished: bool) -> None:
        """Let go of the file; a finished run's is removed."""
        self.db.close()
        if finished:
            remove(self.path)
        self._lock.close()

    @contextmanager
    def change(self) -> Iterator[None]:
        """All or nothing. Nothing may be awaited inside."""
        self.db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    # -- filling it ---------------------------------------------------------------------------------------

    def add_session(self, session: OurSession, source: int) -> None:
        """A session of the ledger with number `source`."""
        self.db.execute(
            "INSERT INTO session(id, source, scope, infer, residue, undecided) VALUES (?, ?, ?, ?, ?, ?)",
            (
                session.server_id,
                source,
                self._scope(session.selector),
                session.infer,
                canonical_json(sorted(session.residue)),
                canonical_json(session.undecided),
            ),
        )

    def add_receipt(self, row: ReceiptRow, *, seed: int) -> None:
        """A stored version of a memory."""
        cursor = self.db.execute(
            f"INSERT INTO fact VALUES ({', '.join('?' * 23)})",
            (
                None,
                row.mem0_id,
                row.version,
                row.newest,
                row.text,
                row.text_at,
                row.order_key,
                self._scope(row.selector),
                row.run,
                row.infer,
                row.category,
                row.state,
                row.session_id,
                row.turn_id,
                row.chunk_id,
                canonical_json(row.ids),
                row.late,
                row.echoed,
                row.tombstoned,
                canonical_json(row.owners),
                next(iter(row.owners.values()), ""),
                text_key(row.text),
                bytes.fromhex(digest(str(seed), row.mem0_id)[:16]),
            ),
        )
        ids = {row.turn_id, row.chunk_id, *row.ids} - {None}
        self.db.executemany("INSERT INTO receipt VALUES (?, ?)", [(each, cursor.lastrowid) for each in ids])

    def add_messages(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Memories that are in the turn of a message, that message, and their texts."""
        self.db.executemany("INSERT OR REPLACE INTO carried VALUES (?, ?, ?)", rows)

    def expect(self, mem0_id: str, kind: str, reason: str) -> None:
        """What should have become of a memory: stored, carried, missing, pending, skipped or gone."""
        self.db.execute("INSERT OR REPLACE INTO expected VALUES (?, ?, ?)", (mem0_id, kind, reason))

    def keep(self, layer: Layer, subject: str, findings: Iterable[Finding]) -> None:
        """The subject of a layer is done, with these findings; one transaction."""
        with self.change():
            self.note(layer, findings)
            self.db.execute("INSERT OR IGNORE INTO done VALUES (?, ?)", (layer, subject))

    def note(self, layer: Layer, findings: Iterable[Finding]) -> None:
        """Add findings; call inside `change` where there are many."""
        self.db.executemany(
            "INSERT INTO finding(layer, kind, mem0_id, reason, place, texts) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (layer, each.kind, each.mem0_id, each.reason, each.where, canonical_json(dict(each.texts)))
                for each in findings
            ],
        )

    def settle_stale(self) -> None:
        """What is known only now that every memory is judged: which texts should not be shown any more."""
        gone = "EXISTS (SELECT 1 FROM expected WHERE expected.mem0_id = fact.mem0_id AND expected.kind = 'gone')"
        self.db.execute(f"UPDATE fact SET tombstoned = {gone} WHERE tombstoned != {gone}")
        # Older texts of memories that have a newer one: nothing on the server takes them away.
        self.db.execute(
            "INSERT INTO finding(layer, kind, mem0_id, reason, place, texts)"
            " SELECT DISTINCT 'present', 'stale', fact.mem0_id, 'an older text of it is there too', '', '{}' FROM fact"
            " JOIN expected ON expected.mem0_id = fact.mem0_id AND expected.kind IN ('stored', 'carried', 'missing')"
            " WHERE newest = 0 AND NOT EXISTS"
            "  (SELECT 1 FROM finding WHERE finding.kind = 'stale' AND finding.mem0_id = fact.mem0_id)"
        )

    def leave(self, turn_id: str, scope: int, text: str) -> None:
        """A turn that is known to be left behind by the server: its text may be found once more than written."""
        self.db.execute("INSERT OR IGNORE INTO leftover VALUES (?, ?, ?)", (turn_id, scope, text_key(text)))

    def name_entity(self, entity: str, type_: str, name: str) -> None:
        """What the server calls the entity of an id."""
        self.db.execute("INSERT OR REPLACE INTO entity VALUES (?, ?, ?)", (entity, type_, name))

    def answered(self, number: int, told: Json) -> None:
        """Both systems' answers to a query."""
        self.db.execute("INSERT OR REPLACE INTO answer VALUES (?, ?)", (number, canonical_json(told)))

    # -- reading it ---------------------------------------------------------------------------------------

    def is_done(self, layer: Layer, subject: str) -> bool:
        """Whether an earlier part of this run did it."""
        return (
            self.db.execute("SELECT 1 FROM done WHERE layer = ? AND subject = ?", (layer, subject)).fetchone()
            is not None
        )

    def is_answered(self, number: int) -> bool:
        """Whether both systems were asked a query."""
        return self.db.execute("SELECT 1 FROM answer WHERE no = ?", (number,)).fetchone() is not None

    def expected(self, mem0_id: str) -> tuple[str, str] | None:
        """Kind and reason; None for a memory that neither dump nor ledger knows."""
        row = self.db.execute("SELECT kind, reason FROM expected WHERE mem0_id = ?", (mem0_id,)).fetchone()
        return (row["kind"], row["reason"]) if row else None

    def counts(self) -> dict[str, dict[str, int]]:
        """Memories by kind and reason."""
        told: dict[str, dict[str, int]] = {}
        for row in self.db.execute("SELECT kind, reason, count(*) AS n FROM expected GROUP BY kind, reason"):
            told.setdefault(row["kind"], {})[row["reason"]] = row["n"]
        return told

    def ids_of(self, kind: str) -> Iterator[tuple[str, str]]:
        """Memories of a kind and their reasons, by id."""
        rows = self.db.execute("SELECT mem0_id, reason FROM expected WHERE kind = ? ORDER BY mem0_id", (kind,))
        return ((row["mem0_id"], row["reason"]) for row in rows)

    def kind_ids(self, kind: str, among: Iterable[str]) -> set[str]:
        """Those of some memories that are of a kind."""
        return {mem0_id for mem0_id in among if (known := self.expected(mem0_id)) is not None and known[0] == kind}

    def sessions(self) -> Iterator[tuple[OurSession, int, int]]:
        """Every session with its ledger's number and its scope's."""
        for row in self._pages(
            "session.no, session.id, source, scope, infer, residue, undecided, selector"
            " FROM session JOIN scope ON scope.no = session.scope",
            "session.no",
            (),
        ):
            yield (
                OurSession(
                    row["id"],
                    row["selector"],
                    row["infer"],
                    frozenset(json.loads(row["residue"])),
                    tuple((mem0_id, text) for mem0_id, text in json.loads(row["undecided"])),
                ),
                row["source"],
                row["scope"],
            )

    def count(self, table: str) -> int:
        """Rows of one of our tables."""
        return int(self.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def facts_in(self, session: str) -> list[StoredMemory]:
        """The facts of one session that the run is about, in the order they were sent."""
        rows = self.db.execute(
            f"SELECT {_FACT} JOIN expected ON expected.mem0_id = fact.mem0_id"
            " WHERE session = ? AND expected.kind IN ('stored', 'pending') ORDER BY fact.no",
            (session,),
        )
        return [fact_of(row) for row in rows]

    def scopes(self) -> list[tuple[int, Selector]]:
        """Every scope that holds a fact, by selector."""
        rows = self.db.execute(
            "SELECT no, selector FROM scope WHERE EXISTS (SELECT 1 FROM fact WHERE scope = scope.no) ORDER BY selector"
        )
        return [(row["no"], selector_of(row["selector"])) for row in rows]

    def scopes_covered(self, lens: Selector) -> Iterator[tuple[int, Selector]]:
        """The scopes that a lens covers."""
        found: dict[int, Selector] = {}
        for clause in lens:
            low, high = path_range(clause[0])
            rows = self.db.execute(
                "SELECT DISTINCT no, selector FROM path JOIN scope ON scope.no = path.scope"
                " WHERE path >= ? AND path < ? ORDER BY no",
                (low, high),
            )
            found |= {row["no"]: selector_of(row["selector"]) for row in rows}
        return ((no, selector) for no, selector in found.items() if covers(lens, selector))

    def facts_of(self, scope: int, *, standing: bool = False, limit: int | None = None) -> Iterator[StoredMemory]:
        """Facts of a scope in the order of the lot; `standing`: newest texts of memories that should be there."""
        condition = f"scope = ?{f' AND newest = 1 AND tombstoned = 0 AND {_STANDS}' if standing else ''}"
        rows = self.db.execute(
            f"SELECT {_FACT} WHERE {condition} ORDER BY lot, fact.no LIMIT ?", (scope, -1 if limit is None else limit)
        )
        while page := rows.fetchmany(PAGE):
            yield from map(fact_of, page)

    def standing_texts(self, scope: int, limit: int) -> Iterator[tuple[str, str]]:
        """Mem0 id and text of memories that should be in a scope."""
        rows = self.db.execute(
            f"SELECT mem0_id, text FROM fact WHERE scope = ? AND newest = 1 AND tombstoned = 0 AND {_STANDS} LIMIT ?",
            (scope, limit),
        )
        return ((row["mem0_id"], row["text"]) for row in rows)

    def texts_of(self, scope: int) -> Iterator[str]:
        """The texts of a scope's facts."""
        rows = self.db.execute("SELECT text FROM fact WHERE scope = ?", (scope,))
        return (row["text"] for row in rows)

    def owners_of(self, row_id: str) -> list[StoredMemory]:
        """Facts whose receipt names a turn, chunk, entity or attribute id."""
        rows = self.db.execute(f"SELECT {_FACT} WHERE fact.no IN (SELECT fact FROM receipt WHERE id = ?)", (row_id,))
        return [fact_of(row) for row in rows]

    def with_text(self, text: str) -> list[StoredMemory]:
        """Facts whose text is the same but for case, spaces and Unicode form."""
        rows = self.db.execute(f"SELECT {_FACT} WHERE plain = ? ORDER BY fact.no", (text_key(text),))
        return [fact_of(row) for row in rows]

    def leftovers(self, text: str, scope: int) -> int:
        """How many turns left behind in a scope have this text."""
        row = self.db.execute(
            "SELECT count(*) FROM leftover WHERE plain = ? AND scope = ?", (text_key(text), scope)
        ).fetchone()
        return int(row[0])

    def newest(self, mem0_id: str) -> StoredMemory | None:
        """The newest stored text of a memory."""
        row = self.db.execute(f"SELECT {_FACT} WHERE mem0_id = ? ORDER BY version DESC LIMIT 1", (mem0_id,)).fetchone()
        return fact_of(row) if row else None

    def standing_for(self, mem0_id: str) -> StoredMemory | None:
        """The message in whose turn a memory is; None for a memory of its own."""
        row = self.db.execute("SELECT message FROM carried WHERE mem0_id = ?", (mem0_id,)).fetchone()
        return self.newest(row["message"]) if row else None

    def texts_in(self, message: str) -> list[str]:
        """The texts of the memories in the turn of a message; none for a memory of its own."""
        rows = self.db.execute("SELECT text FROM carried WHERE message = ? ORDER BY mem0_id", (message,))
        return [row["text"] for row in rows]

    def owner_counts(self) -> list[tuple[str, int]]:
        """Whose memories stand, and how many of each."""
        rows = self.db.execute(
            f"SELECT owner, count(*) AS n FROM fact WHERE newest = 1 AND tombstoned = 0 AND {_STANDS}"
            " GROUP BY owner ORDER BY owner"
        )
        return [(row["owner"], row["n"]) for row in rows]

    def count_category(self, category: str) -> int:
        """How many memories stand that were written with a category."""
        row = self.db.execute(
            f"SELECT count(*) FROM fact WHERE category = ? AND newest = 1 AND tombstoned = 0 AND {_STANDS}", (category,)
        ).fetchone()
        return int(row[0])

    def drawn_of(self, owner: str, limit: int) -> list[StoredMemory]:
        """The first of an owner's standing memories by lot."""
        rows = self.db.execute(
            f"SELECT {_FACT} WHERE owner = ? AND newest = 1 AND tombstoned = 0 AND {_STANDS}"
            " ORDER BY lot, fact.no LIMIT ?",
            (owner, limit),
        )
        return [fact_of(row) for row in rows]

    def drawn(self, condition: str, limit: int | None) -> Iterator[StoredMemory]:
        """Standing memories that meet a condition of ours, in the order of the lot."""
        rows = self.db.execute(
            f"SELECT {_FACT} WHERE newest = 1 AND tombstoned = 0 AND {_STANDS} AND {condition}"
            " ORDER BY lot, fact.no LIMIT ?",
            (-1 if limit is None else limit,),
        )
        while page := rows.fetchmany(PAGE):
            yield from map(fact_of, page)

    def findings(self, *kinds: FindingKind) -> Iterator[Finding]:
        """Findings of some kinds (all, where none is named), by memory."""
        marks = ", ".join("?" * len(kinds))
        rows = self.db.execute(
            f"SELECT * FROM finding{f' WHERE kind IN ({marks})' if kinds else ''} ORDER BY kind, mem0_id, no", kinds
        )
        for row in rows:
            yield Finding(row["kind"], row["mem0_id"], row["reason"], row["place"], json.loads(row["texts"]))

    def found_ids(self, *kinds: FindingKind) -> list[str]:
        """The memories that findings of some kinds name, each once."""
        rows = self.db.execute(
            f"SELECT DISTINCT mem0_id FROM finding WHERE kind IN ({', '.join('?' * len(kinds))})"
            " AND mem0_id IS NOT NULL ORDER BY mem0_id",
            kinds,
        )
        return [row["mem0_id"] for row in rows]

    def has_finding(self, kind: FindingKind, mem0_id: str) -> bool:
        """Whether something of this kind was found about a memory."""
        row = self.db.execute("SELECT 1 FROM finding WHERE kind = ? AND mem0_id = ? LIMIT 1", (kind, mem0_id))
        return row.fetchone() is not None

    def count_findings(self, kind: FindingKind) -> int:
        """How many findings there are of a kind."""
        return int(self.db.execute("SELECT count(*) FROM finding WHERE kind = ?", (kind,)).fetchone()[0])

    def entity(self, entity: str) -> tuple[str, str] | None:
        """Type and name of an entity."""
        row = self.db.execute("SELECT type, name FROM entity WHERE id = ?", (entity,)).fetchone()
        return (row["type"], row["name"]) if row else None

    def answers(self) -> Iterator[dict[str, Json]]:
        """Every answered query in its order."""
        for row in self.db.execute("SELECT told FROM answer ORDER BY no"):
            yield json.loads(row["told"])

    def _scope(self, selector: str) -> int:
        row = self.db.execute("SELECT no FROM scope WHERE selector = ?", (selector,)).fetchone()
        if row is not None:
            return int(row["no"])
        number = self.db.execute("INSERT INTO scope(selector) VALUES (?)", (selector,)).lastrowid
        assert number is not None  # noqa: S101 - an INSERT always has one
        paths = {path for clause in selector_of(selector) for path in clause}
        self.db.executemany("INSERT INTO path VALUES (?, ?)", [(path, number) for path in paths])
        return number

    def _pages(self, what: str, key: str, values: tuple[Any, ...]) -> Iterator[sqlite3.Row]:
        """Rows in the order of an integer key, a page at a time: others may be written meanwhile."""
        after = -1
        while True:
            page = self.db.execute(
                f"SELECT {what} WHERE {key} > ? ORDER BY {key} LIMIT {PAGE}", (*values, after)
            ).fetchall()
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1]["no"]
