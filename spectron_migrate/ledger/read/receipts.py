"""What is in Spectron, and under which ids. Reads in pages and streams, so that memory use stays flat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from spectron_migrate.database.interface import ResultRow
from spectron_migrate.database.pages import pages
from spectron_migrate.fast_json import texts_in
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.schema import FACTS, IS_CURRENT, STORED, marks
from spectron_migrate.records import ENTITY_IDS, Infer, Json, Selector, selector_of

_PAGE = 500


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """A stored version of a memory, with the ids by which it is recognized on the server."""

    fact: int
    mem0_id: str
    version: int
    newest: bool
    """Whether the ledger knows no later text of this memory, in any state."""
    text: str
    text_at: str | None
    order_key: str
    selector: Selector
    run: str | None
    infer: Infer
    category: str | None
    """`memory_category` as it was sent; None if the server chose it."""
    role: str
    """As it was sent."""
    state: str
    session_id: str
    turn_id: str | None
    chunk_id: str | None
    ids: tuple[str, ...]
    """Entity and attribute ids of its extraction."""
    late: bool
    echoed: bool
    tombstoned: bool
    record: str
    """The newest record of the memory, as JSON."""

    @property
    def owners(self) -> Mapping[str, str]:
        """The ids that say whose memory it is, from the newest record."""
        return texts_in(self.record, ENTITY_IDS)


@dataclass(frozen=True, slots=True)
class OurSession:
    """A session that the server made for us, and turns in it that are known to have no receipt."""

    server_id: str
    selector: str
    infer: Infer
    residue: frozenset[str]
    undecided: tuple[tuple[str, str], ...]
    """Mem0 id and text of undecided facts that were sent to it."""


_RECEIPTS = (
    "SELECT fact.id, memory.mem0_id, number, number = newest_version AS newest, version.text, text_at, order_key,"
    " selector.text AS selector, fact.run, fact.infer, category, role, fact.state, server_id, turn_id, chunk_id, late,"
    " echo IS NOT NULL AS echoed, tombstoned_at IS NOT NULL AS tombstoned, record"
    f" FROM {FACTS} JOIN receipt ON receipt.fact = fact.id JOIN session ON session.id = fact.session"
    " JOIN selector ON selector.no = fact.selector"
    " WHERE fact.state IN ('written', 'stored_not_extracted')"
)


def receipts(ledger: Ledger) -> Iterator[ReceiptRow]:
    """Every stored version, session by session, in the order they were sent."""
    for page in pages(ledger.db, f"{_RECEIPTS} ORDER BY fact.session, fact.position", size=_PAGE):
        yield from _with_ids(ledger, page)


def receipts_of(ledger: Ledger, facts: Sequence[int]) -> Iterator[ReceiptRow]:
    """The receipts of those of these facts that are stored, in no particular order."""
    for start in range(0, len(facts), _PAGE):
        some = facts[start : start + _PAGE]
        rows = ledger.db.execute(f"{_RECEIPTS} AND fact.id IN ({marks(some)})", tuple(some)).fetchall()
        yield from _with_ids(ledger, rows)


def receipts_in_session(ledger: Ledger, server_id: str) -> list[ReceiptRow]:
    """What is stored in one session, in the order in which it was sent."""
    rows = ledger.db.execute(f"{_RECEIPTS} AND server_id = ? ORDER BY fact.position", (server_id,)).fetchall()
    return list(_with_ids(ledger, rows))


def newest_receipt(ledger: Ledger, mem0_id: str) -> ReceiptRow | None:
    """The newest stored text of a memory."""
    number = newest_stored(ledger, mem0_id)
    return next(receipts_of(ledger, [number]), None) if number is not None else None


def newest_stored(ledger: Ledger, mem0_id: str) -> int | None:
    """The fact of the newest stored text of a memory."""
    row = ledger.db.execute(
        "SELECT fact.id FROM version JOIN fact ON fact.id = version.id JOIN receipt ON receipt.fact = fact.id"
        f" WHERE version.mem0_id = ? AND fact.state IN ({marks(STORED)}) ORDER BY number DESC LIMIT 1",
        (mem0_id, *STORED),
    ).fetchone()
    return int(row["id"]) if row else None


def texts_of(ledger: Ledger, facts: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Mem0 id and text of some facts, in no particular order."""
    for start in range(0, len(facts), _PAGE):
        some = facts[start : start + _PAGE]
        rows = ledger.db.execute(f"SELECT mem0_id, text FROM version WHERE id IN ({marks(some)})", tuple(some))
        yield from ((row["mem0_id"], row["text"]) for row in rows.fetchall())


class FieldsGiven(NamedTuple):
    """What Mem0's record says of the newest version of a memory."""

    fact: int
    fields: Mapping[str, Any]
    """Those that were asked for, as the record has them now."""
    read_at: str
    """When the reading that brought this text began; for raw files, which do not say that, when it was planned."""
    text_at: str | None
    """That of the text as it was planned."""
    was_read_again: bool
    """Whether a later reading has shown the memory with this text, so that the record may be younger than it."""


