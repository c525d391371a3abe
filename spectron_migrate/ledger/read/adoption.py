"""What an adoption looks for, and what this ledger knows about where it may be (`ledger/adopting.py` records the
results).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spectron_migrate.database.interface import ResultRow
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.read.adoption_steps import last_adopted
from spectron_migrate.ledger.schema import STORED, FactState, marks
from spectron_migrate.records import Infer, Memory, Selector, digest, same_text, selector_of

BY = "adopted"
"""`decided_by` of a receipt that was found on the server."""
BY_KEY = "adopted by key"
"""`decided_by` of an adopted receipt if the server has shown that it knows the fact's key."""
NO_KEY = ""
"""The key of a fact that stands for a turn whose memory is not known."""
_SOUGHT: tuple[FactState, ...] = ("planned", "intended", "undecidable", "refused")
"""States in which it is not known whether the server has the text."""
_PAGE = 500


@dataclass(frozen=True, slots=True)
class SoughtFact:
    """A fact that may be on the server already."""

    id: int
    mem0_id: str
    text: str
    text_at: str | None
    role: str
    selector: int
    lane: int
    run: str | None
    infer: Infer
    order_key: str
    state: FactState
    session: int | None
    in_batch: bool
    sent_to: str | None = None
    """The server's id of that session, if the fact may have been sent to it."""


@dataclass(frozen=True, slots=True)
class KnownSession:
    """A session of this ledger, with the facts that have a receipt in it, by turn."""

    id: int
    server_id: str
    selector: int
    facts: dict[str, int]
    residue: frozenset[str]
    spare: frozenset[str]
    """Turns that an adoption found and that belong to no fact.

    Either Mem0 no longer had their text, or there were more turns than facts with it.
    """


def is_due(ledger: Ledger) -> bool:
    """Whether facts were planned since an adoption that the other ledger may also have sent."""
    last = last_adopted(ledger)
    return last is not None and bool(sought_facts(ledger, after=last[0], before=last[1]))


def sought_facts(ledger: Ledger, *, after: int, before: str | None) -> list[tuple[int, list[int]]]:
    """Facts to look for, by selector, oldest first.

    Only facts with an id above `after` whose text has no time or is older than `before`; None stands for any age.
    """
    rows = ledger.db.execute(
        "SELECT fact.id, selector FROM fact JOIN version ON version.id = fact.id"
        f" WHERE state IN ({marks(_SOUGHT)}) AND selector IS NOT NULL AND fact.id > ?"
        " AND (CAST(? AS TEXT) IS NULL OR text_at IS NULL OR text_at < ?) ORDER BY selector, order_key",
        (*_SOUGHT, after, before, before),
    )
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(row["selector"], []).append(row["id"])
    return list(found.items())


_FACT = (
    "SELECT fact.id, mem0_id, text, text_at, role, fact.selector, lane, fact.run, fact.infer, order_key, fact.state,"
    " fact.session, batch IS NOT NULL AS in_batch, server_id FROM fact JOIN version ON version.id = fact.id"
    " LEFT JOIN session ON session.id = fact.session AND fact.state IN ('intended', 'undecidable')"
)


def read_sought(ledger: Ledger, facts: Sequence[int]) -> list[SoughtFact]:
    """Which of these facts must still be looked for, oldest first."""
    found = []
    for start in range(0, len(facts), _PAGE):
        some = facts[start : start + _PAGE]
        rows = ledger.db.execute(
            f"{_FACT} WHERE fact.id IN ({marks(some)}) AND fact.state IN ({marks(_SOUGHT)})", (*some, *_SOUGHT)
        )
        found += [_fact_of(row) for row in rows]
    return sorted(found, key=lambda fact: fact.order_key)


def any_fact(ledger: Ledger, selector: int) -> SoughtFact | None:
    """A fact of a memory in this selector, in any state."""
    row = ledger.db.execute(
        f"{_FACT} WHERE fact.selector = ?"
        " AND EXISTS (SELECT 1 FROM memory WHERE memory.mem0_id = version.mem0_id) LIMIT 1",
        (selector,),
    ).fetchone()
    return _fact_of(row) if row else None


def count_texts(ledger: Ledger, facts: Sequence[int]) -> int:
    """How many different texts these facts have."""
    found: set[str] = set()
    for start in range(0, len(facts), _PAGE):
        some = facts[start : start + _PAGE]
        rows = ledger.db.execute(f"SELECT DISTINCT digest FROM version WHERE id IN ({marks(some)})", tuple(some))
        found.update(row["digest"] for row in rows)
    return len(found)


def _fact_of(row: ResultRow) -> SoughtFact:
    return SoughtFact(
        row["id"],
        row["mem0_id"],
        row["text"],
        row["text_at"],
        row["role"] or "user",
        row["selector"],
        row["lane"],
        row["run"],
        row["infer"],
        row["order_key"],
        row["state"],
        row["session"],
        bool(row["in_batch"]),
        row["server_id"],
    )


def selector_of_number(ledger: Ledger, number: int) -> Selector:
    """The selector with this number."""
    row = ledger.db.execute("SELECT text FROM selector WHERE no = ?", (number,)).fetchone()
    return selector_of(row["text"])


