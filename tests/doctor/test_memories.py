"""The dump with the mapping."""

from __future__ import annotations

from pathlib import Path

from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from tests.doctor.support import PLAIN, check_of, diagnose, export
from tests.support.spectron import memory


def test_unmapped_memories_and_filters_that_cannot_be_answered_are_named(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    bot = {**memory(0, "bot"), "user_id": None, "agent_id": "bot"}
    export(tmp_path, [memory(1, user), bot, {**memory(2, "x"), "user_id": None}])
    diagnosis = diagnose(spectron, tmp_path)
    unmapped = check_of(diagnosis.checks, "mapping: places", "fail")
    assert "1 memory matches no rule of the mapping: no rule takes it: 1 memory, of" in unmapped.finding
    refused = check_of(diagnosis.checks, "mapping: filters", "warn")
    assert "a filter by agent_id cannot be served" in refused.finding
    assert ExitCode.INPUT == diagnosis.exit_code


def test_doubtful_times_and_expiry_are_reported(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [
        memory(0, user, updated_at="2025-06-01T00:00:00+00:00"),
        memory(1, user, at="2031-01-01T00:00:00+00:00"),
        {**memory(2, user), "created_at": None, "updated_at": None},
        memory(3, user, expiration_date="2030-01-01"),
    ]
    export(tmp_path, rows)
    diagnosis = diagnose(spectron, tmp_path, mapping=PLAIN + "category: context\n")
    warned = " | ".join(check.finding for check in diagnosis.checks if check.status == "warn")
    for finding in (
        "memories is a guess (`updated_at`)",
        "1 memory has no time",
        "1 memory has a time in the future",
        "1 memory would expire in Mem0",
        "4 memories are written as `context`",
    ):
        assert finding in warned
