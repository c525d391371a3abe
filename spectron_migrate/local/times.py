"""Times as the store keeps them: RFC 3339 in UTC with microseconds and a `Z`, so that they compare as text."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def stamp(moment: datetime) -> str:
    """A time in the store's format."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def read_time(text: str) -> str:
    """An RFC 3339 time in the store's format. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time")
    day, clock, fraction, zone = match.groups()
    digits = ((fraction or ".0")[1:] + "000000")[:6]
    zone = "+00:00" if zone in "Zz" else zone
    try:
        return stamp(datetime.fromisoformat(f"{day}T{clock}.{digits}{zone}"))
    except OverflowError as error:
        raise ValueError("out of range") from error
