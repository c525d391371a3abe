"""`spectron-migrate status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectron_migrate.cli import options
from spectron_migrate.cli.conduct import Outcome, Stage, conduct
from spectron_migrate.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from spectron_migrate.records import Json


def command(
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Show where the migration stands and what to run next.

    Example: spectron-migrate status
    """

    def work(stage: Stage) -> Outcome:
        from spectron_migrate.ledger import Ledger, views

        settings = stage.settings()
        with Ledger.open_for_reading(settings.state) as ledger:
            migration = ledger.migration()
            states = views.count_all(ledger)
            reasons = [
                {"id": row.mem0_id, "state": row.state, "reason": row.reason}
                for row in views.named_all(ledger, ("refused", "undecidable"), limit=views.LISTED)
            ]
        body: dict[str, Json] = {
            "ledger": str(settings.state / "ledger.db"),
            "endpoint": migration.endpoint if migration else None,
            "context": migration.context if migration else None,
            "source": migration.source if migration else None,
            "states": states,
            "reasons": reasons,
        }
        return Outcome(
            ExitCode.DONE,
            body,
            lambda console: draw(console, body),
            migration=migration.id if migration else None,
            next=_next(states),
        )

    return conduct("status", options.common(config, state, as_json, quiet, verbose), work)


def _next(states: dict[str, int]) -> str:
    if states.get("planned", 0) or states.get("intended", 0):
        return "spectron-migrate replay"
    if states.get("refused", 0):
        return "spectron-migrate replay --retry-failed"
    return "spectron-migrate dual-verify"


def draw(console: Console, body: dict[str, Json]) -> None:
    """One screen."""
    from spectron_migrate.cli.draw import facts, listing, number

    rows = [(name, body[name] or "not yet known") for name in ("endpoint", "context", "source", "ledger")]
    rows += [(_SPOKEN[name], number(body["states"].get(name, 0))) for name in _SPOKEN if body["states"].get(name)]
    console.print(facts("Migration", rows))
    if body["reasons"]:
        shown = [(row["id"], row["state"], row["reason"]) for row in body["reasons"][:10]]
        console.print(listing("For a person to look at", ["memory", "state", "reason"], shown))


_SPOKEN = {
    "written": "written",
    "stored_not_extracted": "stored, not extracted",
    "planned": "remaining",
    "intended": "in doubt",
    "refused": "refused",
    "undecidable": "undecidable",
    "skipped": "skipped",
}
