"""Shows what `replay --adopt` found, and completes the command that hints name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectron_migrate.cli.runner import Invocation
from spectron_migrate.cli.tables import number

if TYPE_CHECKING:
    from spectron_migrate.migration.replay_summary import ReplaySummary

ADOPT = "spectron-migrate replay --adopt"
"""The command, as hints name it."""


def name_adoption(invocation: Invocation, hint: str | None) -> str | None:
    """The hint, with the command line that adopts as it must be typed here."""
    if hint is None or ADOPT not in hint:
        return hint
    return hint.replace(ADOPT, invocation.complete(ADOPT), 1)


def is_finished(summary: ReplaySummary) -> bool:
    """Whether everything was looked for."""
    found = summary.to_json().get("adoption")
    return found is None or bool(found["finished"])


def adoption_rows(summary: ReplaySummary) -> list[tuple[str, str]]:
    """The rows of an adoption in the table of a run; none without one."""
    found = (summary.to_json().get("adoption") or {}) if not summary.dry_run else {}
    if not found:
        return []
    return [
        ("  found on the server", number(found["adopted"])),
        ("  of which without a turn", number(found["without_turn"])),
        ("  gone from the server, to be written again", number(found["gone"])),
        ("  unknown turns beside them", number(found["unknown"])),
        ("  requests to look for them", number(found["requests"])),
    ]
