"""The workspace of a verification: a private file in the state directory. What is stored is read from the ledgers.

The file has everything else: which memories are expected, the findings, and what is done, so that a stopped run can be
resumed; and for each stored version its place in the random order and a key for equal texts. It holds texts of
findings: it has mode 0600, and a run that ends removes it.
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
from spectron_migrate.ledger.read import receipts
from spectron_migrate.ledger.read.receipts import OurSession, ReceiptRow
from spectron_migrate.ledger.read.scopes import selectors_covered
from spectron_migrate.records import Json, Selector, canonical_json, digest, selector_of
from spectron_migrate.verify.findings import Finding, FindingKind, Layer
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.tables import DDL, FORMAT, LEDGERS, connect, hold, remove, text_key

PAGE = 500
"""Rows that are read at once."""
RECENT = 4000
"""Facts that are kept at hand: the hits of many searches name the same ones."""
_EXPECTED = (
    "newest = 1 AND tombstoned = 0 AND EXISTS"
    " (SELECT 1 FROM expected WHERE expected.mem0_id = fact.mem0_id AND expected.kind = 'stored')"
)
"""The newest text of a memory that should be in Spectron."""


class Workspace:
    """The file of one verification; `open` resumes an unfinished run with the same options and ledgers."""

    def __init__(
        self, path: Path, db: sqlite3.Connection, ledgers: Sequence[Ledger], lock: FileLock, *, resumed: bool
    ) -> None:
        """Use `open`."""
        self.path = path
        self.db = db
        self.ledgers = ledgers
        self._lock = lock
        self.resumed = resumed
        self._recent: dict[int, StoredMemory] = {}

    @classmethod
    def open(cls, path: Path, ledgers: Sequence[Ledger], *, about: str, not_before: str, now: str) -> Self:
        """Resume the run with the same `about` that began at `not_before` or later; otherwise begin a new one.

        `about` is a digest of everything that the run depends on; times are compared as text. Raises
        LedgerLocked where another process verifies here.
        """
        lock = hold(path.with_suffix(".lock"))
        if path.exists():
            with suppress(sqlite3.DatabaseError):
                db = connect(path)
                kept = dict(db.execute("SELECT name, value FROM meta").fetchall())
                alike = kept.get("format") == FORMAT and kept.get("about") == about
                if alike and kept.get("staged") and kept.get("began", "") >= not_before:
                    return cls(path, db, ledgers, lock, resumed=True)
                db.close()
            remove(path)
        path.touch(mode=0o600)
        db = connect(path)
        db.executescript(DDL)
        db.executemany("INSERT INTO meta VALUES (?, ?)", [("format", FORMAT), ("about", about), ("began", now)])
        return cls(path, db, ledgers, lock, resumed=False)

    @property
    def began(self) -> str:
        """When the run began, also if it was resumed."""
        return str(self.db.execute("SELECT value FROM meta WHERE name = 'began'").fetchone()[0])

    def staged(self) -> None:
        """Note that everything from ledgers and dump is loaded: from now on the run can be resumed."""
        self.db.execute("INSERT INTO meta VALUES ('staged', '1')")

    def close(self, *, finished: bool) -> None:
        """Close the file; that of a finished run is removed."""
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

    def add_receipt(self, source: int, row: ReceiptRow, *, seed: int) -> None:
        """A stored version in the ledger with number `source`."""
        self.db.execute(
            f"INSERT INTO fact VALUES ({', '.join('?' * 10)})",
            (
                row.fact * LEDGERS + source,
                row.mem0_id,
                row.newest,
                row.tombstoned,
                self._scope(canonical_json(row.selector)),
                row.infer == "full" and bool(row.ids),
                row.category,
                next(iter(row.owners.values()), ""),
                text_key(row.text),
                bytes.fromhex(digest(str(seed), row.mem0_id)[:16]),
            ),
        )

    def expect(self, mem0_id: str, kind: str, reason: str) -> None:
        """What should have become of a memory: stored, carried, missing, pending, skipped or gone."""
        self.db.execute("INSERT OR REPLACE INTO expected VALUES (?, ?, ?)", (mem0_id, kind, reason))

    def keep(self, layer: Layer, subject: str, findings: Iterable[Finding]) -> None:
        """Record the findings of one subject and mark it as done, in one transaction."""
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
        """Mark the stale texts; possible once the expectation of every memory is recorded."""
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
        """Note a turn of residue: its text may be found once more than it was written."""
        self.db.execute("INSERT OR IGNORE INTO leftover VALUES (?, ?, ?)", (turn_id, scope, text_key(text)))

    def claim_passages(self, fact: int, passages: Iterable[tuple[str, str]]) -> None:
        """Ids and texts of the passages that together hold a long text; receipts name only the first of them."""
        rows = [(passage, fact, text_key(text)) for passage, text in passages]
        self.db.executemany("INSERT OR REPLACE INTO passage VALUES (?, ?, ?)", rows)

    def name_entity(self, entity: str, type_: str, name: str) -> None:
        """What the server calls the entity of an id."""
        self.db.execute("INSERT OR REPLACE INTO entity VALUES (?, ?, ?)", (entity, type_, name))

    def keep_traces(self, traces: Iterable[tuple[int, str]], counts: Mapping[str, int], found: list[Finding]) -> None:
        """Which facts made which rows, by label alone, and how many rows were walked."""
        with self.change():
            rows = [(row, fact) for fact, row in traces]
            self.db.executemany("INSERT OR IGNORE INTO trace VALUES (?, ?)", rows)
            self.db.executemany("INSERT OR REPLACE INTO traced VALUES (?, ?)", counts.items())
            self.note("traced", found)
            self.db.execute("INSERT OR IGNORE INTO done VALUES ('traced', 'all')")

    def answered(self, number: int, answers: Json) -> None:
        """Both systems' answers to a query."""
        self.db.execute("INSERT OR REPLACE INTO answer VALUES (?, ?)", (number, canonical_json(answers)))

    # -- reading it ---------------------------------------------------------------------------------------

    def is_done(self, layer: Layer, subject: str) -> bool:
        """Whether it is done, perhaps before the run was resumed."""
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
        by_kind: dict[str, dict[str, int]] = {}
        for row in self.db.execute("SELECT kind, reason, count(*) AS n FROM expected GROUP BY kind, reason"):
            by_kind.setdefault(row["kind"], {})[row["reason"]] = row["n"]
        return by_kind

    def ids_of(self, kind: str) -> Iterator[tuple[str, str]]:
        """Memories of a kind and their reasons, by id."""
        rows = self.db.execute("SELECT mem0_id, reason FROM expected WHERE kind = ? ORDER BY mem0_id", (kind,))
        return ((row["mem0_id"], row["reason"]) for row in rows)

    def kind_ids(self, kind: str, among: Iterable[str]) -> set[str]:
        """Those of some memories that are of a kind."""
        return {mem0_id for mem0_id in among if (known := self.expected(mem0_id)) is not None and known[0] == kind}

    def sessions(self) -> Iterator[tuple[OurSession, int, int]]:
        """Every session with its ledger's number and its scope's."""
        for source, ledger in enumerate(self.ledgers):
            for session in receipts.our_sessions(ledger):
                yield session, source, self._scope(session.selector)

    def count_sessions(self) -> int:
        """Sessions of ours."""
        return sum(receipts.count_sessions(ledger) for ledger in self.ledgers)

    def count_facts(self) -> int:
        """Versions of memories that are stored."""
        return int(self.db.execute("SELECT count(*) FROM fact").fetchone()[0])

    def facts_in(self, session: str) -> list[StoredMemory]:
        """The facts of one session that the run is about, in the order they were sent."""
        found = []
        for source, ledger in enumerate(self.ledgers):
            rows = receipts.receipts_in_session(ledger, session)
            known = self._to_check([row.fact * LEDGERS + source for row in rows])
            for row in rows:
                number = row.fact * LEDGERS + source
                if number in known:
                    found.append(StoredMemory.of(row, known[number]))
        return found

    def _to_check(self, numbers: Sequence[int]) -> dict[int, sqlite3.Row]:
        """The rows of those facts whose memory should be in Spectron, or may be."""
        found = {}
        for start in range(0, len(numbers), PAGE):
            some = numbers[start : start + PAGE]
            for row in self.db.execute(
                f"SELECT fact.* FROM fact JOIN expected ON expected.mem0_id = fact.mem0_id WHERE no IN"
                f" ({', '.join('?' * len(some))}) AND kind IN ('stored', 'pending')",
                some,
            ):
                found[row["no"]] = row
        return found

    def scopes(self) -> list[tuple[int, Selector]]:
        """Every scope that holds a fact, by selector."""
        rows = self.db.execute(
            "SELECT no, selector FROM scope WHERE EXISTS (SELECT 1 FROM fact WHERE scope = scope.no) ORDER BY selector"
        )
        return [(row["no"], selector_of(row["selector"])) for row in rows]

    def scope_counts(self) -> list[tuple[Selector, int]]:
        """How many memories should be in each scope, the fullest first."""
        counts = "SELECT selector, count(*) AS n FROM fact JOIN scope ON scope.no = fact.scope"
        rows = self.db.execute(f"{counts} WHERE {_EXPECTED} GROUP BY selector ORDER BY n DESC, selector")
        return [(selector_of(row["selector"]), row["n"]) for row in rows]

    def scopes_covered(self, lens: Selector) -> Iterator[tuple[int, Selector]]:
        """The scopes that a lens covers."""
        found = {
            self._scope(canonical_json(selector)): selector
            for ledger in self.ledgers
            for selector in selectors_covered(ledger, lens).values()
        }
        return iter(sorted(found.items()))

    def facts_of(self, scope: int, *, only_expected: bool = False, limit: int | None = None) -> Iterator[StoredMemory]:
        """Facts of a scope in the order of the lot; `only_expected`: newest texts of memories that should be there."""
        return self._facts(f"scope = ?{f' AND {_EXPECTED}' if only_expected else ''} ORDER BY lot, no", (scope,), limit)

    def drawn_of_scopes(self, limit: int) -> dict[int, list[int]]:
        """The numbers of as many memories that should be there, drawn at random, by their scopes."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for row in self.db.execute(f"SELECT scope, no FROM fact WHERE {_EXPECTED} ORDER BY lot, no LIMIT ?", (limit,)):
            found[row["scope"]].append(row["no"])
        return dict(found)

    def numbered(self, numbers: Sequence[int]) -> Iterator[StoredMemory]:
        """The facts of these numbers, in the order of the lot where they are in it."""
        for start in range(0, len(numbers), PAGE):
            some = numbers[start : start + PAGE]
            yield from self._facts(f"no IN ({', '.join('?' * len(some))}) ORDER BY lot, no", tuple(some))

    def expected_texts(self, scope: int, limit: int | None = None) -> Iterator[tuple[str, str]]:
        """Mem0 id and text of memories that should be in a scope."""
        numbers = self.db.execute(
            f"SELECT no FROM fact WHERE scope = ? AND {_EXPECTED} LIMIT ?", (scope, -1 if limit is None else limit)
        )
        while page := numbers.fetchmany(PAGE):
            yield from self._texts([row["no"] for row in page])

    def texts_of(self, scope: int) -> Iterator[str]:
        """The texts of a scope's facts."""
        numbers = self.db.execute("SELECT no FROM fact WHERE scope = ?", (scope,))
        while page := numbers.fetchmany(PAGE):
            yield from (text for _, text in self._texts([row["no"] for row in page]))

    def owners_of(self, row_id: str) -> list[StoredMemory]:
        """Facts whose receipt, or else whose label, names a turn, chunk, entity or attribute id."""
        numbers = [
            fact * LEDGERS + source
            for source, ledger in enumerate(self.ledgers)
            for fact in receipts.facts_made_into(ledger, [row_id]).get(row_id, ())
        ]
        if not numbers:  # a label may name its memory, where no receipt names the row
            numbers = [row["fact"] for row in self.db.execute("SELECT fact FROM trace WHERE row = ?", (row_id,))]
        marks = ", ".join("?" * len(numbers))
        return list(self._facts(f"no IN ({marks}) ORDER BY no", tuple(numbers)))

    def traced_rows(self, fact: int) -> set[str]:
        """The rows that a label traces to a fact."""
        return {row["row"] for row in self.db.execute("SELECT row FROM trace WHERE fact = ?", (fact,))}

    def trace_counts(self) -> dict[str, int]:
        """How many attributes and relations were traced to a memory, and how many in our scopes were not."""
        return {row["name"]: row["n"] for row in self.db.execute("SELECT name, n FROM traced")}

    def with_text(self, text: str) -> list[StoredMemory]:
        """Facts whose text is the same but for case, spaces and Unicode form."""
        return list(self._facts("plain = ? ORDER BY no", (text_key(text),)))

    def with_passage(self, text: str) -> list[StoredMemory]:
        """Facts with a long text of which this is a passage, as far as their passages were found."""
        return list(self._facts("no IN (SELECT fact FROM passage WHERE plain = ?) ORDER BY no", (text_key(text),)))

    def leftovers(self, text: str, scope: int) -> int:
        """How many turns of residue in a scope have this text."""
        row = self.db.execute(
            "SELECT count(*) FROM leftover WHERE plain = ? AND scope = ?", (text_key(text), scope)
        ).fetchone()
        return int(row[0])

    def newest(self, mem0_id: str) -> StoredMemory | None:
        """The newest stored text of a memory."""
        numbers = [
            (row.version, row.fact * LEDGERS + source)
            for source, ledger in enumerate(self.ledgers)
            if (row := receipts.newest_receipt(ledger, mem0_id)) is not None
        ]
        return next(self._facts("no = ?", (max(numbers)[1],)), None) if numbers else None

    def message_of(self, mem0_id: str) -> StoredMemory | None:
        """The message in whose turn a memory is; None for a memory of its own."""
        found = (receipts.message_of(ledger, mem0_id) for ledger in self.ledgers)
        message = next((each for each in found if each is not None), None)
        return self.newest(message) if message is not None else None

    def texts_in(self, message: str) -> list[str]:
        """The texts of the memories in the turn of a message; none for a memory of its own."""
        return [text for ledger in self.ledgers for text in receipts.texts_in_message(ledger, message)]

    def owner_counts(self) -> list[tuple[str, int]]:
        """Whose memories should be there, and how many of each."""
        rows = self.db.execute(f"SELECT owner, count(*) AS n FROM fact WHERE {_EXPECTED} GROUP BY owner ORDER BY owner")
        return [(row["owner"], row["n"]) for row in rows]

    def count_category(self, category: str) -> int:
        """How many memories should be there that were written with a category."""
        row = self.db.execute(f"SELECT count(*) FROM fact WHERE category = ? AND {_EXPECTED}", (category,)).fetchone()
        return int(row[0])

    def drawn_of(self, owner: str, limit: int) -> list[StoredMemory]:
        """The memories of an owner that should be there, in random order, up to `limit`."""
        return list(self._facts(f"owner = ? AND {_EXPECTED} ORDER BY lot, no", (owner,), limit))

    def drawn(self, limit: int | None, *, extracted: bool = False) -> Iterator[StoredMemory]:
        """Memories that should be there, in random order; `extracted`: only those with entities."""
        return self._facts(f"{_EXPECTED}{' AND extracted = 1' if extracted else ''} ORDER BY lot, no", (), limit)

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
        if row is None:
            row = self.db.execute("INSERT INTO scope(selector) VALUES (?) RETURNING no", (selector,)).fetchone()
        return int(row["no"])

    def _facts(
        self, condition: str, values: tuple[str | int | bytes, ...], limit: int | None = None
    ) -> Iterator[StoredMemory]:
        """What the ledgers say of the facts that meet a condition, in its order."""
        rows = self.db.execute(
            f"SELECT * FROM fact WHERE {condition} LIMIT ?", (*values, -1 if limit is None else limit)
        )
        while page := rows.fetchmany(PAGE):
            if len(self._recent) > RECENT:
                self._recent.clear()
            known = {row["no"]: row for row in page if row["no"] not in self._recent}
            for source, facts in _by_ledger(known).items():
                for row in receipts.receipts_of(self.ledgers[source], facts):
                    number = row.fact * LEDGERS + source
                    self._recent[number] = StoredMemory.of(row, known[number])
            found = [self._recent[row["no"]] for row in page if row["no"] in self._recent]
            yield from found  # what was erased meanwhile is gone

    def _texts(self, numbers: Sequence[int]) -> Iterator[tuple[str, str]]:
        for source, facts in _by_ledger(numbers).items():
            yield from receipts.texts_of(self.ledgers[source], facts)


def _by_ledger(numbers: Iterable[int]) -> dict[int, list[int]]:
    found: defaultdict[int, list[int]] = defaultdict(list)
    for number in numbers:
        found[number % LEDGERS].append(number // LEDGERS)
    return found
