"""Tables for people. Whatever comes from outside goes through `plain`: text, never markup or an escape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text


def plain(value: object, *, style: str = "", width: int | None = None) -> Text:
    """Foreign text, made visible: no markup, no control characters, on one line, cut at `width`."""
    from rich.text import Text

    if isinstance(value, Text):
        return value

    shown = "".join(
        letter if letter.isprintable() else ("⏎" if letter == "\n" else f"\\x{ord(letter):02x}")
        for letter in str(value)
    )
    if width is not None and len(shown) > width:
        shown = shown[: width - 1] + "…"
    return Text(shown, style=style)


def facts(title: str, rows: Iterable[tuple[str, object]]) -> Group:
    """A two-column table under a headline: what, and how many or where."""
    from rich.console import Group
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(plain(name), plain(value))
    return Group(plain(title, style="bold"), table)


def listing(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Group:
    """A table with a header, under a headline."""
    from rich.box import SIMPLE
    from rich.console import Group
    from rich.table import Table

    table = Table(box=SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(plain(value) for value in row))
    return Group(plain(title, style="bold"), table)


def number(value: int | None) -> str:
    """With separators, so that a million can be read."""
    return "unknown" if value is None else f"{value:,}"
