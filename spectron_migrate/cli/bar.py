"""The progress bar on a terminal. A module of its own, because importing tqdm would slow down start-up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from spectron_migrate.cli.progress import FALLBACK_COLUMNS, Progress

WIDEST = 30
"""The width of the bar itself."""
NARROWEST = 4
"""If the bar would be narrower than this, the note about what slows the stage down is left out."""


class Bar(tqdm):  # type: ignore[type-arg]
    """Draws the running stage: tqdm does the drawing, `Progress` provides the words and the rate."""

    monitor_interval = 0

    def __init__(self, progress: Callable[[], Progress]) -> None:
        """`progress` is called whenever the bar is drawn."""
        self._progress = progress
        super().__init__(file=sys.stderr, leave=False, dynamic_ncols=True)

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values that tqdm draws."""
        fields: dict[str, Any] = dict(super().format_dict)
        shown = self._progress()
        columns = fields["ncols"] or FALLBACK_COLUMNS
        fields.update(n=shown.done, total=shown.total, ncols=columns, bar_format=_layout(shown, columns))
        return fields


def _layout(shown: Progress, columns: int) -> str:
    """tqdm's format of one line: the stage, the bar, the counts, and what slows it down if there is room."""
    text = f"{shown.stage} {shown.counts}".rstrip() if shown.share is None else shown.counts
    slowed = f" ({shown.gauges.slowed})" if shown.gauges is not None and shown.gauges.slowed else ""
    room = columns - 1 - len(text) - (0 if shown.share is None else len(shown.stage) + 4)
    if room - len(slowed) < (0 if shown.share is None else NARROWEST):
        slowed = ""
    words = _escaped(text + slowed)
    if shown.share is None:
        return words
    width = min(WIDEST, room - len(slowed))
    bar = f" |{{bar:{width}}}| " if width >= NARROWEST else " "
    return f"{_escaped(shown.stage)}{bar}{words}"


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
