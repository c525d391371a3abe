"""What a shell may complete: ids that the ledger knows. Fast or nothing: whoever presses Tab does not wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import typer

MOST = 50
PATIENCE_S = 0.2
_STATE = Path(".spectron-migrate")


def users(ctx: typer.Context, incomplete: str) -> list[str]:
    """User ids."""
    return _owners(ctx, "user_id", incomplete)


def agents(ctx: typer.Context, incomplete: str) -> list[str]:
    """Agent ids."""
    return _owners(ctx, "agent_id", incomplete)


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Run ids."""
    return _owners(ctx, "run_id", incomplete)


def undecidable(ctx: typer.Context, incomplete: str) -> list[str]:
    """Both answers for each memory that waits for a person."""
    ids = _ask(
        ctx,
        "SELECT DISTINCT mem0_id FROM fact WHERE state = 'undecidable' AND mem0_id GLOB ? ORDER BY mem0_id LIMIT ?",
        incomplete.split("=")[0],
    )
    both = [f"{mem0_id}={answer}" for mem0_id in ids for answer in ("present", "absent")]
    return [word for word in both if word.startswith(incomplete)]


def migrations(ctx: typer.Context, incomplete: str) -> list[str]:
    """The migration's id."""
    return _ask(ctx, "SELECT id FROM migration WHERE id GLOB ? LIMIT ?", incomplete)


def scopes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Scopes that a replay made."""
    return _ask(ctx, "SELECT path FROM scope WHERE created_by_us = 1 AND path GLOB ? ORDER BY path LIMIT ?", incomplete)


def _owners(ctx: typer.Context, field: str, incomplete: str) -> list[str]:
    owner = f"json_extract(record, '$.{field}')"
    sql = f"SELECT DISTINCT {owner} AS owner FROM memory WHERE owner GLOB ? AND owner IS NOT NULL LIMIT ?"
    return sorted(_ask(ctx, sql, incomplete))


def _ask(ctx: typer.Context, sql: str, prefix: str) -> list[str]:
    """What begins so, in any ledger of the state directory, as far as that is known at once."""
    import sqlite3

    pattern = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in prefix) + "*"
    found: dict[str, None] = {}
    until = time.monotonic() + PATIENCE_S
    for path in _ledgers(Path(ctx.params.get("state") or _STATE)):
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.05)) as db:
                db.set_progress_handler(lambda: time.monotonic() > until, 1000)
                for row in db.execute(sql, (pattern, MOST)):
                    found[str(row[0])] = None
        except sqlite3.Error:
            continue  # no ledger of ours, or no time left: what is known by now is offered
    return list(found)[:MOST]


def _ledgers(state: Path) -> Iterator[Path]:
    yield from (path for path in (state / "ledger.db", *sorted(state.glob("shard-*/ledger.db"))) if path.is_file())
