"""Rows such as real stores have, for tests of readers."""

from __future__ import annotations

from typing import Any

from tests.mem0.qdrant_points import uuid

Row = dict[str, Any]
TIME = "2025-01-02T03:04:05.678901+00:00"


def odd_payloads() -> dict[str, Row]:
    """Plain rows and odd ones, all with an owner that an API would list."""
    plain = {"created_at": TIME, "updated_at": TIME, "hash": "h", "role": "user"}
    rows: list[Row] = [
        {**plain, "data": "likes tea", "user_id": "alice", "topic": "drinks", "nested": {"a": [1, None, True]}},
        {**plain, "data": "both", "user_id": "alice", "agent_id": "bot", "run_id": "run-1", "actor_id": "phone"},
        {**plain, "data": "agent only", "agent_id": "bot"},
        {**plain, "data": "run only", "run_id": "run-2"},
        {**plain, "data": "an id with a space", "user_id": "anna maria"},
        {**plain, "data": "Zoë 日本語 🙂\n\t", "user_id": "Zoë"},
        {**plain, "data": "", "user_id": "alice"},
        {**plain, "data": "x" * 20_000, "user_id": "alice"},
        {**plain, "data": "twice", "user_id": "alice"},
        {**plain, "data": "twice", "user_id": "alice"},
        {**plain, "data": "expired", "user_id": "alice", "expiration_date": "2020-01-01"},
        {**plain, "data": "will expire", "user_id": "alice", "expiration_date": "2099-01-01"},
        {"data": "no time", "user_id": "alice"},
        {"data": "old zone", "user_id": "alice", "created_at": "2025-01-01T16:00:00.000001-08:00", "updated_at": None},
        {"data": "no zone", "user_id": "alice", "created_at": "2025-01-02T03:04:05"},
    ]
    rows += [{**plain, "data": f"note {number}", "user_id": f"user-{number % 9}"} for number in range(40)]
    return {uuid(number): row for number, row in enumerate(rows)}
