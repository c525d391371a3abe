"""Numbers for lanes and selectors, so that facts need not spell them out."""

from __future__ import annotations

from spectron_migrate.database.interface import Database
from spectron_migrate.records import Selector, canonical_json


def lane_number(db: Database, name: str) -> int:
    """The lane's number; a new one if it has none. Call inside a transaction."""
    row = db.execute("SELECT no FROM lane WHERE name = ?", (name,)).fetchone()
    if row is None:
        row = db.execute("INSERT INTO lane(name) VALUES (?) RETURNING no", (name,)).fetchone()
    return int(row[0])


def selector_number(db: Database, selector: Selector) -> int:
    """The selector's number; a new one if it has none. Call inside a transaction."""
    text = canonical_json(selector)
    row = db.execute("SELECT no FROM selector WHERE text = ?", (text,)).fetchone()
    if row is not None:
        return int(row[0])
    number = int(db.execute("INSERT INTO selector(text) VALUES (?) RETURNING no", (text,)).fetchone()[0])
    paths = {path for clause in selector for path in clause}
    db.executemany(
        "INSERT INTO selector_path(path, selector) VALUES (?, ?)", [(path, number) for path in sorted(paths)]
    )
    return number
