"""Words for completion in a shell: ids from the ledger of the state directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from spectron_migrate.ledger.read.completion import IdKind

DEFAULT_STATE = Path(".spectron-migrate")


def users(ctx: typer.Context, incomplete: str) -> list[str]:
    """User ids."""
    return _ids(ctx, "user_id", incomplete)


def agents(ctx: typer.Context, incomplete: str) -> list[str]:
    """Agent ids."""
    return _ids(ctx, "agent_id", incomplete)


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Run ids."""
    return _ids(ctx, "run_id", incomplete)


def undecidable(ctx: typer.Context, incomplete: str) -> list[str]:
    """`ID=present` and `ID=absent` for each undecidable memory, `ID=newer` and `ID=older` for each pending one."""
    prefix = incomplete.split("=")[0]
    undecided = _ids(ctx, "undecidable memory", prefix)
    answers = [f"{mem0_id}={answer}" for mem0_id in undecided for answer in ("present", "absent")]
    pending = _ids(ctx, "pending memory", prefix)
    answers += [f"{mem0_id}={answer}" for mem0_id in pending for answer in ("newer", "older")]
    return [word for word in answers if word.startswith(incomplete)]


def migrations(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of migrations."""
    return _ids(ctx, "migration", incomplete)


def scopes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Scopes that a replay created."""
    return _ids(ctx, "scope", incomplete)


def _ids(ctx: typer.Context, kind: IdKind, prefix: str) -> list[str]:
    from spectron_migrate.ledger.read.completion import ids_beginning_with

    return ids_beginning_with(prefix, kind, Path(ctx.params.get("state") or DEFAULT_STATE))
