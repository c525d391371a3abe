"""Tables for people. Whatever comes from outside goes through `plain`: text, never markup or an escape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group
    from rich.text import Text


def visible(text: str) -> str:
    """What came from outside may hold control characters; a terminal must only ever show them."""
    return "".join(letter if letter.isprintable() or letter == "\n" else f"\\x{ord(letter):02x}" for letter in text)


def plain(value: object, *, style: str = "", width: int | None = None) -> Text:
    """Foreign text, made visible: no markup, no control characters, on one line, cut at `width`."""
    from rich.text import Text

    if isinstance(value, Text):
        return value

    shown = visible(str(value)).replace("\n", "⏎")
    if width is not None and len(shown) > width:
        shown = shown[: width - 1] + "…"
    return Text(shown, style=style)


@dataclass(frozen=True)
class Wrapped:
    """Foreign text on as many lines as it needs, broken between words alone: a path or an id stays whole, to copy."""

    text: object
    lead: str = ""
    """What stands before its first line; the others are indented as far."""
    style: str = ""
    lead_style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """What rich asks of whatever can be printed."""
        from textwrap import wrap

        from rich.cells import cell_len
        from rich.text import Text

        indent = cell_len(self.lead)
        width = max(20, options.max_width - indent)
        lines = wrap(plain(self.text).plain, width, break_long_words=False, break_on_hyphens=False) or [""]
        yield Text(self.lead, style=self.lead_style) + Text(lines[0], style=self.style)
        for line in lines[1:]:
            yield Text(" " * indent) + Text(line, style=self.style)


def facts(title: str, rows: Iterable[tuple[str, object]]) -> Group:
    """Two columns under a headline: what, and how many or where."""
    from rich.cells import cell_len
    from rich.console import Group

    named = [(plain(name).plain, value) for name, value in rows]
    width = max((cell_len(name) for name, _ in named), default=0)
    return Group(
        Wrapped(title, style="bold"),
        *(Wrapped(value, f"  {name}{' ' * (width - cell_len(name))}    ", lead_style="dim") for name, value in named),
    )


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
    return Group(Wrapped(title, style="bold"), table)


def number(value: int | None) -> str:
    """With separators, so that a million can be read."""
    return "unknown" if value is None else f"{value:,}"
