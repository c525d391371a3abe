"""What the ledger knows about sessions and scopes that a run goes on using, for a comparison with the server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from spectron_migrate.ledger.lanes import lanes_to_do, longest_lanes
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.read.turns import claimed_turns, residue_turns
from spectron_migrate.ledger.schema import OF_ANY_PLAN, STORED, marks
from spectron_migrate.ledger.sending import next_planned
from spectron_migrate.records import Infer, Selector, canonical_json, selector_of

FIRST = 8
"""How many lanes a run begins with."""
LONG = 32
"""Lanes with at least this many facts with extraction start early, because these are sent one after another."""


@dataclass(frozen=True, slots=True)
class SessionTurns:
    """One of our sessions, with the turns that it may hold."""

    id: int
    server_id: str
    claimed: frozenset[str]
    explained: frozenset[str]
    """Turns without a receipt that are known nevertheless."""
    in_doubt: int
    """How many facts in doubt may have a turn there."""
    texts: tuple[str, ...]
    """The texts of facts in doubt, and of refused ones, which the server may have stored nevertheless."""


@dataclass(frozen=True, slots=True)
class NextFact:
    """The first fact to be sent of those that share sessions."""

    id: int
    selector: Selector
    run: str | None
    infer: Infer


def known_session(ledger: Ledger, session: int) -> SessionTurns:
    """A session that the server made for us."""
    row = ledger.db.execute("SELECT server_id FROM session WHERE id = ?", (session,)).fetchone()
    rows = ledger.db.execute(
        "SELECT state, text FROM fact JOIN version ON version.id = fact.id"
        " WHERE session = ? AND state IN ('intended', 'refused')",
        (session,),
    ).fetchall()
    return SessionTurns(
        session,
        row["server_id"],
        frozenset(claimed_turns(ledger, session)),
        frozenset(residue_turns(ledger, session)),
        sum(row["state"] == "intended" for row in rows),
        tuple(row["text"] for row in rows),
    )


def sessions_in_doubt(ledger: Ledger) -> list[int]:
    """Open sessions with a fact in doubt."""
    rows = ledger.db.execute(
        "SELECT DISTINCT session FROM fact JOIN session ON session.id = fact.session"
        f" WHERE {OF_ANY_PLAN} AND fact.state = 'intended' AND session.state = 'open' ORDER BY session"
    )
    return [row["session"] for row in rows]


def next_facts(ledger: Ledger, plan: int, most: int) -> Iterator[NextFact]:
    """The first fact of each group that shares sessions, roughly in the order in which a run begins with them."""
    names = [lane.name for lane in lanes_to_do(ledger, plan, after=None, limit=most)]
    lanes = dict.fromkeys([*names[:FIRST], *longest_lanes(ledger, plan, least=LONG, most=most), *names])
    left = most
    for lane in lanes:
        rows = ledger.db.execute(
            "SELECT fact.run, fact.infer, selector.text AS selector, fact.selector AS number,"
            " min(order_key) AS first FROM fact JOIN selector ON selector.no = fact.selector"
            " WHERE state = 'planned' AND lane = (SELECT no FROM lane WHERE name = ?) AND plan = ?"
            " GROUP BY fact.run, fact.infer, selector.text, fact.selector ORDER BY first LIMIT ?",
            (lane, plan, left),
        ).fetchall()
        for row in rows:
            found = ledger.db.execute(
                "SELECT id FROM fact WHERE state = 'planned' AND lane = (SELECT no FROM lane WHERE name = ?)"
                " AND plan = ? AND infer = ? AND order_key = ? AND selector = ? ORDER BY id LIMIT 1",
                (lane, plan, row["infer"], row["first"], row["number"]),
            ).fetchone()
            yield NextFact(found["id"], selector_of(row["selector"]), row["run"], row["infer"])
        left -= len(rows)
        if left <= 0:
            return


def first_paths(ledger: Ledger, plan: int, most: int) -> list[str]:
    """The paths of the scopes that a run begins with, at most `most`."""
    paths: dict[str, None] = {}
    for lane in lanes_to_do(ledger, plan, after=None, limit=most):
        for infer in ("full", "none"):
            facts = next_planned(ledger, plan, lane.name, infer, 1)
            paths |= dict.fromkeys(path for fact in facts for clause in fact.selector for path in clause)
    return list(paths)[:most]


def has_earlier_work(ledger: Ledger, began: str) -> bool:
    """Whether any session was begun, or any scope registered, before this moment."""
    found = ledger.db.execute(
        "SELECT EXISTS(SELECT 1 FROM session) OR EXISTS(SELECT 1 FROM scope WHERE registered = 1 AND intended_at < ?)",
        (began,),
    )
    return bool(found.fetchone()[0])


def open_sessions(ledger: Ledger, fact: NextFact) -> list[int]:
    """The open sessions to which the fact may go."""
    rows = ledger.db.execute(
        "SELECT session.id FROM session JOIN selector ON selector.no = session.selector"
        " WHERE selector.text = ? AND infer = ? AND coalesce(run, '') = ? AND state = 'open'",
        (canonical_json(fact.selector), fact.infer, fact.run or ""),
    )
    return [row["id"] for row in rows]


def is_earlier_scope(ledger: Ledger, selector: Selector, began: str) -> bool:
    """Whether all paths are ours, and were registered before this process began."""
    paths = {path for clause in selector for path in clause}
    rows = ledger.db.execute(
        f"SELECT count(*) FROM scope WHERE path IN ({marks(tuple(paths))}) AND registered = 1 AND listed_before = 0"
        " AND intended_at < ?",
        (*sorted(paths), began),
    )
    return int(rows.fetchone()[0]) == len(paths)


def text_of(ledger: Ledger, fact: int) -> str:
    """The text that a fact is about."""
    return str(ledger.db.execute("SELECT text FROM version WHERE id = ?", (fact,)).fetchone()["text"])


def copies_without_passage(ledger: Ledger, selector: Selector, text: str) -> int:
    """How many times a text may be in these scopes without a receipt that names its passage."""
    sent = ledger.db.execute(
        "SELECT count(*) AS facts,"
        f" count(CASE WHEN fact.state IN ({marks(STORED)}) THEN chunk_id END) AS named"
        " FROM selector JOIN session ON session.selector = selector.no JOIN fact ON fact.session = session.id"
        " JOIN version ON version.id = fact.id LEFT JOIN receipt ON receipt.fact = fact.id"
        " WHERE selector.text = ? AND version.text = ?",
        (*STORED, canonical_json(selector), text),
    ).fetchone()
    # A fact that is planned again has left its session, but its residue is still there.
    residue = ledger.db.execute(
        "SELECT count(*) FROM residue JOIN session ON session.id = residue.session"
        " JOIN selector ON selector.no = session.selector JOIN version ON version.id = residue.fact"
        " WHERE selector.text = ? AND version.text = ?",
        (canonical_json(selector), text),
    ).fetchone()[0]
    undecidable = ledger.db.execute(
        "SELECT count(*) FROM fact JOIN selector ON selector.no = fact.selector JOIN version ON version.id = fact.id"
        " WHERE fact.state = 'undecidable' AND session IS NULL AND selector.text = ? AND version.text = ?",
        (canonical_json(selector), text),
    ).fetchone()[0]
    return int(sent["facts"] - (sent["named"] or 0) + residue + undecidable)
