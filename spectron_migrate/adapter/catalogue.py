"""The catalogue: which memory a row of Spectron's is, and all that Mem0 said of it, read from the migration's ledger.

Spectron answers with ids of its own. The receipts in the ledger say which memory each of them was made of, the
memories' records hold what Mem0's callers expect: their id, metadata, times. Nothing here writes, and what is read
is as fresh as the ledger: receipts never change, so those of a scope are kept in memory until there are more of them,
and whether a memory was replaced or deleted is looked up for every answer.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger import Ledger, MigrationRow
from spectron_migrate.ledger.messages import records_in_turn
from spectron_migrate.ledger.schema import STORED, marks
from spectron_migrate.ledger.shards import find
from spectron_migrate.mapping import covers
from spectron_migrate.records import Memory, Selector, selector_of

WIDEST = 20_000
"""Facts in the nodes of one lens; where there are more, their receipts are not held in an application's memory."""
KEPT = 20_000
"""Facts whose receipts are kept for the next search."""
LOOK_EVERY_S = 1.0
"""How often it is looked whether the ledger is another file now."""
MOST_TEXTS = 2_000
"""Facts of a lens whose texts are compared with a row that no receipt names."""

FactNo = tuple[int, int]
"""Number of the ledger, and of the fact in it."""


_PARENTS: list[Ledger] = []


class NoCatalogue(Exception):
    """There is no ledger that can be read here; the message says why."""


class TooWide(NoCatalogue):
    """The lens holds more facts than an application should keep in memory."""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of a memory, as it was written to Spectron."""

    no: FactNo
    version: int
    text: str
    live: bool
    """The newest text of a memory that Mem0 still has."""
    memories: tuple[Memory, ...]
    """What an application is shown for it: the memory, or those that Mem0 made of a message and still has."""
    selector: Selector
    """Where it lies."""
    turn_id: str | None
    chunk_id: str | None
    ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class MemoryText:
    """One text of a memory's history."""

    number: int
    text: str
    text_at: str | None


@dataclass
class _Node:
    """The receipts of the sessions of one selector, or of a subtree."""

    stamp: tuple[int, ...]
    facts: dict[str, list[FactNo]] = field(default_factory=dict)
    """Spectron id -> facts it was made of."""
    count: int = 0


