"""Lanes: which have work left, and, if several processes deliver, which process has each."""

from __future__ import annotations

import random
from dataclasses import dataclass

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.records import Infer

LANE = "lane = (SELECT no FROM lane WHERE name = ?)"
"""A condition on a fact: it belongs to the lane of this name."""


_NEXT = (
    "(SELECT min(lane) FROM (SELECT min(lane) AS lane FROM fact WHERE state = 'planned' AND lane > {0}"
    " UNION ALL SELECT min(lane) AS lane FROM fact WHERE state = 'intended' AND lane > {0}) AS next)"
)
_PAGE = (
    f"WITH RECURSIVE found(lane, number) AS (SELECT {_NEXT.format('?')}, 1"
    f" UNION ALL SELECT {_NEXT.format('found.lane')}, number + 1 FROM found WHERE lane IS NOT NULL AND number < ?)"
    " SELECT found.lane, (SELECT name FROM lane WHERE no = found.lane) AS name,"
    # A fact in doubt is decided whichever plan it belongs to, because the lane may not go on before.
    " EXISTS(SELECT 1 FROM fact WHERE state = 'intended' AND fact.lane = found.lane) AS has_doubts,"
    " EXISTS(SELECT 1 FROM fact WHERE state = 'planned' AND fact.lane = found.lane AND plan = ?) AS has_planned"
    " FROM found WHERE found.lane IS NOT NULL ORDER BY found.lane"
)
"""A query for the next lanes with something planned or in doubt. Each is found by one lookup in an index."""


@dataclass(frozen=True, slots=True)
class LaneToDo:
    """A lane with a fact to send or in doubt."""

    name: str
    has_doubts: bool


def lanes_to_do(
    ledger: Ledger, plan: int, *, after: str | None, until: str | None = None, limit: int
) -> list[LaneToDo]:
    """Lanes after `after`, and up to `until`, with a fact to send or in doubt, always in the same order."""
    db = ledger.db
    lanes: list[LaneToDo] = []
    row = db.execute("SELECT no FROM lane WHERE name = ?", (after,)).fetchone() if after is not None else None
    last = int(row["no"]) if row else -1
    row = db.execute("SELECT no FROM lane WHERE name = ?", (until,)).fetchone() if until is not None else None
    end = int(row["no"]) if row else None
    while wanted := limit - len(lanes):
        page = db.execute(_PAGE, (last, last, wanted, plan)).fetchall()
        lanes += [
            LaneToDo(each["name"], bool(each["has_doubts"]))
            for each in page
            if (each["has_doubts"] or each["has_planned"]) and (end is None or each["lane"] <= end)
        ]
        if len(page) < wanted or (end is not None and page[-1]["lane"] >= end):
            break
        last = page[-1]["lane"]
    return lanes


def random_lane(ledger: Ledger) -> str | None:
    """A random lane of the plan, or None if there is no lane."""
    row = ledger.db.execute("SELECT max(no) FROM lane").fetchone()
    if row[0] is None:
        return None
    first = random.randint(0, int(row[0]))
    found = ledger.db.execute("SELECT name FROM lane WHERE no >= ? ORDER BY no LIMIT 1", (first,)).fetchone()
    return str(found["name"]) if found else None


def longest_lanes(ledger: Ledger, plan: int, *, least: int, most: int) -> dict[str, int]:
    """The lanes that send the most facts one after another, `least` or more, longest first, with their numbers."""
    rows = ledger.db.execute(
        "SELECT name, n FROM (SELECT lane, count(*) AS n FROM fact WHERE state = 'planned' AND infer = 'full'"
        "  AND plan = ? GROUP BY lane HAVING count(*) >= ?) AS long"
        " JOIN lane ON lane.no = long.lane ORDER BY n DESC, no LIMIT ?",
        (plan, least, most),
    )
    return {row["name"]: row["n"] for row in rows}


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


def mark_late(ledger: Ledger, plan: int, lane: str) -> None:
    """Make everything that is planned in a lane late, because applications already write to Spectron."""
    ledger.db.execute(
        f"UPDATE fact SET infer = 'none', late = 1 WHERE state = 'planned' AND {LANE} AND plan = ? AND infer = 'full'",
        (lane, plan),
    )


# -- whose a lane is; in a ledger with one writer everything belongs to it --------------------------------


@dataclass(frozen=True, slots=True)
class LaneWork:
    """What there is to do in a lane when it is taken."""

    has_doubts: bool
    is_held: bool
    """Like `is_held`, but without regard to doubts."""
    has_full: bool
    """Whether facts are planned with extraction."""
    has_none: bool
    """Whether facts are planned without extraction."""


def take_lane(ledger: Ledger, plan: int, lane: str) -> LaneWork | None:
    """Take a lane and read what there is to do; None if another process has it."""
    is_taken = ledger.workers.ask_for_lane(lane) if ledger.workers is not None else None
    found = ledger.db.execute(
        f"SELECT EXISTS(SELECT 1 FROM fact WHERE state = 'intended' AND {LANE}),"
        f" EXISTS(SELECT 1 FROM fact WHERE state = 'undecidable' AND {LANE} AND infer = 'full'),"
        f" EXISTS(SELECT 1 FROM fact WHERE state = 'planned' AND {LANE} AND plan = ? AND infer = 'full'),"
        f" EXISTS(SELECT 1 FROM fact WHERE state = 'planned' AND {LANE} AND plan = ? AND infer = 'none')",
        (lane, lane, lane, plan, lane, plan),
    )
    return LaneWork(*map(bool, found.fetchone())) if is_taken is None or is_taken() else None


def free_lane(ledger: Ledger, lane: str) -> None:
    """Release the lane as soon as this transaction is committed."""
    if ledger.workers is not None:
        ledger.workers.free_lane(lane)


def serialize(ledger: Ledger, name: str) -> None:
    """Make other processes wait here, for the same name, until the transaction ends."""
    if ledger.workers is not None:
        ledger.workers.serialize(name)
