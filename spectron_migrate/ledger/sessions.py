"""Sessions and scopes of ours: noted before they are asked for, so that none is made unknown to the ledger."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from sqlite3 import Row

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.records import Infer, Selector, canonical_json, selector_of


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session of ours; `server_id` is None until the server made it."""

    id: int
    selector: Selector
    run: str | None
    infer: Infer
    server_id: str | None
    used: int
    """Positions given out so far."""


def open_session(
    ledger: Ledger, selector: Selector, run: str | None, infer: Infer, size: int, *, taken: Collection[int] = ()
) -> SessionRow | None:
    """An open session for these facts that still has room; full ones are closed on the way.

    `taken`: sessions that another stream writes to, because in one session one send is undecided at most.
    """
    rows = ledger.db.execute(
        "SELECT * FROM session WHERE selector = ? AND run IS ? AND infer = ? AND state = 'open' ORDER BY part",
        (canonical_json(selector), run, infer),
    ).fetchall()
    for row in rows:
        if row["id"] in taken:
            continue
        session = session_of(ledger, row)
        if session.used < size:
            return session
        close_session(ledger, session.id)
    return None


def begin_session(ledger: Ledger, selector: Selector, run: str | None, infer: Infer, now: str) -> int:
    """Note that a session is about to be made. One whose answer is never known stays an empty orphan."""
    text = canonical_json(selector)
    cursor = ledger.db.execute(
        "INSERT INTO session(selector, run, infer, part, state, created_at) VALUES (?1, ?2, ?3,"
        " (SELECT coalesce(max(part) + 1, 0) FROM session WHERE selector = ?1 AND run IS ?2 AND infer = ?3),"
        " 'opening', ?4)",
        (text, run, infer, now),
    )
    assert cursor.lastrowid is not None  # noqa: S101 - an INSERT always has one
    return cursor.lastrowid


def session_made(ledger: Ledger, session: int, server_id: str, echo: Selector | None) -> None:
    """Keep the id that the server gave, before any fact names it."""
    ledger.db.execute(
        "UPDATE session SET state = 'open', server_id = ?, echo = ? WHERE id = ?",
        (server_id, canonical_json(echo) if echo is not None else None, session),
    )


def session_not_made(ledger: Ledger, session: int) -> None:
    """The server said that it did not make it: there is nothing to keep, and nothing to count."""
    ledger.db.execute("DELETE FROM session WHERE id = ? AND server_id IS NULL", (session,))


def orphan_session(ledger: Ledger, session: int) -> None:
    """Its answer never came: if the server made it, it stays empty; it is counted, never deleted."""
    ledger.db.execute("UPDATE session SET state = 'orphan' WHERE id = ?", (session,))


def close_session(ledger: Ledger, session: int) -> None:
    """Nothing is written to it any more; on the wire that takes no call."""
    ledger.db.execute("UPDATE session SET state = 'closed' WHERE id = ?", (session,))


def orphan_openings(ledger: Ledger) -> int:
    """Sessions that a process of ours was opening when it died: nobody knows whether the server made them."""
    return ledger.db.execute("UPDATE session SET state = 'orphan' WHERE state = 'opening'").rowcount


def count_orphans(ledger: Ledger) -> int:
    """Sessions that the server may have made for nobody: empty, and left alone."""
    return int(ledger.db.execute("SELECT count(*) FROM session WHERE state = 'orphan'").fetchone()[0])


# -- scopes -----------------------------------------------------------------------------------------------


def keep_scope_listing(ledger: Ledger, paths: Sequence[str], now: str) -> None:
    """The scopes that are there before we register anything; kept once, for good."""
    ledger.db.executemany("INSERT OR IGNORE INTO scope(path, listed_before) VALUES (?, 1)", [(path,) for path in paths])
    ledger.db.execute("UPDATE migration SET scopes_listed_at = ? WHERE scopes_listed_at IS NULL", (now,))


def intend_scopes(ledger: Ledger, paths: Sequence[str], now: str) -> None:
    """Note, before the first POST /scopes, every path that it may create."""
    ledger.db.executemany(
        "INSERT INTO scope(path, listed_before, intended_at) VALUES (?1, 0, ?2) ON CONFLICT(path) DO UPDATE"
        " SET intended_at = coalesce(intended_at, ?2)",
        [(path, now) for path in paths],
    )


def scope_registered(ledger: Ledger, path: str, *, created_by_us: bool) -> None:
    """The node is there; ours where our own 201 made it."""
    ledger.db.execute(
        "UPDATE scope SET registered = 1, created_by_us = max(created_by_us, ?) WHERE path = ?",
        (created_by_us, path),
    )


def is_registered(ledger: Ledger, path: str) -> bool:
    """Whether this ledger saw the node registered."""
    row = ledger.db.execute("SELECT registered FROM scope WHERE path = ?", (path,)).fetchone()
    return row is not None and bool(row["registered"])


def known_session(ledger: Ledger, session: int) -> SessionRow:
    """A session by its number."""
    return session_of(ledger, ledger.db.execute("SELECT * FROM session WHERE id = ?", (session,)).fetchone())


def session_of(ledger: Ledger, row: Row) -> SessionRow:
    """A row of the table as what it means."""
    used = ledger.db.execute(
        "SELECT coalesce(max(position) + 1, 0) AS used FROM fact WHERE session = ?", (row["id"],)
    ).fetchone()["used"]
    return SessionRow(row["id"], selector_of(row["selector"]), row["run"], row["infer"], row["server_id"], used)
