"""Steps of a cutover, as somebody takes them at one moment."""

from __future__ import annotations

from spectron_migrate.state.cutover_state import Step

AT = "2026-11-22T10:00:00.000000Z"
MIGRATION = "m" * 16


def step(name: str, **more: object) -> Step:
    """A step that anna takes at that moment."""
    return Step(name, AT, "anna@host (1)", **more)  # type: ignore[arg-type]
