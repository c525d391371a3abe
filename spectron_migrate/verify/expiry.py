"""When memories expire: Spectron keeps those of category `context` for seven days from their known time (pure).

A memory has the category that it was written with. A fact extracted from it has a category of its own, which the server
reports with the value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from spectron_migrate.records import format_time
from spectron_migrate.spectron.graph import EntityValue
from spectron_migrate.verify.stored_memory import StoredMemory

SHORT_LIVED = "context"
LIFETIME = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Expiry:
    """When a memory or an extracted fact drops out of recall."""

    what: str
    """`it`, or `its fact`."""
    at: str | None
    """None if the seven days begin at a time that only the server knows."""
    over: bool
    seen: bool = True
    """False if it is only absent: it may have expired or been forgotten."""

    def __str__(self) -> str:
        if not self.seen:
            return f"{self.what} is no longer there: expired or forgotten"
        when = f" at {self.at}" if self.at else ""
        kept = f"Spectron keeps {SHORT_LIVED} for {LIFETIME.days} days"
        return f"{self.what} {'expired' if self.over else 'is about to expire'}{when}: {kept}"


def expiry_of(fact: StoredMemory, now: datetime) -> Expiry | None:
    """When the memory itself expires; None if its category does not expire."""
    if fact.category != SHORT_LIVED:
        return None
    return _expiry("it", fact.text_at, now)


def expiry_of_facts(fact: StoredMemory, values: Iterable[EntityValue], now: datetime) -> Expiry | None:
    """When the first fact extracted from a memory expires, by the server's values."""
    mine = set(fact.ids)
    ends = [
        _expiry("its fact", value.known_at, now)
        for value in values
        if value.id in mine and value.category == SHORT_LIVED and value.superseded_by is None
    ]
    return min(ends, key=lambda end: end.at or "~", default=None)


def _expiry(what: str, known_at: str | None, now: datetime) -> Expiry:
    began = _time(known_at)
    if began is None:
        return Expiry(what, None, False)
    return Expiry(what, format_time(began + LIFETIME), began + LIFETIME <= now)


def _time(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
