"""Sessions and scopes of ours: noted before they are asked for, so that none is made unknown to the ledger."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from sqlite3 import Row

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.numbered import selector_number
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
    same_run, run_value = _same_run(run)
    rows = ledger.db.execute(
        f"{_SESSION} WHERE selector.text = ? AND infer = ? AND {same_run} AND state = 'open' ORDER BY part",
        (canonical_json(selector), infer, *run_value),
    ).fetchall()
    for row in rows:
        if row["id"] in taken:
            continue
        session = _session_of(row)
        if session.used < size:
            return session
        close_session(ledger, session.id)
    return None


def begin_session(ledger: Ledger, selector: Selector, run: str | None, infer: Infer, now: str) -> int:
    """Note that a session is about to be made. One whose answer is never known stays an empty orphan."""
    number = selector_number(ledger.db, selector)
    same_run, run_value = _same_run(run)
    part = ledger.db.execute(
        f"SELECT coalesce(max(part) + 1, 0) FROM session WHERE selector = ? AND infer = ? AND {same_run}",
        (number, infer, *run_value),
    ).fetchone()[0]
    row = ledger.db.execute(
        "INSERT INTO session(selector, run, infer, part, state, created_at) VALUES (?, ?, ?, ?, 'opening', ?)"
        " RETURNING id",
        (number, run, infer, part, now),
    ).fetchone()
    return int(row["id"])


def _same_run(run: str | None) -> tuple[str, tuple[str, ...]]:
    """Memories without a run share sessions."""
    return ("run IS NULL", ()) if run is None else ("run = ?", (run,))


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
    ledger.db.executemany(
        "INSERT INTO scope(path, listed_before) VALUES (?, 1) ON CONFLICT(path) DO NOTHING", [(path,) for path in paths]
    )
    ledger.db.execute("UPDATE migration SET scopes_listed_at = ? WHERE scopes_listed_at IS NULL", (now,))


def intend_scopes(ledger: Ledger, paths: Sequence[str], now: str) -> None:
    """Note, before the first POST /scopes, every path that it may create."""
    ledger.db.executemany(
        "INSERT INTO scope(path, listed_before, intended_at) VALUES (?, 0, ?) ON CONFLICT(path) DO UPDATE"
        " SET intended_at = coalesce(scope.intended_at, excluded.intended_at)",
        [(path, now) for path in paths],
    )


def scope_registered(ledger: Ledger, path: str, *, created_by_us: bool) -> None:
    """The node is there; ours where our own 201 made it."""
    ledger.db.execute("UPDATE scope SET registered = 1 WHERE path = ?", (path,))
    if created_by_us:
        ledger.db.execute("UPDATE scope SET created_by_us = 1 WHERE path = ?", (path,))


def is_registered(ledger: Ledger, path: str) -> bool:
    """Whether this ledger saw the node registered."""
    row = ledger.db.execute("SELECT registered FROM scope WHERE path = ?", (path,)).fetchone()
    return row is not None and bool(row["registered"])


_SESSION = (
    "SELECT session.id, selector.text AS selector, run, infer, server_id,"
    " (SELECT coalesce(max(position) + 1, 0) FROM fact WHERE fact.session = session.id) AS used"
    " FROM session JOIN selector ON selector.no = session.selector"
)


def known_session(ledger: Ledger, session: int) -> SessionRow:
    """A session by its number."""
    return _session_of(ledger.db.execute(f"{_SESSION} WHERE session.id = ?", (session,)).fetchone())


def _session_of(row: Row) -> SessionRow:
    return SessionRow(row["id"], selector_of(row["selector"]), row["run"], row["infer"], row["server_id"], row["used"])
