"""Waiting before a retry: by our own rule, or as long as the server asks."""

from __future__ import annotations

import pytest

from spectron_migrate.backoff import backoff_s, retry_after_s

NOON = "Mon, 23 Nov 2026 12:00:00 GMT"


def test_waits_double_up_to_the_longest_and_never_undercut_the_server() -> None:
    assert [0.5, 1.0, 2.0, 3.0, 3.0] == [backoff_s(attempt, first_s=0.5, longest_s=3.0) for attempt in range(5)]
    assert 3.0 == backoff_s(10_000, first_s=0.5, longest_s=3.0)
    assert 7.0 == backoff_s(0, first_s=0.5, longest_s=3.0, asked_s=7.0)


def test_jitter_takes_away_at_most_half() -> None:
    waits = [backoff_s(0, first_s=1.0, longest_s=3.0, jitter=True) for _ in range(50)]
    assert all(0.5 <= wait <= 1.0 for wait in waits)
    assert len(set(waits)) > 1


@pytest.mark.parametrize(
    ("text", "date", "expected"),
    [
        ("12", None, 12.0),
        ("Mon, 23 Nov 2026 12:00:30 GMT", NOON, 30.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", NOON, 0.0),
        ("Mon, 23 Nov 2026 12:00:30 GMT", None, None),
        ("\u00b2", NOON, None),
        ("soon", NOON, None),
        ("", NOON, None),
        (None, NOON, None),
    ],
)
def test_retry_after_is_a_number_or_a_date_by_the_servers_clock(
    text: str | None, date: str | None, expected: float | None
) -> None:
    assert expected == retry_after_s(text, date)
