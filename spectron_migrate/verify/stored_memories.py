"""The stored versions of memories, as a verification reads them: their receipts in the ledger, chosen by the tables of
the workspace.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence

from spectron_migrate.ledger import Ledger, erasing
from spectron_migrate.ledger.read import receipts
from spectron_migrate.ledger.read.receipts import OurSession
from spectron_migrate.ledger.read.scopes import selectors_covered
from spectron_migrate.ledger.schema import marks
from spectron_migrate.records import Selector, canonical_json, selector_of
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.tables import text_key

PAGE = 500
"""How many rows are read at once."""
RECENT = 4000
"""How many facts are cached: the hits of many searches name the same ones."""
_EXPECTED = (
    "newest = 1 AND tombstoned = 0 AND EXISTS"
    " (SELECT 1 FROM expected WHERE expected.mem0_id = fact.mem0_id AND expected.kind = 'stored')"
)
"""The newest text of a memory that should be in Spectron."""

_KNOWN = "no, newest, tombstoned, scope"
"""The columns of the workspace that a stored memory needs."""


class StoredMemories:
    """Reads stored memories with a flat memory use."""

    def __init__(self, db: sqlite3.Connection, ledger: Ledger) -> None:
        """`db`: the workspace, in which every stored version has a row."""
        self.db = db
        self.ledger = ledger
        self.compared = 0
        """How many passages without a receipt were compared with all memories."""
        self._recent: dict[int, StoredMemory] = {}

    def is_ours(self, selector: Selector) -> bool:
        """Whether this migration made all scopes of a selector."""
        return all(erasing.is_ours(self.ledger, path) for path in {path for clause in selector for path in clause})

    def sessions(self) -> Iterator[tuple[OurSession, int]]:
        """Every session with the number of its scope."""
        for session in receipts.our_sessions(self.ledger):
            yield session, self._scope(session.selector)

    def count_sessions(self) -> int:
        """How many sessions are ours."""
        return receipts.count_sessions(self.ledger)

    def count_facts(self) -> int:
        """How many versions of memories are stored."""
        return int(self.db.execute("SELECT count(*) FROM fact").fetchone()[0])

    def facts_in(self, session: str) -> list[StoredMemory]:
        """The facts of one session that the run is about, in the order they were sent."""
        rows = receipts.receipts_in_session(self.ledger, session)
        known = self._to_check([row.fact for row in rows])
        return [StoredMemory.of(row, known[row.fact]) for row in rows if row.fact in known]

    def _to_check(self, numbers: Sequence[int]) -> dict[int, sqlite3.Row]:
        """The rows of those facts whose memory should be in Spectron, or is pending."""
        found = {}
        for start in range(0, len(numbers), PAGE):
            some = numbers[start : start + PAGE]
            for row in self.db.execute(
                f"SELECT {_KNOWN} FROM fact JOIN expected ON expected.mem0_id = fact.mem0_id WHERE no IN"
                f" ({marks(some)}) AND kind IN ('stored', 'pending')",
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
            for selector in selectors_covered(self.ledger, lens).values()
        }
        return iter(sorted(found.items()))

    def facts_of(self, scope: int, *, only_expected: bool = False, limit: int | None = None) -> Iterator[StoredMemory]:
        """Facts of a scope in random order (`lot`).

        `only_expected`: only newest texts of memories that should be there.
        """
        return self._facts(f"scope = ?{f' AND {_EXPECTED}' if only_expected else ''} ORDER BY lot, no", (scope,), limit)

    def drawn_of_scopes(self, limit: int) -> dict[int, list[int]]:
        """The numbers of this many memories that should be there, drawn at random, by scope."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for row in self.db.execute(f"SELECT scope, no FROM fact WHERE {_EXPECTED} ORDER BY lot, no LIMIT ?", (limit,)):
            found[row["scope"]].append(row["no"])
        return dict(found)

    def not_echoed_in(self, scope: int) -> Iterator[int]:
        """The numbers of memories that should be in a scope, in sessions whose scopes the server did not echo."""
        rows = self.db.execute(f"SELECT no FROM fact WHERE scope = ? AND echoed = 0 AND {_EXPECTED}", (scope,))
        return (row["no"] for row in rows)

    def has_extracted(self) -> bool:
        """Whether the ledger names anything that was extracted."""
        return self.db.execute("SELECT 1 FROM fact WHERE extracted = 1 LIMIT 1").fetchone() is not None

    def lacks_extraction(self, scope: int) -> bool:
        """Whether a memory of the scope was sent with extraction, and the ledger does not know what was extracted."""
        row = self.db.execute("SELECT 1 FROM fact WHERE scope = ? AND extracted IS NULL LIMIT 1", (scope,))
        return row.fetchone() is not None

    def numbered(self, numbers: Sequence[int]) -> Iterator[StoredMemory]:
        """The facts with these numbers, in random order (`lot`)."""
        for start in range(0, len(numbers), PAGE):
            some = numbers[start : start + PAGE]
            yield from self._facts(f"no IN ({marks(some)}) ORDER BY lot, no", tuple(some))

    def expected_texts(self, scope: int, limit: int | None = None) -> Iterator[tuple[str, str]]:
        """Mem0 id and text of memories that should be in a scope."""
        numbers = self.db.execute(
            f"SELECT no FROM fact WHERE scope = ? AND {_EXPECTED} LIMIT ?", (scope, -1 if limit is None else limit)
        )
        while page := numbers.fetchmany(PAGE):
            yield from receipts.texts_of(self.ledger, [row["no"] for row in page])

    def texts_of(self, scope: int) -> Iterator[str]:
        """The texts of a scope's facts."""
        numbers = self.db.execute("SELECT no FROM fact WHERE scope = ?", (scope,))
        while page := numbers.fetchmany(PAGE):
            yield from (text for _, text in receipts.texts_of(self.ledger, [row["no"] for row in page]))

    def owners_of(self, row_id: str) -> list[StoredMemory]:
        """Facts whose receipt, or else whose label, names a turn, chunk, entity or attribute id."""
        return self.owners_of_each([row_id])[row_id]

    def owners_of_each(self, row_ids: Sequence[str]) -> dict[str, list[StoredMemory]]:
        """The same of several ids, such as those of one answer."""
        made = self._made_into(row_ids)
        facts = {
            fact.no: fact for fact in self.numbered(sorted({number for found in made.values() for number in found}))
        }
        return {
            row_id: [facts[number] for number in sorted(numbers) if number in facts] for row_id, numbers in made.items()
        }

    def selectors_behind(self, row_ids: Sequence[str]) -> dict[str, set[Selector]]:
        """For each id, the selectors of its `owners_of`, which is much less to read."""
        made = self._made_into(row_ids)
        under: dict[int, Selector] = {}
        numbers = sorted({number for found in made.values() for number in found})
        for start in range(0, len(numbers), PAGE):
            some = numbers[start : start + PAGE]
            rows = self.db.execute(
                "SELECT fact.no, selector FROM fact JOIN scope ON scope.no = fact.scope"
                f" WHERE fact.no IN ({marks(some)})",
                some,
            )
            under |= {row["no"]: selector_of(row["selector"]) for row in rows}
        return {row_id: {under[number] for number in found if number in under} for row_id, found in made.items()}

    def _made_into(self, row_ids: Sequence[str]) -> dict[str, list[int]]:
        """For each id, the numbers of the facts whose receipt, or else whose label, names it."""
        made = receipts.facts_made_into(self.ledger, list(dict.fromkeys(row_ids)))
        for row_id in row_ids:
            if row_id not in made:  # if no receipt names the row, a label may name its memory
                rows = self.db.execute("SELECT fact FROM trace WHERE row = ?", (row_id,))
                made[row_id] = [row["fact"] for row in rows]
        return made

    def with_text(self, text: str) -> list[StoredMemory]:
        """Facts whose text is the same except for case, spaces and Unicode form."""
        return list(self._facts("plain = ? ORDER BY no", (text_key(text),)))

    def with_passage(self, text: str) -> list[StoredMemory]:
        """Facts with a long text that this is a passage of, as far as their passages were found."""
        return list(self._facts("no IN (SELECT fact FROM passage WHERE plain = ?) ORDER BY no", (text_key(text),)))

    def newest(self, mem0_id: str) -> StoredMemory | None:
        """The newest stored text of a memory."""
        number = receipts.newest_stored(self.ledger, mem0_id)
        return next(self._facts("no = ?", (number,)), None) if number is not None else None

    def message_of(self, mem0_id: str) -> StoredMemory | None:
        """The message whose turn contains a memory; None for a memory with a turn of its own."""
        message = receipts.message_of(self.ledger, mem0_id)
        return self.newest(message) if message is not None else None

    def texts_in(self, message: str) -> list[str]:
        """The texts of the memories in the turn of a message; none for a memory with a turn of its own."""
        return receipts.texts_in_message(self.ledger, message)

    def owner_counts(self) -> list[tuple[str, int]]:
        """The owners whose memories should be there, and how many memories each has."""
        rows = self.db.execute(f"SELECT owner, count(*) AS n FROM fact WHERE {_EXPECTED} GROUP BY owner ORDER BY owner")
        return [(row["owner"], row["n"]) for row in rows]

    def count_category(self, category: str) -> int:
        """How many of the memories that should be there were written with this category."""
        row = self.db.execute(f"SELECT count(*) FROM fact WHERE category = ? AND {_EXPECTED}", (category,)).fetchone()
        return int(row[0])

    def drawn_of(self, owner: str, limit: int) -> list[StoredMemory]:
        """The memories of an owner that should be there, in random order, up to `limit`."""
        return list(self._facts(f"owner = ? AND {_EXPECTED} ORDER BY lot, no", (owner,), limit))

    def drawn(self, limit: int | None, *, extracted: bool = False) -> Iterator[StoredMemory]:
        """Memories that should be there, in random order; `extracted`: only those with entities."""
        return self._facts(f"{_EXPECTED}{' AND extracted = 1' if extracted else ''} ORDER BY lot, no", (), limit)

    def _scope(self, selector: str) -> int:
        row = self.db.execute("SELECT no FROM scope WHERE selector = ?", (selector,)).fetchone()
        if row is None:
            row = self.db.execute("INSERT INTO scope(selector) VALUES (?) RETURNING no", (selector,)).fetchone()
        return int(row["no"])

    def _facts(
        self, condition: str, values: tuple[str | int | bytes, ...], limit: int | None = None
    ) -> Iterator[StoredMemory]:
        """The facts that meet a condition, as the ledger has them, in the condition's order."""
        rows = self.db.execute(
            f"SELECT {_KNOWN} FROM fact WHERE {condition} LIMIT ?", (*values, -1 if limit is None else limit)
        )
        while page := rows.fetchmany(PAGE):
            if len(self._recent) > RECENT:
                self._recent.clear()
            known = {row["no"]: row for row in page if row["no"] not in self._recent}
            for row in receipts.receipts_of(self.ledger, list(known)):
                self._recent[row.fact] = StoredMemory.of(row, known[row.fact])
            found = [self._recent[row["no"]] for row in page if row["no"] in self._recent]
            yield from found  # facts that were erased in the meantime are gone
