"""Which of several rows of one id goes into the dump. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable

from spectron_migrate.dump.index import SeenRow

IDENTICAL = "identical copy of the same id"
OLDER = "older copy of the same id"
OTHER = "another copy of the same id with the same time"
"""Reasons why a copy is skipped."""


def row_to_drop(
    kept: SeenRow, row: SeenRow, line_at: Callable[[int], bytes], *, rereads: bool
) -> tuple[SeenRow, str | None]:
    """The one of two rows of an id to drop, and the reason to list it as skipped; None if it is not to be listed.

    `row` came after `kept`; `line_at` reads a line at an offset. With `rereads`, or in a later pass, `row` is the same
    row read again: the later reading counts, and the earlier one is not listed. Otherwise they are copies in files, and
    the newer one counts, in whatever order the files were read.
    """
    if not row.written:
        return (row if kept.written else kept), None  # a written row wins over one that was skipped or filtered out
    if not kept.written:
        return kept, None
    are_copies = kept.pass_number == row.pass_number and not rereads
    ours, theirs = line_at(kept.offset), line_at(row.offset)
    if ours == theirs:
        return row, IDENTICAL if are_copies else None
    ours_changed, theirs_changed = _changed_at(ours), _changed_at(theirs)
    if not are_copies:
        is_newer = kept.pass_number < row.pass_number or theirs_changed >= ours_changed
        return (kept if is_newer else row), None
    if ours_changed == theirs_changed:
        return (kept if theirs > ours else row), OTHER
    return (kept if theirs_changed > ours_changed else row), OLDER


def _changed_at(line: bytes) -> str:
    """When the row last changed according to Mem0; empty if Mem0 does not say."""
    row = json.loads(line)
    return str(row["updated_at"] or row["created_at"] or "")
