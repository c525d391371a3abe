"""Decides which of several rows with one id goes into the dump. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from spectron_migrate.dump.index import SeenRow
from spectron_migrate.records import ENTITY_IDS, Json

IDENTICAL = "identical copy of the same id"
OLDER = "older copy of the same id"
OTHER = "another copy of the same id with the same time"
OTHER_TEXT = "another text of the same id with the same time"
OTHER_OWNER = "the same id with another owner"
"""Reasons why a copy is skipped."""

CONFLICTS = (OTHER_TEXT, OTHER_OWNER)
"""Reasons for which a memory may be lost, because nothing shows which of the two is the memory with that id."""


def row_to_drop(
    kept: SeenRow, row: SeenRow, line_at: Callable[[int], bytes], *, rereads: bool
) -> tuple[SeenRow, str | None]:
    """Which of two rows with one id to drop, and the reason to list it as skipped; None if it is not listed.

    `row` came after `kept`; `line_at` reads a line at an offset. With `rereads`, or in a later pass, `row` is the same
    row read again: the later reading counts, and the earlier one is not listed. Otherwise they are copies in files, and
    the newer one counts, whatever the order in which the files were read.
    """
    if not row.written:
        return (row if kept.written else kept), None  # a written row wins over one that was skipped or filtered out
    if not kept.written:
        return kept, None
    are_copies = kept.pass_number == row.pass_number and not rereads
    our_line, their_line = line_at(kept.offset), line_at(row.offset)
    if our_line == their_line:
        return row, IDENTICAL if are_copies else None
    ours, theirs = json.loads(our_line), json.loads(their_line)
    if not are_copies:
        is_newer = kept.pass_number < row.pass_number or _changed_at(theirs) >= _changed_at(ours)
        return (kept if is_newer else row), None
    if _differ_in_creation_alone(ours, theirs):
        is_earlier = theirs["created_at"] is not None and (ours["created_at"] or "~") > theirs["created_at"]
        return (kept if is_earlier else row), IDENTICAL
    is_later = (_changed_at(theirs), _owners(theirs), their_line) > (_changed_at(ours), _owners(ours), our_line)
    loser = kept if is_later else row
    if _have_different_owners(ours, theirs):
        return loser, OTHER_OWNER
    if _changed_at(ours) != _changed_at(theirs):
        return loser, OLDER
    return loser, OTHER if ours["memory"] == theirs["memory"] else OTHER_TEXT


def _changed_at(row: Mapping[str, Json]) -> str:
    """When the row last changed according to Mem0; empty if Mem0 does not say."""
    return str(row["updated_at"] or row["created_at"] or "")


def _owners(row: Mapping[str, Json]) -> int:
    """How many owners the row names: some listings leave out the one that they were asked for."""
    return sum(row[name] is not None for name in ENTITY_IDS)


def _differ_in_creation_alone(ours: Mapping[str, Json], theirs: Mapping[str, Json]) -> bool:
    """Whether only `created_at`, and what was computed from it, differs: then an import gave the row a later one."""
    ignored = ("created_at", "text_at", "text_at_source")
    return all(theirs.get(name) == value for name, value in ours.items() if name not in ignored)


def _have_different_owners(ours: Mapping[str, Json], theirs: Mapping[str, Json]) -> bool:
    """Whether they name different owners of one kind.

    Then they are two memories, from sources that number rows alike.
    """
    return any(ours[name] and theirs[name] and ours[name] != theirs[name] for name in ENTITY_IDS)
