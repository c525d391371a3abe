"""Lanes: which have something to do, and, where several processes deliver, to whom each belongs."""

from __future__ import annotations

import random

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.records import Infer

LANE = "lane = (SELECT no FROM lane WHERE name = ?)"
"""A condition on a fact: it is of the lane of this name."""


def lanes_to_do(ledger: Ledger, plan: int, *, after: str | None, until: str | None = None, limit: int) -> list[str]:
    """Lanes after `after`, and up to `until`, with a fact to send or in doubt, always in the same order.

    Each takes one lookup in an index.
    """
    db = ledger.db
    lanes: list[str] = []
    row = db.execute("SELECT no FROM lane WHERE name = ?", (after,)).fetchone() if after is not None else None
    found = int(row["no"]) if row else -1
    row = db.execute("SELECT no FROM lane WHERE name = ?", (until,)).fetchone() if until is not None else None
    last = int(row["no"]) if row else None
    while len(lanes) < limit:
        row = db.execute(
            "SELECT min(lane) AS lane FROM (SELECT min(lane) AS lane FROM fact WHERE state = 'planned' AND lane > ?"
            " UNION ALL SELECT min(lane) AS lane FROM fact WHERE state = 'intended' AND lane > ?) AS next",
            (found, found),
        ).fetchone()
        if row["lane"] is None or (last is not None and row["lane"] > last):
            break
        found = row["lane"]
        if _has_work(ledger, plan, found):
            lanes.append(db.execute("SELECT name FROM lane WHERE no = ?", (found,)).fetchone()["name"])
    return lanes


def _has_work(ledger: Ledger, plan: int, lane: int) -> bool:
    # A fact in doubt is decided whichever plan it belongs to: until then the lane may not go on.
    row = ledger.db.execute(
        "SELECT EXISTS(SELECT 1 FROM fact WHERE state = 'intended' AND lane = ?)"
        " OR EXISTS(SELECT 1 FROM fact WHERE state = 'planned' AND lane = ? AND plan = ?)",
        (lane, lane, plan),
    ).fetchone()
    return bool(row[0])


def random_lane(ledger: Ledger) -> str | None:
    """A lane at which one of several processes begins, so that they rarely meet."""
    row = ledger.db.execute("SELECT max(no) FROM lane").fetchone()
    if row[0] is None:
        return None
    first = random.randint(0, int(row[0]))
    found = ledger.db.execute("SELECT name FROM lane WHERE no >= ? ORDER BY no LIMIT 1", (first,)).fetchone()
    return str(found["name"]) if found else None


def large_lanes(ledger: Ledger, plan: int, *, least: int, most: int) -> list[str]:
    """The lanes with the most planned facts, `least` or more, largest first: they take longest, so they begin first."""
    rows = ledger.db.execute(
        "SELECT name FROM (SELECT lane, count(*) AS n FROM fact WHERE state = 'planned' AND plan = ?"
        "  GROUP BY lane HAVING count(*) >= ?) AS large JOIN lane ON lane.no = large.lane ORDER BY n DESC, no LIMIT ?",
        (plan, least, most),
    )
    return [row["name"] for row in rows]


def has_intended(ledger: Ledger, lane: str) -> bool:
    """Whether the lane has a fact in doubt."""
    found = ledger.db.execute(f"SELECT 1 FROM fact WHERE state = 'intended' AND {LANE} LIMIT 1", (lane,))
    return found.fetchone() is not None


def count_planned(ledger: Ledger, plan: int, lane: str, infer: Infer, most: int) -> int:
    """How many facts of a lane are planned, up to `most`."""
    row = ledger.db.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM fact WHERE state = 'planned' AND {LANE} AND plan = ? AND infer = ?"
        " LIMIT ?) AS waiting",
        (lane, plan, infer, most),
    ).fetchone()
    return int(row[0])


def is_held(ledger: Ledger, lane: str) -> bool:
    """Whether a `full` fact of the lane is in doubt or undecidable: nothing newer may pass it."""
    row = ledger.db.execute(
        f"SELECT EXISTS(SELECT 1 FROM fact WHERE state = 'intended' AND {LANE} AND infer = 'full')"
        f" OR EXISTS(SELECT 1 FROM fact WHERE state = 'undecidable' AND {LANE} AND infer = 'full')",
        (lane, lane),
    ).fetchone()
    return bool(row[0])


# -- whose a lane is; in a ledger with one writer everything belongs to it --------------------------------


def take_lane(ledger: Ledger, lane: str) -> bool:
    """Take a lane, if no other process has it."""
    return ledger.workers is None or ledger.workers.take_lane(lane)


def free_lane(ledger: Ledger, lane: str) -> None:
    """Let others have the lane, once this transaction is committed."""
    if ledger.workers is not None:
        ledger.workers.free_lane(lane)


def serialize(ledger: Ledger, name: str) -> None:
    """Until the end of the transaction no other process gets past this for the same name."""
    if ledger.workers is not None:
        ledger.workers.serialize(name)
