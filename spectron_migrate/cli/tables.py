"""Building blocks of a summary.

Text from outside goes through `plain`, so that it is never markup and never an escape sequence. rich is imported inside
the functions, because importing it would slow down start-up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spectron_migrate.cli.terminal import printable, wrapped

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderableType
    from rich.table import Table
    from rich.text import Text

LETTERS_OF_AN_ID = 36
"""The length of a UUID."""


def plain(value: object, *, style: str = "", width: int | None = None) -> Text:
    """A value as one line of text without markup and control characters, cut at `width`."""
    from rich.text import Text

    if isinstance(value, Text):
        return value
    shown = printable(str(value)).replace("\n", "⏎")
    if width is not None and len(shown) > width:
        shown = shown[: width - 1] + "…"
    return Text(shown, style=style)


@dataclass(frozen=True)
class Wrapped:
    """Text on as many lines as it needs, broken only between words, so that a path or an id can be copied."""

    text: object
    lead: str = ""
    """Text before the first line."""
    style: str = ""
    lead_style: str = ""
    indent: int | None = None
    """Spaces before the other lines; None: as many as `lead` is wide."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Called by rich to print the text."""
        from rich.cells import cell_len
        from rich.text import Text

        first = cell_len(self.lead)
        indent = first if self.indent is None else self.indent
        # `lead` takes room only on the first line.
        room, lead = max(20, options.max_width - indent), "\ue001" * (first - indent)
        lines = wrapped(lead + plain(self.text).plain, room)
        yield Text.assemble((self.lead, self.lead_style), (lines[0][len(lead) :], self.style))
        for line in lines[1:]:
            yield Text(" " * indent) + Text(line, style=self.style)


def show(console: Console, part: RenderableType) -> None:
    """Print a part of a summary. Text that is longer than a line of the terminal is broken between words."""
    from rich.text import Text

    if not console.is_terminal or not isinstance(part, str | Text):
        console.print(part)
        return
    text = plain(part)
    indent = text.plain[: len(text.plain) - len(text.plain.lstrip())]
    for line in wrapped(text.plain, console.width, indent=indent + ("" if indent else "  ")):
        console.print(Text(line, style=text.style))


def facts(title: str, rows: Iterable[tuple[str, object]]) -> Group:
    """Names and values in two columns, under a headline."""
    from rich.cells import cell_len
    from rich.console import Group

    named = [(plain(name).plain, value) for name, value in rows]
    width = max((cell_len(name) for name, _ in named), default=0)
    return Group(
        Wrapped(title, style="bold"),
        *(Wrapped(value, f"  {name}{' ' * (width - cell_len(name))}    ", lead_style="dim") for name, value in named),
    )


def listing(
    title: str, columns: Iterable[str], rows: Iterable[Iterable[object]], *, unbroken: Collection[str] = ()
) -> Group:
    """A table with a header row, under a headline.

    Ids of memories stay on one line, so that they can be copied. So do the `unbroken` columns.
    """
    from rich.box import SIMPLE
    from rich.console import Group
    from rich.table import Table

    table, cells = Table(box=SIMPLE), [[plain(value) for value in row] for row in rows]
    for place, column in enumerate(columns):
        is_id = column == "memory" and all(len(row[place]) <= LETTERS_OF_AN_ID for row in cells)
        table.add_column(column, overflow="fold", no_wrap=is_id or column in unbroken)
    for row in cells:
        table.add_row(*row)
    return Group(Wrapped(title, style="bold"), table)


def side_by_side(titles: tuple[str, str], rows: Iterable[tuple[RenderableType, RenderableType]]) -> Table:
    """Two columns of equal width, whose rows stay beside each other however their texts wrap."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, expand=True, padding=(0, 1), header_style="dim")
    for title in titles:
        table.add_column(plain(title), ratio=1, overflow="fold")
    for left, right in rows:
        table.add_row(left, right)
    return table


def number(value: int | None) -> str:
    """A count with thousands separators; `unknown` for None."""
    return "unknown" if value is None else f"{value:,}"


def duration(seconds: float) -> str:
    """A duration in at most two units, such as `2 h 5 min`; from ten of the larger unit on, the smaller is left out."""
    whole = max(1, round(seconds))
    for size, name, smaller, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {small_name}" if rest and whole < 10 * size else "")
    return f"{whole} s"


def with_reasons(count: int, by_reason: Mapping[str, int], *, most: int = 6) -> str:
    """A count and its parts, the first `most` of them: `3 (expired 2, deleted 1)`."""
    if not by_reason:
        return number(count)
    parts = [f"{reason} {number(part)}" for reason, part in by_reason.items()]
    more = f", {len(parts) - most} more reasons" if len(parts) > most else ""
    return f"{number(count)} ({', '.join(parts[:most])}{more})"


def without_zeros(rows: Iterable[tuple[str, str]], *, keep: Collection[str]) -> list[tuple[str, str]]:
    """The rows whose value is neither 0 nor empty, and those whose names are in `keep`."""
    return [row for row in rows if row[1] not in ("0", "") or row[0] in keep]
