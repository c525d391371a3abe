"""Lines that were left out of a file: the others are found where they are now."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.dump.dead_lines import DeadLines

LOGS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), max_size=30)
"""Of each line its size, and the time at which it was left out: 1 to 3; 0 for never."""


@given(LOGS)
def test_every_line_that_is_left_is_found_and_those_left_out_are_one_run_where_they_touch(
    log: list[tuple[int, int]],
) -> None:
    lines, offset = [], 0
    for size, time in log:
        lines.append((offset, size, time))
        offset += size
    dead = DeadLines()
    for time in (1, 2, 3):
        dead = dead.and_also((offset, size) for offset, size, out in lines if out == time)
        now = 0
        for offset, size, out in lines:
            if not 0 < out <= time:
                assert now == dead.now(offset)
                now += size
        assert dead.size == sum(size for _, size, out in lines if 0 < out <= time)
    runs = sum(bool(out) and (at == 0 or not lines[at - 1][2]) for at, (_, _, out) in enumerate(lines))
    assert runs == len(dead._at)
