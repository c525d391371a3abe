"""Decides which step an operator would take next: which gates `cutover check` evaluates, and what `next` names."""

from __future__ import annotations

from typing import Literal

from spectron_migrate.state.cutover_state import CutoverState

SHARES = (5, 50, 100)
"""The percentages of users that are suggested, one after another."""
GatedStep = Literal["shift", "all", "complete"]
"""A step that gates hold back: a shift towards Spectron, a shift of all users, `complete`."""
GATED_STEPS: tuple[GatedStep, ...] = ("shift", "all", "complete")


def next_gated_step(state: CutoverState) -> GatedStep:
    """The step that comes next."""
    if state.all_read_since is not None:
        return "complete"
    return "all" if next_share(state.percent) == 100 else "shift"


def next_share(percent: float) -> float:
    """The percentage of users that is suggested for the next shift."""
    return next((share for share in SHARES if share > percent), 100)
