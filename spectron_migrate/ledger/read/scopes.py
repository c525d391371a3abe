"""What a search may read: the selectors that a lens covers, and the facts stored there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spectron_migrate.database.pages import pages
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.messages import records_in_turn
from spectron_migrate.ledger.read.receipts import extracted_ids
from spectron_migrate.ledger.schema import CONTAINS, FACTS, IS_CURRENT, STORED, marks
from spectron_migrate.mapping import covers
from spectron_migrate.records import Memory, Selector, selector_of

_PAGE = 500


@dataclass(frozen=True, slots=True)
class SentVersion:
    """A stored version, and the memory that an application sees for it."""

    fact: int
    number: int
    text: str
    is_current: bool
    """Whether it is the newest text of a memory that Mem0 has."""
    memories: tuple[Memory, ...]
    """The memory itself, or those memories of a message that Mem0 still has."""
    selector: Selector
    turn_id: str | None
    chunk_id: str | None
    ids: frozenset[str]
    """Entities and attributes of its extraction."""


def selectors_covered(ledger: Ledger, lens: Selector) -> dict[int, Selector]:
    """The selectors that a lens covers, by number."""
    found: dict[int, Selector] = {}
    for clause in lens:
        where, values = _matching(clause[0])
        rows = ledger.db.execute(
            f"SELECT no, text FROM selector WHERE no IN (SELECT selector FROM selector_path WHERE {where})", values
        )
        found |= {row["no"]: selector_of(row["text"]) for row in rows}
    return {number: selector for number, selector in found.items() if covers(lens, selector)}


def stored_facts(ledger: Ledger, selectors: Sequence[int], most: int) -> list[int] | None:
    """Facts stored under some selectors; None if there are more than `most`."""
    found: list[int] = []
    for start in range(0, len(selectors), _PAGE):
        some = selectors[start : start + _PAGE]
        rows = ledger.db.execute(
            "SELECT fact.id FROM session JOIN fact ON fact.session = session.id"
            f" WHERE session.selector IN ({marks(some)}) AND fact.state IN ({marks(STORED)}) LIMIT ?",
            (*some, *STORED, most + 1 - len(found)),
        )
        found += [row["id"] for row in rows]
        if len(found) > most:
            return None
    return found


def sent_versions(ledger: Ledger, facts: Sequence[int]) -> Iterator[SentVersion]:
    """Those of these facts that are stored, in no particular order."""
    for start in range(0, len(facts), _PAGE):
        some = facts[start : start + _PAGE]
        rows = ledger.db.execute(
            f"SELECT fact.id, number, version.text, {IS_CURRENT} AS is_current, is_message, record,"
            f" selector.text AS selector, turn_id, chunk_id FROM {FACTS}"
            " JOIN selector ON selector.no = fact.selector LEFT JOIN receipt ON receipt.fact = fact.id"
            f" WHERE fact.id IN ({marks(some)}) AND fact.state IN ({marks(STORED)})",
            (*some, *STORED),
        ).fetchall()
        ids = extracted_ids(ledger, [row["id"] for row in rows])
        for row in rows:
            records = records_in_turn(ledger.db, row["id"]) if row["is_message"] else [row["record"]]
            yield SentVersion(
                fact=row["id"],
                number=row["number"],
                text=row["text"],
                is_current=bool(row["is_current"]),
                memories=tuple(Memory.from_json(json.loads(record)) for record in records),
                selector=selector_of(row["selector"]),
                turn_id=row["turn_id"],
                chunk_id=row["chunk_id"],
                ids=frozenset(ids.get(row["id"], ())),
            )


def places_of_current(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Record and selector, both as JSON, of every memory whose newest text is stored. Reads the whole ledger.

    Leaves out memories that Mem0 now has under other ids, because they stay where they were sent.
    """
    found = pages(
        ledger.db,
        f"SELECT record, selector.text AS selector FROM {FACTS} JOIN selector ON selector.no = fact.selector"
        f" WHERE fact.state IN ({marks(STORED)}) AND {IS_CURRENT} AND moved_from IS NULL",
        STORED,
    )
    return ((row["record"], row["selector"]) for page in found for row in page)


def has_overtaken_text(ledger: Ledger, selectors: Sequence[int], text: str, *, in_parts: bool) -> bool:
    """Whether this text, which was sent to these selectors, was deleted or replaced in Mem0.

    For passages that no receipt names: a later part of a long text (`in_parts`), or a text whose response never arrived
    or was late.
    """
    same = (
        CONTAINS
        if in_parts
        else "trim(version.text) = ? AND (NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.fact = fact.id AND"
        " chunk_id IS NOT NULL) OR EXISTS (SELECT 1 FROM residue WHERE residue.fact = fact.id))"
    )
    for start in range(0, len(selectors), _PAGE):
        some = selectors[start : start + _PAGE]
        row = ledger.db.execute(
            f"SELECT 1 FROM {FACTS} WHERE fact.session IN"
            f" (SELECT id FROM session WHERE session.selector IN ({marks(some)}))"
            f" AND NOT ({IS_CURRENT}) AND {same} LIMIT 1",
            (*some, text.strip()),
        ).fetchone()
        if row is not None:
            return True
    return False


def _matching(pattern: str) -> tuple[str, tuple[str, ...]]:
    """A condition on paths that a pattern may match."""
    if pattern in ("*", "/*"):
        return "path >= ?", ("",)
    node = pattern.strip("/")
    if node.endswith("/*"):
        return "path >= ? AND path < ?", (node[:-1], f"{node[:-2]}0")  # `0` comes right after `/`
    return "path = ?", (node,)
