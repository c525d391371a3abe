"""Checks the order of a session's turns by the times that Mem0 gave. The check shares no rule with the writer.

The writer sorts by `records.order_key`, and `integrity` compares with that key. Here only Mem0's own `created_at` and
`updated_at` count: the text came to be no earlier than the first and no later than the second. If that does not show
which of two memories is newer, they are not compared. Neither are times with and without a zone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read.receipts import fields_given
from spectron_migrate.spectron.rows import Turn
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.stored_memory import StoredMemory

NAMES = ("created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class GivenTimes:
    """The two moments between which the text of a memory came to be."""

    earliest: datetime
    latest: datetime

    @classmethod
    def of_record(cls, record: Mapping[str, Any], read_at: datetime) -> GivenTimes | None:
        """The times in a record of the dump; None if they are missing, or later than the reading itself."""
        if record.get("text_at_source") not in NAMES:
            return None
        given: dict[str, Any] = {name: record.get(name) for name in NAMES} | _as_given(record)
        try:
            times = [datetime.fromisoformat(given[name]) for name in NAMES if given[name] is not None]
            found = cls(min(times), max(times))
            is_plausible = found.earliest.year > 1970 and _in_utc(found.latest) <= read_at
        except (ValueError, TypeError, OverflowError):  # not ISO 8601, or one with and one without a zone
            return None
        return found if is_plausible else None

    def include(self, moment: str) -> bool:
        """Whether this moment, in UTC, is one of them or between them."""
        return _in_utc(self.earliest) <= datetime.fromisoformat(moment) <= _in_utc(self.latest)


def times_of(ledger: Ledger, facts: Sequence[int]) -> dict[int, GivenTimes]:
    """The times of those facts that are the newest version of their memory, as far as Mem0's times show them."""
    found: dict[int, GivenTimes] = {}
    for given in fields_given(ledger, facts, (*NAMES, "text_at_source", "extra")):
        times = GivenTimes.of_record(given.fields, datetime.fromisoformat(given.read_at))
        # Mem0 may date a memory anew without another text; then its times are no longer those by which it was sent.
        if times is not None and not (given.was_read_again and given.text_at and not times.include(given.text_at)):
            found[given.fact] = times
    return found


def older_over_newer(
    turns: Iterable[tuple[StoredMemory, Turn]], times: Mapping[int, GivenTimes], where: str
) -> list[Finding]:
    """Memories that are older than another one of their session, but were written after it, with extraction."""
    findings: list[Finding] = []
    newest: dict[bool, tuple[GivenTimes, str]] = {}
    for fact, turn in sorted(turns, key=lambda pair: pair[1].seq):
        own = times.get(fact.no)
        if own is None:
            continue
        has_zone = own.latest.tzinfo is not None
        before = newest.get(has_zone)
        if before is not None and own.latest < before[0].earliest:
            reason = f"Mem0 has it of {own.latest}, and it was written after memory {before[1]} of {before[0].earliest}"
            findings.append(Finding("order", fact.mem0_id, reason, f"{where}, turn {turn.id}"))
        if before is None or own.earliest > before[0].earliest:
            newest[has_zone] = (own, fact.mem0_id)
    return findings


def _as_given(record: Mapping[str, Any]) -> dict[str, Any]:
    """Times as they were given, for those whose conversion needed an assumption."""
    kept = (record.get("extra") or {}).get("as_given") or {}
    return {name: kept[name] for name in NAMES if name in kept}


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
