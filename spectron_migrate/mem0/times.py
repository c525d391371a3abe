"""Converts the formats in which Mem0 writes a time to RFC 3339 in UTC."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo

from spectron_migrate.records import format_time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: tuple[tuple[int, int], ...] = ((1_000_000, 10**11), (1_000, 10**14), (1, 10**17), (0, 10**20))
"""(microseconds in a unit, upper bound).

A number below 1e11 (the year 5138) is in seconds, below 1e14 in milliseconds, and so on. 0 stands for nanoseconds.
"""

_COMPACT_DATE = 8
"""Digits of a date without separators, `20260301`."""

_COMPACT = re.compile(r"\d{14}", re.ASCII)
"""A time without separators, `20260301100000`. As milliseconds since 1970 it would be after the year 2286."""

_NUMBER = re.compile(r"-?(?:\d{9,25}(?:\.\d+)?|\d(?:\.\d+)?[eE]\+?\d{1,2})", re.ASCII)
_ISO_LIKE = re.compile(
    r"(?P<date>\d{4}[-/]\d\d[-/]\d\d)(?P<time>[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)?"
    r"\s*(?P<zone>[zZ]|UTC|GMT|[+-]\d\d(?::?\d\d)?)?(?: (?:UTC|GMT|[+-]\d{4})(?: m=\S+)?)?"
    r"\s*(?:\[?(?P<place>[A-Za-z]+(?:/[A-Za-z_+-]+)*)\]?)?",
    re.ASCII,
)
"""ISO 8601 with a space before the zone, the zone by name, by its place (Java) or twice (Go), or slashes."""

_ZONES = {"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7}
"""Hours of the zones that RFC 5322 names."""

_ZONE_NAME = re.compile(r" \([^()]*\)$")
"""The name of the zone after a JavaScript `Date`."""

_ZONE_WORD = re.compile(r"\b[A-Z]{3,5}\b")


def utc_time(value: Any) -> tuple[str | None, bool]:
    """A time as RFC 3339 in UTC, and whether the conversion is exact: nothing was assumed or rounded.

    A naive time is read as UTC, a number as seconds, milli-, micro- or nanoseconds since 1970. Both are assumptions, so
    the caller keeps the original. For a value that is not a time, the time is None; there is no error.
    """
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, datetime):
        moment = _in_utc(value)
        return moment, moment is not None and value.tzinfo is not None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _from_other_spelling(str(value)) if _COMPACT.fullmatch(str(value)) else (_from_number(value), False)
    if isinstance(value, Mapping):
        return _from_object(value), False
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
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _from_other_spelling(text)
    if moment.tzinfo is None:
        if text.isdecimal() and len(text) > _COMPACT_DATE:
            return _from_other_spelling(text)  # digits alone are a number since 1970, or a compact time
        return _in_utc(moment), False
    if len(text) == 32 and text.endswith("+00:00") and text[10] == "T" and text[19] == ".":
        return f"{text[:26]}Z", True  # the format of nearly every time in Mem0: nothing to convert
    converted = _in_utc(moment)
    return converted, converted is not None and ("." not in text or _fraction_fits(text))


def _from_other_spelling(given: str) -> tuple[str | None, bool]:
    """A time in the spelling of databases, logs, mail and other languages. Without a zone it is read as UTC."""
    text = given.strip()
    if _COMPACT.fullmatch(text):
        with suppress(ValueError):
            return _in_utc(datetime.strptime(text, "%Y%m%d%H%M%S")), False
    if _NUMBER.fullmatch(text):
        return _from_number(Decimal(text)), False
    if text != given:
        return _from_text(text)
    parts = _ISO_LIKE.fullmatch(text)
    if parts is not None:
        year, rest, zone = parts["date"].replace("/", "-"), parts["time"] or "", parts["zone"] or ""
        zone = "+00:00" if zone in ("UTC", "GMT", "Z", "z") else zone
        respelled = f"{year}{rest}{zone}"
        if parts["place"] and not zone:
            return _in_place(respelled, parts["place"])
        return _from_text(respelled) if respelled != text else (None, False)
    for read in (_from_ordinal, _from_words, _from_mail):
        try:
            moment = read(_ZONE_NAME.sub("", text))
        except (ValueError, TypeError, IndexError):
            continue
        return _in_utc(moment), moment.tzinfo is not None
    return None, False


def _in_place(text: str, place: str) -> tuple[str | None, bool]:
    """A local time with the name of its zone, or of the place that has it (`Europe/Vienna`)."""
    try:
        return _in_utc(datetime.fromisoformat(text).replace(tzinfo=_zone(place))), False
    except ValueError:
        return None, False


def _zone(name: str) -> tzinfo:
    """A zone by its name; raises ValueError for one that is not known."""
    try:
        return timezone(timedelta(hours=_ZONES[name])) if name in _ZONES else ZoneInfo(name)
    except (OSError, KeyError) as error:  # a zone that is not known raises a KeyError
        raise ValueError(name) from error


def _from_mail(text: str) -> datetime:
    """A time as mail, HTTP, and Unix's `date` write it. A zone name that they do not define is looked up."""
    moment = parsedate_to_datetime(text)
    name = _ZONE_WORD.search(text)
    return moment if moment.tzinfo is not None or name is None else moment.replace(tzinfo=_zone(name[0]))


def _from_object(value: Mapping[str, Any]) -> str | None:
    """A time of protobuf or Firestore: seconds and nanoseconds since 1970."""
    for seconds, nanos in (("seconds", "nanos"), ("seconds", "nanoseconds"), ("_seconds", "_nanoseconds")):
        if set(value) == {seconds, nanos} and all(type(one) is int for one in value.values()):
            return _from_number(Decimal(value[seconds]) + Decimal(value[nanos]) / 10**9)
    return None


def _from_ordinal(text: str) -> datetime:
    """Year and day of the year: `2026-060T10:00:00Z`."""
    day, _, rest = text.replace(" ", "T").partition("T")
    date_ = datetime.strptime(day, "%Y-%j").date()
    return datetime.fromisoformat(f"{date_}T{rest}" if rest else str(date_))


def _from_words(text: str) -> datetime:
    """A time as C's `ctime` and JavaScript's `Date` write it."""
    for spelling in (
        *("%a %b %d %H:%M:%S %Y", "%a %b %d %Y %H:%M:%S GMT%z", "%b %d, %Y %H:%M:%S", "%b %d, %Y"),
        *("%B %d, %Y %H:%M:%S", "%B %d, %Y", "%b %d, %Y, %I:%M:%S %p"),
    ):
        with suppress(ValueError):
            return datetime.strptime(text, spelling)
    raise ValueError(text)


def _fraction_fits(text: str) -> bool:
    """False if the text has more than six fractional digits, the most that `format_time` writes."""
    digits = text.split(".", 1)[1]
    length = next((index for index, letter in enumerate(digits) if not letter.isdecimal()), len(digits))
    return length <= 6


def _from_number(number: float | Decimal) -> str | None:
    size: Any = abs(number)
    unit = next((unit for unit, below in _UNITS if size < below), None)
    if unit is None:
        return None
    try:
        micros = number * unit if unit >= 1 else number // 1000
        return _in_utc(_EPOCH + timedelta(microseconds=1) * (int(micros) if isinstance(micros, Decimal) else micros))
    except (ValueError, OverflowError):
        return None


def _in_utc(moment: datetime) -> str | None:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    try:
        return format_time(aware)
    except (OverflowError, ValueError):
        return None
