"""`spectron-migrate replay --late-writers`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from spectron_migrate.cli.opening import catch_up_settings, open_api
from spectron_migrate.cli.runner import CommandResult, Invocation, run_async
from spectron_migrate.cli.tables import facts, number, without_zeros
from spectron_migrate.errors import ExitCode
from spectron_migrate.records import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.migration.replay_options import ReplayOptions
    from spectron_migrate.migration.round_result import Round
    from spectron_migrate.migration.rounds import CatchUpSettings
    from spectron_migrate.settings import Settings
    from spectron_migrate.state.late_writes import LateWrites

PATIENCE_S = 120.0
"""How long to wait for another process to end its round."""


def run(invocation: Invocation, settings: Settings, replay_options: ReplayOptions) -> CommandResult:
    """Bring what was written to Mem0 after `complete`; raises NotLegal before that."""
    # Late memories supersede nothing, so none has to wait until an older one may have appeared.
    catch_up = replace(catch_up_settings(settings, invocation.state, replay_options), settle_s=0.0)
    invocation.reporter.info(f"writing to {settings.spectron.endpoint}, context {settings.spectron.context}")
    done, left = run_async(invocation, _bring(invocation, settings, catch_up))
    code = _exit_code(done, left)
    return CommandResult(
        code,
        _to_json(done, left),
        draw(done, left),
        migration=done.migration or None,
        next="spectron-migrate replay --late-writers" if left.count else "spectron-migrate cutover check",
    )


async def _bring(invocation: Invocation, settings: Settings, catch_up: CatchUpSettings) -> tuple[Round, LateWrites]:
    from spectron_migrate.migration.late_writers import bring_late_writes
    from spectron_migrate.migration.ledger_access import round_lock
    from spectron_migrate.migration.rounds import Rounds

    reporter = invocation.reporter
    async with (
        round_lock(catch_up.state, patience_s=PATIENCE_S),
        open_api(settings, max_connections=catch_up.max_in_flight) as api,
    ):
        with closing(Rounds(catch_up, reporter=reporter)) as rounds:
            return await bring_late_writes(rounds, api, reporter=reporter)


def _exit_code(done: Round, left: LateWrites) -> ExitCode:
    if done.left.undecidable:
        return ExitCode.REFUSED
    if done.problem is not None or done.left.total:
        return ExitCode.UNREACHABLE
    return ExitCode.NO_GO if left.count else ExitCode.DONE


def _to_json(done: Round, left: LateWrites) -> dict[str, object]:
    return {
        "rounds": 1,
        "new": done.new,
        "changed": done.changed,
        "deleted": done.deleted,
        "written": done.written,
        "late": done.late,
        "waiting": done.waiting,
        "remaining": done.left.remaining,
        "in_doubt": done.left.in_doubt,
        "undecidable": done.left.undecidable,
        "refused": done.refused,
        "as_of": done.as_of,
        "ended": done.problem or "Mem0 was read to its end",
        "late_writes": left.to_json(),
    }


def draw(done: Round, left: LateWrites) -> Iterator[RenderableType]:
    """What was brought, and what is left."""
    title = f"{counted(done.written, 'memory')} brought from Mem0, superseding nothing"
    if left.count:
        title += f"; {counted(left.count, 'memory is', 'memories are')} not in Spectron yet"
    rows = [
        ("memories in Mem0", number(left.memories)),
        ("written now", number(done.written)),
        ("gone from Mem0, kept in Spectron", number(left.gone)),
        ("remaining", number(done.left.remaining)),
        ("in doubt", number(done.left.in_doubt)),
        ("undecidable", number(done.left.undecidable)),
        ("refused", number(done.refused)),
    ]
    yield facts(f"Late writers: {title}", without_zeros(rows, keep=("written now",)))
