"""Whether an adoption was begun and finished, and whether this ledger is a backup."""

from __future__ import annotations

import json

from spectron_migrate.ledger.ledger import Ledger

KIND = "adopt"
"""The kind of the step in the ledger."""
BEGUN, DONE, BACKUP = "begun", "done", "backup"


def is_unfinished(ledger: Ledger) -> bool:
    """Whether an adoption was begun and not finished."""
    row = ledger.db.execute("SELECT detail FROM step WHERE kind = ? ORDER BY id DESC LIMIT 1", (KIND,)).fetchone()
    return row is not None and json.loads(row["detail"])["phase"] != DONE


def backup_of(ledger: Ledger) -> str | None:
    """When this ledger was made as a backup. None if it is no backup, or once an adoption was begun."""
    row = ledger.db.execute("SELECT detail, at FROM step WHERE kind = ? ORDER BY id DESC LIMIT 1", (KIND,)).fetchone()
    return str(row["at"]) if row is not None and json.loads(row["detail"])["phase"] == BACKUP else None


def last_adopted(ledger: Ledger) -> tuple[int, str] | None:
    """The newest fact and the time of the last adoption; None if there was none.

    A text that was planned later and is older than that time may have been sent by the other ledger too.
    """
    rows = ledger.db.execute("SELECT detail FROM step WHERE kind = ? ORDER BY id", (KIND,))
    done = [detail for row in rows if (detail := json.loads(row["detail"]))["phase"] == DONE]
    return (done[-1]["newest_fact"], done[-1]["until"]) if done else None
