"""Rows that searches showed and whose ids name nothing that this migration wrote.

Every answer that a verification gets is looked at. What such a row is gets decided at the end (`unaccounted`), because
only then all passages of long memories are known.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import receipts
from spectron_migrate.ledger.schema import marks
from spectron_migrate.mapping import covers
from spectron_migrate.records import Hit, Selector, canonical_json, selector_of

PASSAGES = frozenset({"memory_chunk", "chunk", "section", "turn"})
FACTS = frozenset({"attribute", "relation"})
"""Entities are left out, because they are names that scopes share. So are actions: no receipt holds their ids."""
MOST = 10_000
"""The most sightings that are kept. If others fill the scopes, a few show as much as all."""
_AT_HAND = 500_000
"""How many ids are remembered as known."""
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Sighting:
    """A row, and through which lens it was seen."""

    id: str
    lens: Selector
    kind: str
    """`source` of the hit, or `relation`."""
    text: str
    turn: str | None
    """The turn that it names."""


class Sightings:
    """Keeps them in the workspace, so that a resumed run still has them."""

    def __init__(self, db: sqlite3.Connection, ledger: Ledger) -> None:
        """`db`: the workspace."""
        self._db = db
        self._ledger = ledger
        self._named: set[str] = set()
        """Ids that a receipt or a walk over the facts names."""
        self._seen: set[tuple[str, str]] = set()
        """Ids that were judged for a lens."""
        known = db.execute("SELECT 1 FROM done WHERE layer = 'unaccounted' AND subject = 'attribute'")
        self.knows_attributes = known.fetchone() is not None
        """Whether an answer showed an attribute under the id that a receipt has."""

    @property
    def name_memories(self) -> bool:
        """Whether any listed fact names its memory, by a turn or a label. Then all of ours do."""
        return (
            self._db.execute("SELECT 1 FROM done WHERE layer = 'unaccounted' AND subject = 'named'").fetchone()
            is not None
        )

    def note_named(self) -> None:
        """Note that a listed fact names its memory."""
        self._db.execute("INSERT OR IGNORE INTO done VALUES ('unaccounted', 'named')")

    def see(self, hits: Sequence[Hit], lens: Selector) -> None:
        """Note those hits of an answer that are not known to come from anything written under the lens."""
        through = canonical_json(lens)
        new = [
            Sighting(hit.id, lens, hit.source, hit.text, hit.turn_id)
            for hit in hits
            if hit.source in PASSAGES | FACTS and hit.id not in self._named and (hit.id, through) not in self._seen
        ]
        if not new:
            return
        if len(self._named) + len(self._seen) > _AT_HAND:
            self._named.clear()
            self._seen.clear()
        named = self._named_among({each.id for each in new})
        self._named |= named
        if not self.knows_attributes and any(each.kind == "attribute" and each.id in named for each in new):
            self._db.execute("INSERT OR IGNORE INTO done VALUES ('unaccounted', 'attribute')")
            self.knows_attributes = True
        rest = [each for each in new if each.id not in named]
        self._seen |= {(each.id, through) for each in rest}
        self.note(self._without_turn(rest, lens))

    def unnamed(self, sightings: Sequence[Sighting], lens: Selector) -> list[Sighting]:
        """Sightings that are still unknown: a memory may have been written while the verification ran."""
        named = self._named_among({each.id for each in sightings})
        return self._without_turn([each for each in sightings if each.id not in named], lens)

    def note(self, sightings: Iterable[Sighting]) -> None:
        """Keep these sightings, up to `MOST` in all."""
        rows = [(each.id, canonical_json(each.lens), each.kind, each.text, each.turn) for each in sightings]
        if rows:
            room = MOST - self.count()
            self._db.executemany("INSERT OR IGNORE INTO sighting VALUES (?, ?, ?, ?, ?)", islice(rows, max(0, room)))

    def count(self) -> int:
        """How many are kept."""
        return int(self._db.execute("SELECT count(*) FROM sighting").fetchone()[0])

    def by_lens(self) -> Iterator[tuple[Selector, list[Sighting]]]:
        """All sightings, lens by lens."""
        lenses = self._db.execute("SELECT DISTINCT lens FROM sighting ORDER BY lens").fetchall()
        for (text,) in lenses:
            lens = selector_of(text)
            rows = self._db.execute("SELECT id, kind, text, turn FROM sighting WHERE lens = ? ORDER BY id", (text,))
            yield lens, [Sighting(row["id"], lens, row["kind"], row["text"], row["turn"]) for row in rows]

    def is_left(self, turn: str | None) -> bool:
        """Whether a turn is known residue."""
        return self._db.execute("SELECT 1 FROM leftover WHERE turn = ?", (turn,)).fetchone() is not None

    def _named_among(self, ids: set[str]) -> set[str]:
        found: set[str] = set()
        for some in in_parts(ids):
            found |= receipts.facts_made_into(self._ledger, some).keys()
            rows = self._db.execute(f"SELECT row FROM accounted WHERE row IN ({marks(some)})", some)
            found |= {row["row"] for row in rows}
        return found

    def _without_turn(self, sightings: Sequence[Sighting], lens: Selector) -> list[Sighting]:
        """Sightings that name neither a turn of a memory under the lens nor residue there."""
        covered: set[str] = set()
        for some in in_parts({each.turn for each in sightings if each.turn is not None}):
            made = receipts.facts_made_into(self._ledger, some)
            under = receipts.selectors_of(self._ledger, sorted({fact for facts in made.values() for fact in facts}))
            covered |= {turn for turn, facts in made.items() if any(covers(lens, under[fact]) for fact in facts)}
            left = self._db.execute(
                "SELECT turn, selector FROM leftover JOIN scope ON scope.no = leftover.scope"
                f" WHERE turn IN ({marks(some)})",
                some,
            )
            covered |= {row["turn"] for row in left if covers(lens, selector_of(row["selector"]))}
        return [each for each in sightings if each.turn not in covered]


def in_parts(values: Iterable[str]) -> Iterator[list[str]]:
    """Values in order, as many at a time as one query looks up."""
    ordered = sorted(values)
    for start in range(0, len(ordered), _AT_ONCE):
        yield ordered[start : start + _AT_ONCE]
