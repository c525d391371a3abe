"""What tables look like in a terminal of 80 columns."""

from __future__ import annotations

import io
import re
import uuid

from rich.console import Console

from spectron_migrate.cli.tables import Wrapped, facts, listing, plain, show, side_by_side
from spectron_migrate.cli.terminal import wrapped

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


def test_labels_are_dim_and_what_they_name_is_not() -> None:
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=True, color_system="standard").print(facts("Replay", [("written", 12)]))
    headline, row = out.getvalue().splitlines()
    assert "\x1b[1mReplay\x1b[0m" == headline
    assert re.fullmatch(r"\x1b\[2m  written +\x1b\[0m12", row)


def test_two_answers_stand_beside_each_other_however_their_texts_wrap() -> None:
    long = "a text of many words that does not fit into half a line of a terminal, and goes on"
    out = io.StringIO()
    rows = [(plain(long), plain("short")), (plain("second"), plain(long))]
    Console(file=out, width=80).print(side_by_side(("Mem0", "Spectron"), rows))
    lines = out.getvalue().splitlines()
    [second] = [line for line in lines if "second" in line]
    assert second.index("a text") == next(line for line in lines if "short" in line).index("short")
    assert 80 >= max(map(len, lines))
    assert set(long.split()) <= set(out.getvalue().split())


def test_a_text_wraps_between_words_and_a_command_to_paste_stays_whole() -> None:
    command = "spectron-migrate cutover accept --state elsewhere will_not_expire --reason TEXT"
    lines = wrapped(f"they expire in Mem0 and stay in Spectron, so look at them: {command}, or wait", 60, indent="  ")
    assert 3 == len(lines)
    assert any("cutover accept --state elsewhere" in line for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])
    assert wrapped("/a/path/" * 20, 40) == ["/a/path/" * 20]


def test_only_a_terminal_gets_line_breaks() -> None:
    """What a script reads stays one line; on a terminal no word is cut."""
    hint = "  no application reads through the adapter or routing.json, so it would go on with Mem0 alone: attach it"
    shown = {}
    for is_terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, width=40, soft_wrap=True, force_terminal=is_terminal, color_system=None)
        show(console, hint)
        shown[is_terminal] = out.getvalue()
    assert hint + "\n" == shown[False]
    assert 40 >= max(map(len, shown[True].splitlines()))
    assert hint.split() == shown[True].split()


def test_lines_after_the_first_may_be_indented_less_than_the_text_before_it() -> None:
    out = io.StringIO()
    Console(file=out, width=40).print(
        Wrapped("one two three four five six seven eight nine ten", "  a gate: ", indent=4)
    )
    rows = out.getvalue().splitlines()
    assert rows[0].startswith("  a gate: one")
    assert rows[1].startswith("    ")
    assert not rows[1].startswith("     ")
    assert 40 >= max(map(len, rows))
