"""What `status` shows of a cutover, and the command it suggests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spectron_migrate.cutover.status import cutover_status, next_command
from spectron_migrate.state.cutover_state import CutoverState, Step
from spectron_migrate.state.journal import record_step
from spectron_migrate.state.routing import FILE
from spectron_migrate.state.store import store_at

STARTED = CutoverState(phase="started", migration="m" * 16)
SHIFTED = replace(STARTED, phase="shift", percent=100, all_read_since="2026-11-22T10:00:00.000000Z")
PINNED = replace(SHIFTED, pinned_to_mem0=frozenset({"a"}), all_read_since=None)
COMPLETE = f"spectron-migrate cutover complete --migration {'m' * 16} --yes"
AT = "2026-11-22T10:00:00.000000Z"


@pytest.mark.parametrize(
    ("state", "following", "ready", "command"),
    [
        (CutoverState(), False, None, None),
        (STARTED, False, None, "spectron-migrate replay --follow"),
        (STARTED, True, None, "spectron-migrate cutover check"),
        (STARTED, True, False, "spectron-migrate cutover check"),
        (STARTED, True, True, "spectron-migrate cutover shift 5"),
        (replace(STARTED, phase="shift", percent=10), True, True, "spectron-migrate cutover shift 50"),
        (SHIFTED, True, None, "spectron-migrate cutover check"),
        (SHIFTED, True, False, "spectron-migrate cutover check"),
        (SHIFTED, True, True, COMPLETE),
        (PINNED, True, None, "spectron-migrate cutover check"),
        (PINNED, True, True, "spectron-migrate cutover shift 100 --user a"),
        (replace(SHIFTED, phase="closing"), True, None, "spectron-migrate cutover check"),
        (replace(SHIFTED, phase="closing"), True, True, COMPLETE),
        (replace(SHIFTED, phase="complete"), False, None, COMPLETE),
        (replace(SHIFTED, phase="complete", sealed=True), False, None, "spectron-migrate cutover check"),
    ],
)
def test_the_next_command_leads_to_complete(
    state: CutoverState, following: bool, ready: bool | None, command: str | None
) -> None:
    assert command == next_command(state, following=following, ready=ready)


def test_a_routing_that_is_missing_broken_or_old_is_reported(tmp_path: Path) -> None:
    now = datetime(2026, 11, 22, 11, tzinfo=UTC)
    store = store_at(tmp_path)

    def put(data: bytes) -> None:
        store.remove(FILE)  # a database keeps the one of the greatest epoch
        store.write(FILE, data)

    def reported() -> str:
        status = cutover_status(tmp_path, now=now)
        assert status is not None
        return str(status["routing"])

    record_step(tmp_path, Step("start", AT, "anna", migration="m" * 16))
    old = store.read(FILE)
    assert old is not None
    assert "current" == reported()
    record_step(tmp_path, Step("revert", AT, "anna"))
    put(old)
    assert "behind the journal; any cutover command updates it" == reported()
    store.remove(FILE)
    assert "missing; any cutover command writes it again" == reported()
    put(b"{")
    assert "current" != reported()


def test_there_is_no_status_where_nothing_began(tmp_path: Path) -> None:
    assert cutover_status(tmp_path, now=datetime(2026, 11, 22, tzinfo=UTC)) is None