class Catalogue:
    """Safe to use from several threads; opened when it is first asked."""

    def __init__(
        self, state: Path, *, several_paths: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`state`: the migration's state directory; `several_paths`: a rule writes to more than one path at once."""
        self._several_paths = several_paths
        self._state = state
        self._clock = clock
        self._lock = threading.RLock()
        self._ledgers: list[Ledger] = []
        self._inodes: tuple[int, ...] = ()
        self._look_at = float("-inf")
        self._nodes: OrderedDict[tuple[int, str], _Node] = OrderedDict()

    def migration(self) -> MigrationRow:
        """Whose catalogue this is; raises NoCatalogue."""
        with self._lock:
            found = next((row for ledger in self._open() if (row := ledger.migration()) is not None), None)
        if found is None:
            raise NoCatalogue("nothing was replayed yet")
        return found

    def made_of(self, lens: Selector, ids: Sequence[str]) -> dict[str, list[StoredVersion]]:
        """For each of Spectron's ids the versions it was made of, within the lens; raises NoCatalogue."""
        with self._lock:
            nodes = [node for number in range(len(self._open())) for node in self._nodes_of(number, lens)]
            numbers = {each: [no for node in nodes for no in node.facts.get(each, ())] for each in ids}
            rows = self._rows({no for each in numbers.values() for no in each})
        return {
            each: [rows[no] for no in dict.fromkeys(found) if no in rows] for each, found in numbers.items() if found
        }

    def all_in(self, lens: Selector) -> list[StoredVersion]:
        """All versions within the lens, where they are few enough to compare texts; else none."""
        with self._lock:
            nodes = [node for number in range(len(self._open())) for node in self._nodes_of(number, lens)]
            if sum(node.count for node in nodes) > MOST_TEXTS:
                return []
            return list(self._rows({no for node in nodes for facts in node.facts.values() for no in facts}).values())

    def was_in_old_text(self, lens: Selector, text: str, *, in_parts: bool) -> bool:
        """Whether it is a text within the lens that Mem0 has deleted or replaced; raises NoCatalogue.

        Asked for what no receipt names: a part of a long text (`in_parts`), of which only the first is told, or one
        whose answer never came, or came after others.
        """
        said = "trim(json_extract(fact.body, '$.text'))"
        is_it = f"instr({said}, ?)" if in_parts else f"{said} = ? AND (chunk_id IS NULL OR residue IS NOT NULL)"
        with self._lock:
            return any(
                ledger.db.execute(
                    "SELECT 1 FROM session JOIN fact ON fact.session = session.id JOIN memory USING (mem0_id)"
                    f" WHERE {where} AND {is_it} AND (tombstoned_at IS NOT NULL OR"
                    "  EXISTS (SELECT 1 FROM fact AS later"
                    "   WHERE later.mem0_id = fact.mem0_id AND later.version > fact.version)) LIMIT 1",
                    (*values, text.strip()),
                ).fetchone()
                for ledger in self._open()
                for where, values in self._sessions(ledger.db, lens)
            )

    def memory(self, mem0_id: str) -> tuple[Memory, bool] | None:
        """A memory as Mem0 last showed it, and whether it still had it; None where it was never heard of.

        A message is none, whatever it is called here.
        """
        with self._lock:
            for ledger in self._open():
                row = ledger.db.execute(
                    "SELECT record, tombstoned_at FROM memory WHERE mem0_id = ? AND NOT is_message", (mem0_id,)
                ).fetchone()
                if row is not None:
                    return Memory.from_json(json.loads(row["record"])), row["tombstoned_at"] is None
        return None

    def versions(self, mem0_id: str) -> list[MemoryText]:
        """The texts of a memory that were planned, oldest first."""
        with self._lock:
            rows = [
                row
                for ledger in self._open()
                for row in ledger.db.execute(
                    "SELECT version, body, text_at FROM fact WHERE mem0_id = ? AND body != '' ORDER BY version",
                    (mem0_id,),
                )
            ]
        return [MemoryText(row["version"], str(json.loads(row["body"])["text"]), row["text_at"]) for row in rows]

    def memories_in(self, lens: Selector) -> Iterator[Memory]:
        """The memories that lie within the lens now, each once."""
        with self._lock:
            nodes = [node for number in range(len(self._open())) for node in self._nodes_of(number, lens)]
            rows = self._rows({no for node in nodes for facts in node.facts.values() for no in facts})
        seen = {memory.id: memory for row in rows.values() if row.live for memory in row.memories}
        return iter(seen.values())

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            for ledger in self._ledgers:
                ledger.close()
            self._ledgers, self._inodes, self._look_at = [], (), float("-inf")
            self._nodes.clear()

    def forget_after_fork(self) -> None:
        """In a child process: SQLite's connections are the parent's, neither used nor closed here."""
        _PARENTS.extend(self._ledgers)
        self._lock = threading.RLock()
        self._ledgers, self._inodes, self._look_at = [], (), float("-inf")
        self._nodes.clear()

    # -- the files ----------------------------------------------------------------------------------------

    def _open(self) -> list[Ledger]:
        """The ledgers; opened again where they are other files than before."""
        if self._ledgers and self._clock() < self._look_at:
            return self._ledgers
        self._look_at = self._clock() + LOOK_EVERY_S
        try:
            folders = find(self._state).complete().folders
            inodes = tuple((folder / "ledger.db").stat().st_ino for folder in folders)
            if inodes != self._inodes:
                self.close()
                self._ledgers = [Ledger.open_for_reading(folder) for folder in folders]
                self._inodes, self._look_at = inodes, self._clock() + LOOK_EVERY_S
        except (MigrateError, OSError, sqlite3.Error) as error:
            self.close()
            raise NoCatalogue(f"the ledger in {self._state} cannot be read: {error}") from error
        return self._ledgers

    # -- receipts -----------------------------------------------------------------------------------------

    def _nodes_of(self, number: int, lens: Selector) -> Iterator[_Node]:
        db = self._ledgers[number].db
        for where, values in self._sessions(db, lens):
            key = (number, f"{where}\n{values}")
            stamp = tuple(
                db.execute(
                    "SELECT count(*), coalesce(max(fact.id), 0), (SELECT count(*) FROM step) FROM session"
                    f" JOIN fact ON fact.session = session.id WHERE {where} AND fact.turn_id IS NOT NULL",
                    values,
                ).fetchone()
            )
            node = self._nodes.get(key)
            if node is None or node.stamp != stamp:
                if stamp[0] > WIDEST:
                    raise TooWide(f"more than {WIDEST:,} memories in one scope")
                node = self._load(number, where, values, stamp)
                self._nodes[key] = node
            self._nodes.move_to_end(key)
            yield node
        while len(self._nodes) > 1 and sum(node.count for node in self._nodes.values()) > KEPT:
            self._nodes.popitem(last=False)

    def _load(self, number: int, where: str, values: Sequence[str], stamp: tuple[int, ...]) -> _Node:
        node = _Node(stamp)
        facts = defaultdict(list, node.facts)
        rows = self._ledgers[number].db.execute(
            "SELECT fact.id, fact.turn_id, fact.chunk_id, fact.ids FROM session JOIN fact ON fact.session = session.id"
            f" WHERE {where} AND (fact.turn_id IS NOT NULL OR fact.decided_by = 'person')",
            values,
        )
        for row in rows:
            node.count += 1
            made = json.loads(row["ids"]) if row["ids"] else ()
            # What a person decided may have no id at all: then its text is looked for.
            for each in {row["turn_id"], row["chunk_id"], *made} - {None} or {""}:
                facts[each].append((number, row["id"]))
        node.facts = dict(facts)
        return node

    def _sessions(self, db: sqlite3.Connection, lens: Selector) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Conditions on sessions that together hold what the lens covers, each served by the index on selectors."""
        if self._several_paths:  # their selectors do not sort by the path that is asked for
            for (text,) in db.execute("SELECT DISTINCT selector FROM session").fetchall():
                if covers(lens, selector_of(text)):
                    yield "session.selector = ?", (text,)
            return
        for clause in lens:
            path = clause[0].strip("/")
            if len(clause) > 1:
                continue  # no memory of one path involves several nodes
            if path.endswith("/*"):
                yield "session.selector >= ? AND session.selector < ?", (f'[["{path[:-1]}', f'[["{path[:-2]}0')
            else:
                yield "session.selector = ?", (f'[["{path}"]]',)

    def _rows(self, numbers: Iterable[FactNo]) -> dict[FactNo, StoredVersion]:
        by_ledger: dict[int, list[int]] = defaultdict(list)
        for ledger, fact in numbers:
            by_ledger[ledger].append(fact)
        found: dict[FactNo, StoredVersion] = {}
        for ledger, facts in by_ledger.items():
            for start in range(0, len(facts), 500):
                found.update(self._rows_of(ledger, facts[start : start + 500]))
        return found

    def _rows_of(self, ledger: int, facts: Sequence[int]) -> Iterator[tuple[FactNo, StoredVersion]]:
        db = self._ledgers[ledger].db
        rows = db.execute(
            "SELECT fact.id, fact.mem0_id, version, body, selector, turn_id, chunk_id, ids, record, is_message,"
            " memory.tombstoned_at IS NULL AND NOT EXISTS (SELECT 1 FROM fact AS later"
            "  WHERE later.mem0_id = fact.mem0_id AND later.version > fact.version) AS live"
            f" FROM fact JOIN memory ON memory.mem0_id = fact.mem0_id WHERE fact.id IN ({marks(facts)})"
            f" AND fact.state IN ({marks(STORED)})",
            (*facts, *STORED),
        )
        for row in rows:
            no = (ledger, row["id"])
            records = records_in_turn(db, row["mem0_id"]) if row["is_message"] else [row["record"]]
            yield (
                no,
                StoredVersion(
                    no=no,
                    version=row["version"],
                    text=str(json.loads(row["body"])["text"]),
                    live=bool(row["live"] and records),
                    memories=tuple(Memory.from_json(json.loads(record)) for record in records),
                    selector=selector_of(row["selector"]),
                    turn_id=row["turn_id"],
                    chunk_id=row["chunk_id"],
                    ids=frozenset(json.loads(row["ids"])) if row["ids"] else frozenset(),
                ),
            )
