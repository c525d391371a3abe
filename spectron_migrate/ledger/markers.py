"""Numbers of the markers that runs of this ledger leave on the server (docs/protocol.md, A ledger that is lost, …)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.records import digest

NUMBER = "marker"
_LACKING = "no marker"
_LARGEST_STEP = 1_000_000


def marked_migration(ledger: Ledger) -> str:
    """The name of the migration in its markers; call after the first plan.

    Raw files do not show which Mem0 they are from, so the first ones are part of the name.
    """
    row = ledger.db.execute("SELECT id, source FROM migration").fetchone()
    migration = str(row["id"])
    if row["source"] == "files":
        first = ledger.db.execute("SELECT id FROM scan ORDER BY no LIMIT 1").fetchone()
        migration = digest(migration, first["id"])[: len(migration)]
    return migration


def known_markers(ledger: Ledger) -> set[str]:
    """The markers that this ledger knows: numbers of its own runs, and those that an adoption took over.

    `shard.shards-number` is the marker of a run in shards, which an earlier version began.
    """
    return {row["subject"] for row in ledger.db.execute("SELECT subject FROM step WHERE kind = ?", (NUMBER,))}


def take_number(ledger: Ledger, now: str) -> int:
    """Take the next number. Call inside a durable transaction, before the server is marked with it.

    Its distance from the last one is random, so that two copies that begin at the same moment take different numbers.
    """
    numbers = [int(known) for known in known_markers(ledger) if known.isdigit()]
    number = max(numbers, default=0) + 1 + secrets.randbelow(_LARGEST_STEP)
    note_known(ledger, [str(number)], now)
    return number


def note_known(ledger: Ledger, names: Iterable[str], now: str) -> None:
    """Record markers as known. Call inside a transaction."""
    ledger.db.executemany(
        "INSERT INTO step(kind, subject, detail, who, at) VALUES (?, ?, '', 'replay', ?)",
        [(NUMBER, name, now) for name in sorted(set(names) - known_markers(ledger))],
    )


def note_lacking(ledger: Ledger, prefix: str, why: str | None, now: str) -> None:
    """Record why no marker could be made below a prefix, or None if it was made. Call inside a transaction.

    `prefix`: empty for the listing of scopes.
    """
    ledger.db.execute("DELETE FROM step WHERE kind = ? AND subject = ?", (_LACKING, prefix))
    if why is not None:
        ledger.db.execute(
            "INSERT INTO step(kind, subject, detail, who, at) VALUES (?, ?, ?, 'replay', ?)",
            (_LACKING, prefix, why, now),
        )


def lacking(ledger: Ledger) -> Mapping[str, str]:
    """The prefixes below which no marker could be made, and why. An empty prefix: scopes could not be listed."""
    rows = ledger.db.execute("SELECT subject, detail FROM step WHERE kind = ? ORDER BY subject", (_LACKING,))
    return {row["subject"]: row["detail"] for row in rows}