def overlapping_selectors(ledger: Ledger, number: int) -> list[int]:
    """Other selectors with a path that equals, contains or is contained in one of this selector's paths."""
    rows = ledger.db.execute(
        "SELECT DISTINCT other.selector FROM selector_path AS own JOIN selector_path AS other"
        " ON other.path = own.path OR (other.path >= own.path || '/' AND other.path < own.path || '0')"
        " WHERE own.selector = ? AND other.selector != ?",
        (number, number),
    ).fetchall()
    found = {row["selector"] for row in rows}
    for path in selector_paths(ledger, number):
        segments = path.split("/")
        above = ["/".join(segments[:depth]) for depth in range(1, len(segments))]
        if above:
            rows = ledger.db.execute(
                f"SELECT selector FROM selector_path WHERE path IN ({marks(above)}) AND selector != ?", (*above, number)
            ).fetchall()
            found |= {row["selector"] for row in rows}
    return sorted(found)


def selector_paths(ledger: Ledger, number: int) -> list[str]:
    """The different paths of a selector."""
    rows = ledger.db.execute("SELECT path FROM selector_path WHERE selector = ? ORDER BY path", (number,))
    return [row["path"] for row in rows]


def selectors_with_text(ledger: Ledger, selectors: Sequence[int], texts: Iterable[str]) -> list[int]:
    """Which of the selectors one of the texts was or will be written to."""
    found: set[int] = set()
    for text in set(texts):
        rows = ledger.db.execute(
            "SELECT DISTINCT selector FROM version JOIN fact ON fact.id = version.id"
            f" WHERE digest = ? AND selector IN ({marks(selectors)})",
            (digest(text), *selectors),
        )
        found |= {row["selector"] for row in rows}
    return sorted(found)


def known_sessions(ledger: Ledger) -> list[KnownSession]:
    """Every session that the server made for this ledger, oldest first."""
    rows = ledger.db.execute(
        "SELECT id, server_id, selector FROM session WHERE server_id IS NOT NULL ORDER BY id"
    ).fetchall()
    return [_with_turns(ledger, row["id"], row["server_id"], row["selector"]) for row in rows]


def known_session(ledger: Ledger, server_id: str) -> KnownSession | None:
    """The session with this server id; None if this ledger has none."""
    row = ledger.db.execute("SELECT id, selector FROM session WHERE server_id = ?", (server_id,)).fetchone()
    return _with_turns(ledger, row["id"], server_id, row["selector"]) if row else None


def _with_turns(ledger: Ledger, session: int, server_id: str, selector: int) -> KnownSession:
    claimed = ledger.db.execute(
        "SELECT fact.id, turn_id, key FROM fact JOIN receipt ON receipt.fact = fact.id"
        " WHERE fact.session = ? AND turn_id IS NOT NULL",
        (session,),
    ).fetchall()
    residue = ledger.db.execute(
        "SELECT residue.turn_id, coalesce(decided_by, '') AS decided_by FROM residue"
        " LEFT JOIN receipt ON receipt.fact = residue.fact WHERE residue.session = ?",
        (session,),
    ).fetchall()
    spare = {row["turn_id"] for row in claimed if row["key"] == NO_KEY}
    spare |= {row["turn_id"] for row in residue if row["decided_by"] in (BY, BY_KEY)}
    return KnownSession(
        session,
        server_id,
        selector,
        {row["turn_id"]: row["id"] for row in claimed if row["key"] != NO_KEY},
        frozenset(row["turn_id"] for row in residue) - spare,
        frozenset(spare),
    )


def is_in_use(ledger: Ledger, session: int) -> bool:
    """Whether this ledger writes to a session, or has undecided facts in it."""
    row = ledger.db.execute(
        "SELECT state != 'closed' OR EXISTS(SELECT 1 FROM fact WHERE fact.session = session.id"
        " AND fact.state IN ('intended', 'undecidable')) AS in_use FROM session WHERE id = ?",
        (session,),
    ).fetchone()
    return bool(row["in_use"])


def holder_of_equal_text(ledger: Ledger, fact: int) -> int | None:
    """The newest fact that adopted a turn with this text, role and scope, if the server may not know its own key."""
    own = ledger.db.execute(f"{_FACT} WHERE fact.id = ?", (fact,)).fetchone()
    rows = ledger.db.execute(
        "SELECT fact.id, text FROM fact JOIN version ON version.id = fact.id JOIN receipt ON receipt.fact = fact.id"
        " WHERE selector = ? AND coalesce(role, 'user') = ? AND decided_by = ? AND key != ? ORDER BY order_key DESC",
        (own["selector"], own["role"] or "user", BY, NO_KEY),
    )
    return next((row["id"] for row in rows if same_text(row["text"], own["text"])), None)


def count_without_passage(ledger: Ledger, selector: int, text: str) -> int:
    """How many facts with this text are stored in exactly this selector under a passage that no receipt names."""
    row = ledger.db.execute(
        "SELECT count(*) FROM version JOIN fact ON fact.id = version.id LEFT JOIN receipt ON receipt.fact = fact.id"
        f" WHERE digest = ? AND selector = ? AND state IN ({marks(STORED)}) AND chunk_id IS NULL",
        (digest(text), selector, *STORED),
    ).fetchone()
    return int(row[0])


def full_facts_above_high_water(ledger: Ledger, lane: int) -> list[int]:
    """Planned facts of a lane that would be sent with extraction and are not late, oldest first."""
    rows = ledger.db.execute(
        "SELECT id FROM fact WHERE state = 'planned' AND infer = 'full' AND lane = ? AND order_key >="
        " coalesce((SELECT max(sent.order_key) FROM fact AS sent WHERE sent.lane = fact.lane"
        "  AND sent.infer = 'full' AND sent.was_sent = 1), '') ORDER BY order_key",
        (lane,),
    )
    return [row["id"] for row in rows]


def memory_of(ledger: Ledger, mem0_id: str) -> Memory:
    """A memory as Mem0 last showed it."""
    row = ledger.db.execute("SELECT record FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchone()
    return Memory.from_json(json.loads(row["record"]))
