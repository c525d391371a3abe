"""Our sessions and scopes. They are recorded before they are requested, so that the ledger knows all that may exist."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from spectron_migrate.database.interface import ResultRow
from spectron_migrate.ledger.lanes import serialize
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.numbered import selector_number
from spectron_migrate.records import Infer, Selector, canonical_json, selector_of


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One of our sessions; `server_id` is None until the server has created it."""

    id: int
    selector: Selector
    run: str | None
    infer: Infer
    server_id: str | None
    used: int
    """Positions assigned so far."""


def open_session(
    ledger: Ledger,
    lane: str,
    selector: Selector,
    run: str | None,
    infer: Infer,
    size: int,
    *,
    taken: Collection[int] = (),
    own: Collection[int] = (),
) -> SessionRow | None:
    """An open session that has room for these facts; full ones are closed.

    `taken`: sessions to which another stream writes. A session has at most one undecided send, so these are left out,
    and so are sessions with a fact in doubt or with a fact of another lane. `own`: sessions that this process opened.
    If several processes deliver, an empty session of another one is left to that process.
    """
    same_run, run_value = _same_run(run)
    rows = ledger.db.execute(
        f"{_SESSION} WHERE selector.text = ? AND infer = ? AND {same_run} AND session.state = 'open' AND NOT EXISTS"
        " (SELECT 1 FROM fact WHERE fact.session = session.id AND"
        "  (fact.state = 'intended' OR fact.lane != (SELECT no FROM lane WHERE name = ?))) ORDER BY part",
        (canonical_json(selector), infer, *run_value, lane),
    ).fetchall()
    for row in rows:
        if row["id"] in taken or (row["used"] == 0 and ledger.workers is not None and row["id"] not in own):
            continue
        session = _session_of(row)
        if session.used < size:
            return session
        close_session(ledger, session.id)
    return None


def begin_session(ledger: Ledger, selector: Selector, run: str | None, infer: Infer, now: str) -> int:
    """Record that a session is about to be created. If the answer never arrives it becomes an orphan."""
    text = canonical_json(selector)
    serialize(ledger, f"sessions of {text}")
    same_run, run_value = _same_run(run)
    begin = (
        "INSERT INTO session(selector, run, infer, part, state, created_at) SELECT no, ?, ?, (SELECT"
        f" coalesce(max(part) + 1, 0) FROM session WHERE selector = selector.no AND infer = ? AND {same_run}),"
        " 'opening', ? FROM selector WHERE text = ? RETURNING id"
    )
    values = (run, infer, infer, *run_value, now, text)
    row = ledger.db.execute(begin, values).fetchone()
    if row is None:
        selector_number(ledger.db, selector)
        row = ledger.db.execute(begin, values).fetchone()
    return int(row["id"])


def _same_run(run: str | None) -> tuple[str, tuple[str, ...]]:
    """A condition for sessions of the same run. Memories without a run share sessions."""
    return ("run IS NULL", ()) if run is None else ("run = ?", (run,))


def session_made(ledger: Ledger, session: int, server_id: str, echo: Selector | None) -> bool:
    """Store the server's id before any fact names it; False if the server gave this id for an earlier session of ours.

    The check and the change are one, because two sessions may be opened at the same moment.
    """
    serialize(ledger, f"session {server_id}")
    if ledger.db.execute("SELECT 1 FROM session WHERE server_id = ?", (server_id,)).fetchone() is not None:
        return False
    ledger.db.execute(
        "UPDATE session SET state = 'open', server_id = ?, echo = ? WHERE id = ?",
        (server_id, canonical_json(echo) if echo is not None else None, session),
    )
    return True


def session_not_made(ledger: Ledger, session: int) -> None:
    """Remove a session that the server did not create."""
    ledger.db.execute("DELETE FROM session WHERE id = ? AND server_id IS NULL", (session,))


def orphan_session(ledger: Ledger, session: int) -> None:
    """Mark a session whose answer never arrived. If the server created it, it stays empty and is never deleted."""
    ledger.db.execute("UPDATE session SET state = 'orphan' WHERE id = ?", (session,))


def close_session(ledger: Ledger, session: int) -> None:
    """Stop writing to a session. This needs no request."""
    ledger.db.execute("UPDATE session SET state = 'closed' WHERE id = ?", (session,))


def orphan_openings(ledger: Ledger) -> int:
    """Mark sessions as orphans if a process died while it opened them; returns their number."""
    return ledger.db.execute("UPDATE session SET state = 'orphan' WHERE state = 'opening'").rowcount


def count_orphans(ledger: Ledger) -> int:
    """How many sessions are orphans."""
    return int(ledger.db.execute("SELECT count(*) FROM session WHERE state = 'orphan'").fetchone()[0])


def any_begun(ledger: Ledger) -> bool:
    """Whether a session was ever requested."""
    return ledger.db.execute("SELECT 1 FROM session LIMIT 1").fetchone() is not None


# -- scopes -----------------------------------------------------------------------------------------------


def keep_scope_listing(ledger: Ledger, paths: Iterable[str], now: str) -> None:
    """Store scopes that exist before we intend to register any.

    Scopes that we already intended to register stay unchanged.
    """
    ledger.db.executemany(
        "INSERT INTO scope(path, listed_before) VALUES (?, 1) ON CONFLICT(path) DO NOTHING", [(path,) for path in paths]
    )
    ledger.db.execute("UPDATE migration SET scopes_listed_at = ? WHERE scopes_listed_at IS NULL", (now,))


def forget_scopes(ledger: Ledger) -> None:
    """Forget all scopes, so that they are listed again. Call only while no session was begun."""
    ledger.db.execute("DELETE FROM scope")
    ledger.db.execute("UPDATE migration SET scopes_listed_at = NULL")


def intend_scopes(ledger: Ledger, paths: Sequence[str], now: str) -> None:
    """Record every path that POST /scopes may create, before it is called."""
    ledger.db.executemany(
        "INSERT INTO scope(path, listed_before, intended_at) VALUES (?, 0, ?) ON CONFLICT(path) DO UPDATE"
        " SET intended_at = coalesce(scope.intended_at, excluded.intended_at)",
        [(path, now) for path in paths],
    )


def scope_registered(ledger: Ledger, path: str, *, created_by_us: bool) -> None:
    """Record that the node exists. It is ours if our own request created it (201)."""
    ledger.db.execute("UPDATE scope SET registered = 1 WHERE path = ?", (path,))
    if created_by_us:
        ledger.db.execute("UPDATE scope SET created_by_us = 1 WHERE path = ?", (path,))


def is_registered(ledger: Ledger, path: str) -> bool:
    """Whether we registered the node, or found it registered."""
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


def _session_of(row: ResultRow) -> SessionRow:
    return SessionRow(row["id"], selector_of(row["selector"]), row["run"], row["infer"], row["server_id"], row["used"])
