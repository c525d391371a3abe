"""Times in every spelling that Mem0, its stores and other programs use; what is none is never guessed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.mem0.times import utc_time
from spectron_migrate.records import format_time
from tests.support.examples import examples

pytestmark = pytest.mark.slow

SECONDS = st.datetimes(datetime(1999, 1, 1), datetime(2101, 1, 1)).map(lambda one: one.replace(microsecond=0))
ZONES = st.integers(-12 * 4, 14 * 4).map(lambda quarters: timezone(timedelta(minutes=15 * quarters)))
SPELLINGS = [
    "%Y-%m-%dT%H:%M:%S%:z",
    "%Y-%m-%d %H:%M:%S%:z",
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%d %H:%M:%S %z",
    "%Y/%m/%d %H:%M:%S %z",
    "%a %b %d %Y %H:%M:%S GMT%z (Some Standard Time)",
    "%a, %d %b %Y %H:%M:%S %z",
    "%Y-%m-%dT%H:%M:%S%:z[Europe/Vienna]",
    "  %Y-%m-%dT%H:%M:%S%:z\n",
    "%Y-%jT%H:%M:%S%:z",
]
IN_UTC = [
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%S UTC",
    "%Y-%m-%d %H:%M:%S +0000 UTC",
    "%a, %d %b %Y %H:%M:%S GMT",
    "%a %b %d %H:%M:%S UTC %Y",
    "%Y-%m-%d %H:%M:%S",
    "%Y/%m/%d %H:%M:%S",
    "%Y%m%d%H%M%S",
    "%Y-%m-%dT%H:%M:%S[UTC]",
    "%a %b %d %H:%M:%S %Y",
    "%B %d, %Y %H:%M:%S",
]
WRAPPERS: list[Any] = [
    lambda seconds: seconds,
    lambda seconds: seconds * 1000,
    lambda seconds: seconds * 10**6,
    lambda seconds: seconds * 10**9,
    lambda seconds: float(seconds),
    lambda seconds: str(seconds),
    lambda seconds: f"{seconds}.0",
    lambda seconds: str(seconds * 1000),
    lambda seconds: {"seconds": seconds, "nanos": 0},
    lambda seconds: {"_seconds": seconds, "_nanoseconds": 0},
]


def spelled(moment: datetime, spelling: str) -> str:
    offset = moment.strftime("%z")
    return moment.strftime(spelling.replace("%:z", f"{offset[:3]}:{offset[3:]}"))


@settings(max_examples=examples(300), deadline=None)
@given(SECONDS, ZONES, st.sampled_from(SPELLINGS))
def test_any_spelling_with_a_zone_is_that_moment(local: datetime, zone: timezone, spelling: str) -> None:
    moment = local.replace(tzinfo=zone)
    assert format_time(moment) == utc_time(spelled(moment, spelling))[0]


@settings(max_examples=examples(200), deadline=None)
@given(SECONDS, st.sampled_from(IN_UTC))
def test_a_spelling_in_utc_or_without_a_zone_is_read_as_utc(local: datetime, spelling: str) -> None:
    assert format_time(local.replace(tzinfo=UTC)) == utc_time(local.strftime(spelling))[0]


@settings(max_examples=examples(200), deadline=None)
@given(SECONDS, st.sampled_from(WRAPPERS))
def test_any_number_since_1970_is_that_moment_in_whatever_unit(local: datetime, wrapped: Any) -> None:
    moment = local.replace(tzinfo=UTC)
    found, is_exact = utc_time(wrapped(int(moment.timestamp())))
    assert format_time(moment) == found
    assert not is_exact


@given(SECONDS)
def test_a_date_of_mail_is_that_moment(local: datetime) -> None:
    moment = local.replace(tzinfo=UTC)
    assert format_time(moment) == utc_time(format_datetime(moment))[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Sun Mar 01 2026 11:00:00 GMT+0100 (Central European Standard Time)", "2026-03-01T10:00:00.000000Z"),
        ("2026-07-01 10:00:00 Europe/Vienna", "2026-07-01T08:00:00.000000Z"),
        ("2026-03-01T10:00:00[America/New_York]", "2026-03-01T15:00:00.000000Z"),
        ("2026-03-01 10:00:00 PST", "2026-03-01T18:00:00.000000Z"),
        ("Sun, 01 Mar 2026 10:00:00 CET", "2026-03-01T09:00:00.000000Z"),
        ("Sun Mar  1 10:00:00 EST 2026", "2026-03-01T15:00:00.000000Z"),
        ("1.7723592E9", "2026-03-01T10:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.000000Z"),
        ("21000101000000", "2100-01-01T00:00:00.000000Z"),
        (20260301100000, "2026-03-01T10:00:00.000000Z"),
        ("99999999999999", "5138-11-16T09:46:39.999000Z"),
        ({"seconds": 1772359200, "nanos": 250_000_000}, "2026-03-01T10:00:00.250000Z"),
    ],
)
def test_zones_by_name_and_numbers_in_other_forms(given: Any, expected: str) -> None:
    assert expected == utc_time(given)[0]


@pytest.mark.parametrize(
    "given",
    [
        *("01.03.2026 10:00", "03/01/2026", "today", "", " ", "0", "2026-02-30T10:00:00Z", "2026-03-01 10:00:00 XYZ"),
        *("Sun, 01 Mar 2026 10:00:00 MEZ", True, [2026, 3, 1], {"seconds": 1772359200}, {"a": 1}, float("nan")),
        *("likes tea on 3 May 2026", "2026-03-01T10:00:00[Nowhere/Else]", "1e400", "9" * 30),
    ],
)
def test_what_may_mean_several_moments_or_none_is_not_read(given: Any) -> None:
    assert (None, False) == utc_time(given)
