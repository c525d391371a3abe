"""What tables look like in a terminal of 80 columns."""

from __future__ import annotations

import io
import uuid

from rich.console import Console

from spectron_migrate.cli.tables import listing

IDS = [str(uuid.UUID(int=number)) for number in range(3)]


def screen(columns: list[str], rows: list[list[str]]) -> str:
    """A listing as 80 columns show it."""
    out = io.StringIO()
    Console(file=out, width=80, soft_wrap=False).print(listing("Title", columns, rows))
    return out.getvalue()


def test_ids_of_memories_stay_on_one_line_so_that_they_can_be_copied() -> None:
    shown = screen(["memory", "fate", "why"], [[mem0_id, "written", "a reason of many words " * 4] for mem0_id in IDS])
    assert [] == [mem0_id for mem0_id in IDS if mem0_id not in shown]
    assert 80 >= max(map(len, shown.splitlines()))


def test_an_id_that_is_longer_than_usual_leaves_room_for_the_reason() -> None:
    shown = screen(["memory", "why"], [["x" * 70, "because of a reason"]])
    assert "reason" in shown
    assert 70 == shown.count("x")