def fields_given(ledger: Ledger, facts: Sequence[int], names: Sequence[str]) -> Iterator[FieldsGiven]:
    """Of those facts that are the newest version of their memory: the fields of these names in Mem0's record."""
    for start in range(0, len(facts), _PAGE):
        some = facts[start : start + _PAGE]
        rows = ledger.db.execute(
            "SELECT version.id, record, coalesce(began, recorded_at) AS read_at, text_at,"
            " CASE WHEN memory.scan = version.scan THEN 0 ELSE 1 END AS again FROM version"
            " JOIN memory ON memory.mem0_id = version.mem0_id JOIN scan ON scan.no = version.scan"
            f" WHERE number = newest_version AND version.id IN ({marks(some)})",
            tuple(some),
        )
        for row in rows.fetchall():
            fields = texts_in(row["record"], names)
            yield FieldsGiven(row["id"], fields, row["read_at"], row["text_at"], bool(row["again"]))


def facts_made_into(ledger: Ledger, ids: Sequence[str]) -> dict[str, list[int]]:
    """For each id of a turn, passage, entity or attribute of Spectron, the facts that it was made from."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for start in range(0, len(ids), _PAGE):
        some = ids[start : start + _PAGE]
        for row in ledger.db.execute(
            f"SELECT DISTINCT id, fact FROM receipt_id WHERE id IN ({marks(some)})", tuple(some)
        ):
            found[row["id"]].append(row["fact"])
    return dict(found)


def are_made_of_few(ledger: Ledger, ids: Sequence[str], most: int) -> bool:
    """Whether `facts_made_into` finds at most this many. An entity that many memories name is made from all of them."""
    found = 0
    for start in range(0, len(ids), _PAGE):
        some = ids[start : start + _PAGE]
        rows = ledger.db.execute(
            f"SELECT count(*) FROM (SELECT 1 AS one FROM receipt_id WHERE id IN ({marks(some)}) LIMIT ?) AS made",
            (*some, most + 1 - found),
        )
        found += rows.fetchone()[0]
    return found <= most


def selectors_of(ledger: Ledger, facts: Sequence[int]) -> dict[int, Selector]:
    """The selector that each of these facts was written to."""
    found: dict[int, Selector] = {}
    for start in range(0, len(facts), _PAGE):
        some = facts[start : start + _PAGE]
        rows = ledger.db.execute(
            "SELECT fact.id, selector.text FROM fact JOIN selector ON selector.no = fact.selector"
            f" WHERE fact.id IN ({marks(some)})",
            tuple(some),
        )
        found |= {row["id"]: selector_of(row["text"]) for row in rows}
    return found


def extracted_ids(ledger: Ledger, facts: Sequence[int]) -> dict[int, list[str]]:
    """The entities and attributes of each fact, by id."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    if not facts:
        return found
    for row in ledger.db.execute(
        f"SELECT fact, id FROM extracted WHERE fact IN ({marks(facts)}) ORDER BY fact, id", tuple(facts)
    ):
        found[row["fact"]].append(row["id"])
    return found


def _with_ids(ledger: Ledger, rows: Iterable[ResultRow]) -> Iterator[ReceiptRow]:
    rows = list(rows)
    ids = extracted_ids(ledger, [row["id"] for row in rows])
    for row in rows:
        # By position, in the order of _RECEIPTS: verification reads every row several times, and access by name costs
        # twice as much.
        fact, mem0_id, number, newest, text, text_at, order_key, selector, run, infer, *others = row
        category, role, state, session_id, turn_id, chunk_id, late, echoed, tombstoned, record = others
        yield ReceiptRow(
            fact=fact,
            mem0_id=mem0_id,
            version=number,
            newest=bool(newest),
            text=text,
            text_at=text_at,
            order_key=order_key,
            selector=selector_of(selector),
            run=run,
            infer=infer,
            category=category,
            role=role or "user",
            state=state,
            session_id=session_id,
            turn_id=turn_id,
            chunk_id=chunk_id,
            ids=tuple(ids.get(fact, ())),
            late=bool(late),
            echoed=bool(echoed),
            tombstoned=bool(tombstoned),
            record=record,
        )


# -- messages ---------------------------------------------------------------------------------------------


def message_of(ledger: Ledger, mem0_id: str) -> str | None:
    """The message whose turn contains the newest text of a memory; None for a memory with a turn of its own."""
    row = ledger.db.execute(
        f"SELECT whole.mem0_id FROM {FACTS} JOIN version AS whole ON whole.id = fact.message"
        f" WHERE memory.mem0_id = ? AND {IS_CURRENT}",
        (mem0_id,),
    ).fetchone()
    return str(row["mem0_id"]) if row else None


