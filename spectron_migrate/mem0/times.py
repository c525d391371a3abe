"""Converts the formats in which Mem0 writes a time to RFC 3339 in UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from spectron_migrate.records import format_time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = ((1_000_000, 1e11), (1_000, 1e14), (1, 1e17), (0, 1e20))
"""(microseconds in a unit, upper bound): a number below 1e11 (the year 5138) is in seconds, below 1e14 in
milliseconds, and so on; 0 stands for nanoseconds."""


def utc_time(value: Any) -> tuple[str | None, bool]:
    """A time as RFC 3339 in UTC, and whether the conversion is exact: nothing was assumed or rounded.

    A naive time is read as UTC, a number as seconds, milli-, micro- or nanoseconds since 1970. Both are assumptions,
    so the caller keeps the original. The time is None, never an error, for a value that is not a time.
    """
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, datetime):
        moment = _in_utc(value)
        return moment, moment is not None and value.tzinfo is not None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _from_number(value), False
    return None, value is None


def expiry(value: Any, now: datetime) -> tuple[str | None, bool, bool]:
    """An expiration date: the normalised text, whether it is exact, and whether it has passed.

    A plain date lasts until the end of that day in UTC, as in Mem0.
    """
    if isinstance(value, str) and len(value) == 10:
        try:
            day = date.fromisoformat(value)
        except ValueError:
            return None, False, False
        return value, True, day < now.astimezone(UTC).date()
    moment, exact = utc_time(value)
    return moment, exact, moment is not None and moment <= format_time(now)


def _from_text(text: str) -> tuple[str | None, bool]:
    if text.isdecimal() and text.isascii() and len(text) > 8:
        return _from_number(int(text[:25])), False
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None, False
    if moment.tzinfo is None:
        return _in_utc(moment), False
    if len(text) == 32 and text.endswith("+00:00") and text[10] == "T" and text[19] == ".":
        return f"{text[:26]}Z", True  # the format of nearly every time in Mem0: nothing to convert
    converted = _in_utc(moment)
    return converted, converted is not None and ("." not in text or _fraction_fits(text))


def _fraction_fits(text: str) -> bool:
    """False if the text has more than six fractional digits, the most that `format_time` writes."""
    digits = text.split(".", 1)[1]
    length = next((index for index, letter in enumerate(digits) if not letter.isdecimal()), len(digits))
    return length <= 6


def _from_number(number: float) -> str | None:
    unit = next((unit for unit, below in _UNITS if abs(number) < below), None)
    if unit is None:
        return None
    try:
        return _in_utc(_EPOCH + timedelta(microseconds=1) * (number * unit if unit >= 1 else number // 1000))
    except (ValueError, OverflowError):
        return None


def _in_utc(moment: datetime) -> str | None:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    try:
        return format_time(aware)
    except (OverflowError, ValueError):
        return None
