"""Pieces of HTML that every part of the page uses; each escapes its texts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from html import escape

from spectron_migrate.verify.reports.text import visible


def text(value: object) -> str:
    """Untrusted text, for a page or an attribute."""
    return escape(visible(value))


def table(columns: Iterable[str], rows: Iterable[str], *, numbers: Collection[str] = (), stacks: bool = False) -> str:
    """A table; the rows are HTML. `numbers`: columns whose cells have the class `number`.

    `stacks`: on a narrow page the cells of a row are stacked, each with its `data-of`.
    """
    head = "".join(f"<th{' class=number' if column in numbers else ''}>{text(column)}</th>" for column in columns)
    kind = " class=stacks" if stacks else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
