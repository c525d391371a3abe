"""Finds the one word for what became of a memory, from everything that is known about it (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spectron_migrate.ledger.merge import MOVED
from spectron_migrate.ledger.messages import DELETED
from spectron_migrate.ledger.read.story import LedgerMemory, VersionStory
from spectron_migrate.records import Json, Placement, Skipped

FATES = (
    "written",
    "late",
    "superseded",
    "altered",
    "refused",
    "in doubt",
    "undecidable",
    "deleted in Mem0",
    "moved",
    "expired",
    "skipped by rule",
    "not sent yet",
    "never seen",
)


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a memory, and why in one sentence."""

    name: str
    why: str


def fate_of(
    versions: Sequence[VersionStory],
    known: LedgerMemory | None,
    mapped: Placement | Skipped | str | None,
    *,
    is_pending: bool,
    found: Mapping[str, Json] | None,
) -> Fate:
    """`mapped`: where the mapping puts the memory now, or why nowhere.

    `found`: what Spectron has of it now, if asked.
    """
    if not versions:
        return _unplanned(mapped)
    if is_pending:
        return Fate("undecidable", "Mem0 has another text, and nothing shows which is newer")
    stored = [each for each in versions if each.state in ("written", "stored_not_extracted")]
    last = versions[-1]
    if known is not None and known.tombstoned_at is not None:
        still = "it stays in Spectron, and is hidden" if stored else "it was not sent"
        return Fate(DELETED, f"Mem0 has not had it since {known.tombstoned_at}; {still}")
    if (known is not None and known.moved_from is not None) or last.reason == MOVED:
        return Fate("moved", "its owner changed in Mem0 after it was sent; it stays where it was sent")
    simple = {"refused": "refused", "intended": "in doubt", "undecidable": "undecidable", "planned": "not sent yet"}
    if last.state in simple:
        default = {
            "intended": "it was sent, and it is not known yet whether it arrived",
            "planned": "the next replay sends it",
        }
        return Fate(simple[last.state], last.reason or default.get(last.state, ""))
    if last.state == "skipped":
        return _skipped(last.reason or "")
    return _stored(last, found)


def _unplanned(mapped: Placement | Skipped | str | None) -> Fate:
    if mapped is None:
        return Fate("never seen", "neither the dump nor the ledger knows this id")
    if isinstance(mapped, Skipped):
        return _skipped(mapped.reason)
    if isinstance(mapped, str):
        return Fate("not sent yet", f"the mapping has no place for it: {mapped}")
    return Fate("not sent yet", "the dump has it, and no replay has planned it")


def _skipped(reason: str) -> Fate:
    if reason == "expired":
        return Fate("expired", "it had expired in Mem0, so it is not written")
    if reason == DELETED:
        return Fate(DELETED, "Mem0 no longer had it when it was to be sent")
    return Fate("skipped by rule", reason)


def _stored(last: VersionStory, found: Mapping[str, Json] | None) -> Fate:
    if last.altered or (found is not None and found["turn"] == "altered"):
        return Fate("altered", "its turn holds another text than was sent")
    if found is not None and found["turn"] == "missing":
        return Fate("altered", "its turn is no longer in its session")
    if found is not None and found["superseded_by"]:
        first = found["superseded_by"][0]
        return Fate("superseded", f"{first['key']}: {first['old']} gave way to {first['new']}")
    if last.late:
        return Fate("late", "newer facts of its scope were there first: written without superseding anything")
    if last.state == "stored_not_extracted":
        return Fate("written", f"its text is stored, and no fact was made of it: {last.reason or 'nothing extracted'}")
    where = f" in the turn of message {last.message}" if last.message else ""
    return Fate("written", f"its newest text is in Spectron{where}")
