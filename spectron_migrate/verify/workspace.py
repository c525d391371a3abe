"""The workspace of a verification: a private file in the state directory.

Stored memories are read from the ledger. The file has everything else: which memories are expected, the findings, and
what is done, so that a stopped run can be resumed; and for every stored version its place in the random order, and a
key by which equal texts are found. It holds texts of findings, so it has mode 0600, and a run that ends removes it.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from spectron_migrate.files.locks import FileLock
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read.receipts import ReceiptRow
from spectron_migrate.ledger.schema import marks
from spectron_migrate.records import Json, canonical_json, digest
from spectron_migrate.verify.findings import Finding, FindingKind, Layer
from spectron_migrate.verify.sightings import Sighting, Sightings
from spectron_migrate.verify.stored_memories import PAGE, StoredMemories
from spectron_migrate.verify.tables import DDL, FORMAT, connect, hold, remove, text_key


class Workspace(StoredMemories):
    """The file of one verification; `open` resumes an unfinished run with the same options and ledger."""

    def __init__(
        self,
        path: Path,
        db: sqlite3.Connection,
        ledger: Ledger,
        lock: FileLock,
        *,
        resumed: bool,
        replaced: str = "",
    ) -> None:
        """Use `open`. `replaced`: when a verification began that another version left unfinished here."""
        super().__init__(db, ledger)
        self.path = path
        self._lock = lock
        self.sightings = Sightings(db, ledger)
        self.resumed = resumed
        self.replaced = replaced

    @classmethod
    def open(cls, path: Path, ledger: Ledger, *, about: str, not_before: str, now: str) -> Self:
        """Resume the run with the same `about` that began at `not_before` or later; otherwise begin a new one.

        `about` is a digest of everything that the run depends on; times are compared as text. Raises LedgerLocked if
        another process verifies here.
        """
        lock, replaced = hold(path.with_suffix(".lock")), ""
        if path.exists():
            with suppress(sqlite3.DatabaseError):
                db = connect(path)
                kept = dict(db.execute("SELECT name, value FROM meta").fetchall())
                is_known = kept.get("format") == FORMAT
                goes_on = bool(kept.get("staged")) and kept.get("began", "") >= not_before
                if goes_on and is_known and kept.get("about") == about:
                    return cls(path, db, ledger, lock, resumed=True)
                replaced = kept["began"] if goes_on and not is_known else ""
                db.close()
            remove(path)
        path.touch(mode=0o600)
        db = connect(path)
        db.executescript(DDL)
        db.executemany("INSERT INTO meta VALUES (?, ?)", [("format", FORMAT), ("about", about), ("began", now)])
        return cls(path, db, ledger, lock, resumed=False, replaced=replaced)

    @property
    def began(self) -> str:
        """When the run first began, also if it was resumed."""
        return str(self.db.execute("SELECT value FROM meta WHERE name = 'began'").fetchone()[0])

    def staged(self) -> None:
        """Record that everything from ledger and dump is loaded, so that the run can be resumed from now on."""
        self.db.execute("INSERT INTO meta VALUES ('staged', '1')")

    def close(self, *, finished: bool) -> None:
        """Close the file, and remove it if the run has finished."""
        self.db.close()
        if finished:
            remove(self.path)
        self._lock.close()

    @contextmanager
    def change(self) -> Iterator[None]:
        """A transaction; do not await inside."""
        self.db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    # -- filling it ---------------------------------------------------------------------------------------

    def add_receipt(self, row: ReceiptRow, *, seed: int) -> None:
        """Add a stored version. Its number is that of its fact in the ledger."""
        self.db.execute(
            f"INSERT INTO fact VALUES ({', '.join('?' * 11)})",
            (
                row.fact,
                row.mem0_id,
                row.newest,
                row.tombstoned,
                self._scope(canonical_json(row.selector)),
                row.echoed,
                _is_extracted(row),
                row.category,
                next(iter(row.owners.values()), ""),
                text_key(row.text),
                bytes.fromhex(digest(str(seed), row.mem0_id)[:16]),
            ),
        )

    def expect(self, expectations: Iterable[tuple[str, str, str]]) -> None:
        """Record what is expected of memories, by id: stored, carried, missing, pending, skipped or gone; and why."""
        self.db.executemany("INSERT OR REPLACE INTO expected VALUES (?, ?, ?)", expectations)

    def keep(self, layer: Layer, subject: str, findings: Iterable[Finding]) -> None:
        """Record the findings of one subject and mark it as done, in one transaction."""
        with self.change():
            self.note(layer, findings)
            self.db.execute("INSERT OR IGNORE INTO done VALUES (?, ?)", (layer, subject))

    def note(self, layer: Layer, findings: Iterable[Finding]) -> None:
        """Add findings. If there are many, call it inside `change`."""
        self.db.executemany(
            "INSERT INTO finding(layer, kind, mem0_id, reason, place, texts) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (layer, each.kind, each.mem0_id, each.reason, each.where, canonical_json(dict(each.texts)))
                for each in findings
            ],
        )

    def settle_stale(self) -> None:
        """Mark the stale texts. Call it once the expectation of every memory is recorded."""
        gone = "EXISTS (SELECT 1 FROM expected WHERE expected.mem0_id = fact.mem0_id AND expected.kind = 'gone')"
        self.db.execute(f"UPDATE fact SET tombstoned = {gone} WHERE tombstoned != {gone}")
        # Older texts of memories that have a newer one stay on the server.
        self.db.execute(
            "INSERT INTO finding(layer, kind, mem0_id, reason, place, texts)"
            " SELECT DISTINCT 'present', 'stale', fact.mem0_id, 'an older text of it is there too', '', '{}' FROM fact"
            " JOIN expected ON expected.mem0_id = fact.mem0_id AND expected.kind IN ('stored', 'carried', 'missing')"
            " WHERE newest = 0 AND NOT EXISTS"
            "  (SELECT 1 FROM finding WHERE finding.kind = 'stale' AND finding.mem0_id = fact.mem0_id)"
        )

    def leave(self, turn_id: str, scope: int, text: str) -> None:
        """Note a turn of residue, because its text may be found once more often than it was written."""
        self.db.execute("INSERT OR IGNORE INTO leftover VALUES (?, ?, ?)", (turn_id, scope, text_key(text)))

    def claim_passages(self, fact: int, passages: Iterable[tuple[str, str]]) -> None:
        """Record ids and texts of the passages that make up a long text. Receipts name only the first of them."""
        rows = [(passage, fact, text_key(text)) for passage, text in passages]
        self.db.executemany("INSERT OR REPLACE INTO passage VALUES (?, ?, ?)", rows)

    def name_entity(self, entity: str, type_: str, name: str) -> None:
        """Record the server's type and name for an entity id."""
        self.db.execute("INSERT OR REPLACE INTO entity VALUES (?, ?, ?)", (entity, type_, name))

    def keep_traces(
        self,
        traces: Iterable[tuple[int, str]],
        counts: Mapping[str, int],
        found: list[Finding],
        *,
        accounted: Iterable[str] = (),
        strange: Iterable[Sighting] = (),
        names_memories: bool = False,
    ) -> None:
        """Record which facts made which rows, by label alone, and how many rows were listed.

        `accounted`: rows that a label or a turn names, but no receipt; `strange`: rows in our scopes that nothing
        names; `names_memories`: whether rows themselves name their memories.
        """
        with self.change():
            rows = [(row, fact) for fact, row in traces]
            self.db.executemany("INSERT OR IGNORE INTO trace VALUES (?, ?)", rows)
            self.db.executemany("INSERT OR IGNORE INTO accounted VALUES (?)", [(row,) for row in accounted])
            self.sightings.note(strange)
            if names_memories:
                self.sightings.note_named()
            self.db.executemany("INSERT OR REPLACE INTO traced VALUES (?, ?)", counts.items())
            self.note("traced", found)
            self.db.execute("INSERT OR IGNORE INTO done VALUES ('traced', 'all')")

    def answered(self, number: int, answers: Json) -> None:
        """Record both systems' answers to a query."""
        self.db.execute("INSERT OR REPLACE INTO answer VALUES (?, ?)", (number, canonical_json(answers)))

    # -- reading it ---------------------------------------------------------------------------------------

    def is_done(self, layer: Layer, subject: str) -> bool:
        """Whether this subject is done, perhaps before the run was resumed."""
        return (
            self.db.execute("SELECT 1 FROM done WHERE layer = ? AND subject = ?", (layer, subject)).fetchone()
            is not None
        )

    def count_done(self, *layers: Layer) -> int:
        """How many subjects of some layers are done."""
        marks = ", ".join("?" * len(layers))
        return int(self.db.execute(f"SELECT count(*) FROM done WHERE layer IN ({marks})", layers).fetchone()[0])

    def is_answered(self, number: int) -> bool:
        """Whether both systems were asked a query."""
        return self.db.execute("SELECT 1 FROM answer WHERE no = ?", (number,)).fetchone() is not None

    def expected(self, mem0_id: str) -> tuple[str, str] | None:
        """Kind and reason; None for a memory that neither dump nor ledger knows."""
        row = self.db.execute("SELECT kind, reason FROM expected WHERE mem0_id = ?", (mem0_id,)).fetchone()
        return (row["kind"], row["reason"]) if row else None

    def expected_among(self, mem0_ids: Sequence[str]) -> set[str]:
        """Which of these memories have a recorded expectation."""
        rows = self.db.execute(f"SELECT mem0_id FROM expected WHERE mem0_id IN ({marks(mem0_ids)})", mem0_ids)
        return {row["mem0_id"] for row in rows}

    def counts(self) -> dict[str, dict[str, int]]:
        """Memories by kind and reason."""
        by_kind: dict[str, dict[str, int]] = {}
        for row in self.db.execute("SELECT kind, reason, count(*) AS n FROM expected GROUP BY kind, reason"):
            by_kind.setdefault(row["kind"], {})[row["reason"]] = row["n"]
        return by_kind

    def ids_of(self, kind: str) -> Iterator[tuple[str, str]]:
        """Memories of a kind and their reasons, by id."""
        rows = self.db.execute("SELECT mem0_id, reason FROM expected WHERE kind = ? ORDER BY mem0_id", (kind,))
        return ((row["mem0_id"], row["reason"]) for row in rows)

    def kind_ids(self, kind: str, among: Iterable[str]) -> set[str]:
        """Which of these memories are of a kind."""
        return {mem0_id for mem0_id in among if (known := self.expected(mem0_id)) is not None and known[0] == kind}

    def traced_rows(self, facts: Sequence[int]) -> dict[int, frozenset[str]]:
        """The rows that labels trace to each of these facts."""
        found: defaultdict[int, set[str]] = defaultdict(set)
        for start in range(0, len(facts), PAGE):
            some = facts[start : start + PAGE]
            for fact, row in self.db.execute(f"SELECT fact, row FROM trace WHERE fact IN ({marks(some)})", some):
                found[fact].add(row)
        return {fact: frozenset(found.get(fact, ())) for fact in facts}

    def trace_counts(self) -> dict[str, int]:
        """How many attributes and relations were traced to a memory, and how many in our scopes were not."""
        return {row["name"]: row["n"] for row in self.db.execute("SELECT name, n FROM traced")}

    def leftovers(self, text: str, scope: int) -> int:
        """How many turns of residue in a scope have this text."""
        row = self.db.execute(
            "SELECT count(*) FROM leftover WHERE plain = ? AND scope = ?", (text_key(text), scope)
        ).fetchone()
        return int(row[0])

    def findings(self, *kinds: FindingKind) -> Iterator[Finding]:
        """Findings of these kinds (all, if none is named), by memory."""
        marks = ", ".join("?" * len(kinds))
        rows = self.db.execute(
            f"SELECT * FROM finding{f' WHERE kind IN ({marks})' if kinds else ''} ORDER BY kind, mem0_id, no", kinds
        )
        for row in rows:
            yield Finding(row["kind"], row["mem0_id"], row["reason"], row["place"], json.loads(row["texts"]))

    def found_ids(self, *kinds: FindingKind) -> list[str]:
        """The memories that findings of these kinds name, each once."""
        rows = self.db.execute(
            f"SELECT DISTINCT mem0_id FROM finding WHERE kind IN ({', '.join('?' * len(kinds))})"
            " AND mem0_id IS NOT NULL ORDER BY mem0_id",
            kinds,
        )
        return [row["mem0_id"] for row in rows]

    def has_finding(self, kind: FindingKind, mem0_id: str) -> bool:
        """Whether there is a finding of this kind about a memory."""
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


def _is_extracted(row: ReceiptRow) -> bool | None:
    """Whether the ledger names what was extracted from it; None if extraction was requested and nothing is named."""
    return False if row.infer != "full" else (True if row.ids else None)
