"""Makes the rows of a memory in a plan: one for the memory, one for its text, and one for the fact that sends it."""

from __future__ import annotations

import json

from spectron_migrate.fast_json import canonical
from spectron_migrate.ledger import messages
from spectron_migrate.ledger.bodies import infer_of, role_of
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.new_memories import FACT_COLUMNS
from spectron_migrate.ledger.numbered import lane_number, selector_number
from spectron_migrate.ledger.plan import ScanRow
from spectron_migrate.ledger.read.erases import erased_times
from spectron_migrate.records import Json, Memory, Placement, Selector, Skipped, canonical_json, digest, order_key

_MOST_NUMBERS = 10_000
"""How many numbers of lanes, and of selectors, are cached."""


class MemoryRows:
    """Makes the rows of one plan; those of lanes and selectors are inserted as they are needed."""

    def __init__(
        self, ledger: Ledger, plan: int, scan: ScanRow, scan_number: int | None, *, migration: str, now: str
    ) -> None:
        """`scan_number`: the scan's number in the ledger, if it is recorded.

        `now` stands for the start of the scan if it is not known (raw files).
        """
        self._db = ledger.db
        self._plan = plan
        self._scan = scan
        self._scan_number = scan_number
        self._migration = migration
        self._now = now
        # For a day the server may still know the keys of erased facts, and would repeat their responses instead of
        # writing.
        erased = erased_times(ledger)
        self._erased = (f"erased {erased}",) if erased else ()
        self._next_id = int(self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM version").fetchone()[0])
        self._lanes: dict[str, int] = {}
        self._selectors: dict[Selector, int] = {}

    def of_memory(self, memory: Memory, moved_from: str | None = None) -> tuple[Json, ...]:
        """The row of the memory, in the columns of `INSERT_MEMORY`.

        `moved_from`: the ids that it was sent under, if Mem0 has it under others now.
        """
        record = record_of(memory)
        scan = self._scan_number
        return memory.id, record, digest(record), scan, memory.state, memory.expiration_date, moved_from

    def of_version(
        self, memory: Memory, text_digest: str, placed: Placement | Skipped, version: int, message: str | None = None
    ) -> tuple[tuple[Json, ...], tuple[Json, ...]]:
        """The rows of a new version, and of its fact."""
        text, fact = self.of_fact(memory, text_digest, placed, version)
        carrier = messages.fact_of_message(self._db, message) if message is not None else None
        if carrier is not None and fact["state"] == "planned":
            fact |= {"state": "skipped", "reason": messages.CARRIED}
        else:
            carrier = None
        number, self._next_id = self._next_id, self._next_id + 1
        return (
            (number, memory.id, version, text, text_digest, memory.text_at, self._scan_number, self._now),
            (number, carrier, *fact.values()),
        )

    def of_fact(
        self, memory: Memory, text_digest: str, placed: Placement | Skipped, version: int
    ) -> tuple[str | None, dict[str, Json]]:
        """The text to keep, and how it is sent, in the columns of `FACT_COLUMNS`."""
        key = order_key(memory, self._scan.began or self._now)
        if isinstance(placed, Skipped):
            nowhere = (self._plan, key, None, None, None, "none", None, None, None, "", "skipped", placed.reason)
            return None, dict(zip(FACT_COLUMNS, nowhere, strict=True))
        return memory.memory, {
            "plan": self._plan,
            "order_key": key,
            "lane": self._lane(placed.lane),
            "selector": self.selector(placed.selector),
            "run": placed.run,
            "infer": infer_of(memory, placed),
            "role": role_of(memory),
            "category": placed.category,
            "labels": canonical_json(placed.labels) if placed.labels else None,
            "key": digest(self._migration, memory.id, str(version), text_digest, placed.lane, *self._erased),
            "state": "planned",
            "reason": None,
        }

    def _lane(self, name: str) -> int:
        if name not in self._lanes:
            if len(self._lanes) >= _MOST_NUMBERS:
                self._lanes.clear()
            self._lanes[name] = lane_number(self._db, name)
        return self._lanes[name]

    def selector(self, selector: Selector) -> int:
        """The number of a selector in the ledger."""
        if selector not in self._selectors:
            if len(self._selectors) >= _MOST_NUMBERS:
                self._selectors.clear()
            self._selectors[selector] = selector_number(self._db, selector)
        return self._selectors[selector]


def record_of(memory: Memory) -> str:
    """A memory as the ledger stores it; escaped, so that a row with a lone surrogate can be written."""
    value = memory.to_json()
    try:
        record = canonical(value)
    except (TypeError, ValueError):  # half a character, or a captured value that JSON lacks, such as NaN
        return _ESCAPED.encode(value)
    return record.decode() if record.isascii() else _ESCAPED.encode(value)


def record_digest(memory: Memory) -> str:
    """A digest of everything that Mem0 has about the memory."""
    return digest(record_of(memory))


_ESCAPED = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