def texts_in_message(ledger: Ledger, message_id: str) -> list[str]:
    """The texts of the memories in the turn of a message; none for a memory with a turn of its own."""
    rows = ledger.db.execute(
        f"SELECT version.text FROM {FACTS} JOIN version AS whole ON whole.id = fact.message"
        f" WHERE whole.mem0_id = ? AND {IS_CURRENT} ORDER BY memory.mem0_id",
        (message_id,),
    )
    return [row["text"] for row in rows]


# -- sessions and turns -----------------------------------------------------------------------------------


def claimed_turns(ledger: Ledger, server_id: str) -> set[str]:
    """Ids of the turns of a session that have a receipt at this moment."""
    rows = ledger.db.execute(
        "SELECT turn_id FROM session JOIN fact ON fact.session = session.id JOIN receipt ON receipt.fact = fact.id"
        " WHERE server_id = ? AND turn_id IS NOT NULL",
        (server_id,),
    )
    return {row["turn_id"] for row in rows}


_HAS_TURN = (
    "EXISTS (SELECT 1 FROM fact JOIN receipt ON receipt.fact = fact.id"
    " WHERE fact.session = session.id AND turn_id IS NOT NULL)"
)


def sessions_to_show(ledger: Ledger, limit: int) -> Iterator[tuple[str, set[str]]]:
    """Sessions by which the server can be identified, with their claimed turns.

    First the session of the claimed turn that was planned last, then the newest sessions with claimed turns, then the
    newest of the others.
    """
    last = ledger.db.execute(
        "SELECT server_id FROM session WHERE server_id IS NOT NULL AND id ="
        " (SELECT session FROM fact WHERE id = (SELECT max(fact) FROM receipt WHERE turn_id IS NOT NULL))"
    ).fetchall()
    newest = ledger.db.execute(
        f"SELECT server_id FROM session WHERE server_id IS NOT NULL ORDER BY {_HAS_TURN} DESC, id DESC LIMIT ?",
        (limit,),
    ).fetchall()
    found = list(dict.fromkeys(row["server_id"] for row in [*last, *newest]))[:limit]
    return ((server_id, claimed_turns(ledger, server_id)) for server_id in found)


def newest_session(ledger: Ledger) -> str | None:
    """The server's id of the newest session with a receipt."""
    row = ledger.db.execute(
        f"SELECT server_id FROM session WHERE server_id IS NOT NULL AND {_HAS_TURN} ORDER BY id DESC LIMIT 1"
    ).fetchone()
    return str(row["server_id"]) if row else None


def count_sessions(ledger: Ledger) -> int:
    """How many sessions the server made for us."""
    return int(ledger.db.execute("SELECT count(*) FROM session WHERE server_id IS NOT NULL").fetchone()[0])


def our_sessions(ledger: Ledger) -> Iterator[OurSession]:
    """Every session that the server made for us, empty ones included; a page at a time."""
    after = -1
    while True:
        page = ledger.db.execute(
            "SELECT session.id, server_id, selector.text AS selector, infer FROM session"
            " JOIN selector ON selector.no = session.selector WHERE server_id IS NOT NULL AND session.id > ?"
            " ORDER BY session.id LIMIT ?",
            (after, _PAGE),
        ).fetchall()
        for row in page:
            residue = ledger.db.execute("SELECT turn_id FROM residue WHERE session = ?", (row["id"],))
            undecided = ledger.db.execute(
                "SELECT mem0_id, text FROM fact JOIN version ON version.id = fact.id"
                " WHERE session = ? AND state IN ('intended', 'undecidable') ORDER BY position",
                (row["id"],),
            )
            yield OurSession(
                server_id=row["server_id"],
                selector=row["selector"],
                infer=row["infer"],
                residue=frozenset(each["turn_id"] for each in residue),
                undecided=tuple((each["mem0_id"], each["text"]) for each in undecided),
            )
        if len(page) < _PAGE:
            return
        after = page[-1]["id"]


def fingerprint(ledger: Ledger) -> list[Json]:
    """A fingerprint of the ledger, which changes whenever facts, their states or receipts do."""
    facts = ledger.db.execute("SELECT count(*), max(id), max(plan) FROM fact").fetchone()
    turns = ledger.db.execute("SELECT count(turn_id) FROM receipt").fetchone()
    recorded = ledger.db.execute("SELECT max(recorded_at) FROM version").fetchone()
    states = ledger.db.execute("SELECT state, count(*) FROM fact GROUP BY state ORDER BY state").fetchall()
    gone = ledger.db.execute("SELECT count(*) FROM memory WHERE tombstoned_at IS NOT NULL").fetchone()
    migration = ledger.migration()
    counts = [migration.id if migration else None, *facts, turns[0], recorded[0]]
    return [*counts, [list(state) for state in states], gone[0]]


def written_selectors(ledger: Ledger) -> list[str]:
    """The different selectors, as canonical JSON, to which anything was stored."""
    rows = ledger.db.execute(
        f"SELECT text FROM selector WHERE no IN (SELECT selector FROM fact WHERE state IN ({marks(STORED)}))"
        " ORDER BY text",
        STORED,
    )
    return [row["text"] for row in rows]
