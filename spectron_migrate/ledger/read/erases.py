"""Which scopes were erased, and which erases began and did not finish: steps that the ledger keeps."""

from __future__ import annotations

import json

from spectron_migrate.ledger.ledger import Ledger

KIND = "erase"
BEGUN, DONE = "begun", "done"


def unfinished(ledger: Ledger) -> list[str]:
    """Scopes whose erase began and did not finish."""
    last: dict[str, str] = {}
    for row in ledger.db.execute("SELECT subject, detail FROM step WHERE kind = ? ORDER BY id", (KIND,)):
        last[row["subject"]] = json.loads(row["detail"])["phase"]
    return sorted(path for path, phase in last.items() if phase == BEGUN)


def begun_at(ledger: Ledger, path: str) -> str | None:
    """When the last unfinished erase of a scope began; None if there is none."""
    row = ledger.db.execute(
        "SELECT detail, at FROM step WHERE kind = ? AND subject = ? ORDER BY id DESC LIMIT 1", (KIND, path)
    ).fetchone()
    return row["at"] if row is not None and json.loads(row["detail"])["phase"] == BEGUN else None


def erased(ledger: Ledger) -> dict[str, str]:
    """Erased scopes, and when each was last erased."""
    rows = ledger.db.execute("SELECT subject, detail, at FROM step WHERE kind = ? ORDER BY id", (KIND,))
    return {row["subject"]: row["at"] for row in rows if json.loads(row["detail"])["phase"] == DONE}


def erased_times(ledger: Ledger) -> int:
    """Number of finished erases.

    It is part of new keys, which must differ from those that the server may still hold.
    """
    rows = ledger.db.execute("SELECT detail FROM step WHERE kind = ?", (KIND,))
    return sum(json.loads(row["detail"])["phase"] == DONE for row in rows)
