"""Are they there, word for word, once, and in order: every session of ours is listed and compared.

A session's turns are told apart by the ids that its receipts claim. Whatever looks wrong is looked at once more
before it is said, against the ledger as it is then, because a live system moves.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import receipts
from spectron_migrate.ledger.read.receipts import OurSession
from spectron_migrate.records import Reporter, same_text
from spectron_migrate.spectron.api import SpectronApi, Turn, UnknownSession
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.parallel import for_each
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace

_MASK = re.compile(r"\[[A-Z][A-Z_ ]+\]|<[A-Z][A-Z_ ]+>|\*{3,}|█+|\bREDACTED\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Listed:
    """One session: what should be in it, and what its listing shows."""

    session: OurSession
    facts: Sequence[StoredMemory]
    turns: Sequence[Turn]
    claimed: frozenset[str]
    """Turn ids with a receipt, of memories that this run is not about as well."""


async def check_sessions(
    work: Workspace, ledgers: Sequence[Ledger], api: SpectronApi, *, in_flight: int, reporter: Reporter
) -> None:
    """List every session of ours once, and those that look wrong twice; findings go into the workspace.

    Raises KeyRefused or Unreachable: what cannot be read is never called missing.
    """
    reporter.stage("turns", work.count("session"))

    async def check(item: tuple[OurSession, int, int]) -> None:
        session, source, scope = item
        if not work.is_done("present", session.server_id):
            seen = await _list(work, ledgers[source], api, session)
            findings = findings_of(seen)
            if findings:
                seen = await _list(work, ledgers[source], api, session)
                again = set(map(_same, findings_of(seen)))
                findings = [each for each in findings if _same(each) in again]
            findings = [_named(work, finding, seen, scope) for finding in findings]
            for turn in seen.turns:
                if turn.id in session.residue:
                    work.leave(turn.id, scope, turn.content)
            work.keep("present", session.server_id, findings)
        reporter.advance(1)

    await for_each(work.sessions(), check, in_flight=in_flight)


def findings_of(seen: Listed) -> list[Finding]:
    """Everything in a session that is not as it should be."""
    by_id = {turn.id: turn for turn in seen.turns}
    return [
        *_absent_or_altered(seen, by_id),
        *_unclaimed(seen),
        *_out_of_order(seen, by_id),
    ]


def _absent_or_altered(seen: Listed, by_id: dict[str, Turn]) -> list[Finding]:
    found: list[Finding] = []
    where = f"session {seen.session.server_id}"
    for fact in seen.facts:
        turn = by_id.get(fact.turn_id or "")
        version = "" if fact.newest else f" (its older version {fact.version})"
        if turn is None:
            reason = f"its turn is not listed{version}" if by_id else f"its session lists no turn{version}"
            found.append(Finding("missing", fact.mem0_id, reason, where, {"written": fact.text}))
        elif not same_text(turn.content, fact.text):
            masked = _MASK.search(turn.content) is not None and _MASK.search(fact.text) is None
            reason = f"its text was {'masked' if masked else 'changed'}{version}"
            texts = {"written": fact.text, "found": turn.content}
            found.append(Finding("altered", fact.mem0_id, reason, f"{where}, turn {turn.id}", texts))
    return found


def _unclaimed(seen: Listed) -> list[Finding]:
    found: list[Finding] = []
    undecided = list(seen.session.undecided)
    for turn in seen.turns:
        if turn.id in seen.claimed:
            continue
        where = f"session {seen.session.server_id}, turn {turn.id}"
        texts = {"found": turn.content}
        if turn.id in seen.session.residue:
            found.append(Finding("residue", None, "left by the server when a write failed", where, texts))
            continue
        doubt = next((one for one in undecided if same_text(one[1], turn.content)), None)
        if doubt is not None:
            undecided.remove(doubt)
            continue
        twin = next((fact for fact in seen.facts if same_text(fact.text, turn.content)), None)
        if twin is not None:
            found.append(Finding("doubled", twin.mem0_id, "a second turn has its text", where, texts))
        else:
            found.append(Finding("foreign", None, "a turn in our session that no receipt claims", where, texts))
    return found


def _out_of_order(seen: Listed, by_id: dict[str, Turn]) -> list[Finding]:
    """In a `full` session `seq` rises with the order key; named are the fewest whose removal would make it so."""
    if seen.session.infer != "full":
        return []
    present = [(fact, by_id[fact.turn_id]) for fact in seen.facts if fact.turn_id in by_id and not fact.late]
    present.sort(key=lambda pair: pair[0].order_key)
    kept = _longest_rising([turn.seq for _, turn in present])
    return [
        Finding(
            "order",
            fact.mem0_id,
            "it stands at another place among the turns of its session than among the memories",
            f"session {seen.session.server_id}, turn {turn.id}",
        )
        for place, (fact, turn) in enumerate(present)
        if place not in kept
    ]


def _longest_rising(numbers: Sequence[int]) -> set[int]:
    """The places of a longest strictly rising subsequence."""
    ends: list[int] = []
    places: list[int] = []
    before: list[int] = []
    for place, number in enumerate(numbers):
        length = bisect_left(ends, number)
        before.append(places[length - 1] if length else -1)
        if length == len(ends):
            ends.append(number)
            places.append(place)
        else:
            ends[length], places[length] = number, place
    kept: set[int] = set()
    place = places[-1] if places else -1
    while place >= 0:
        kept.add(place)
        place = before[place]
    return kept


async def _list(work: Workspace, ledger: Ledger, api: SpectronApi, session: OurSession) -> Listed:
    # The ledger after the server: a turn that is written meanwhile has its receipt by the second look.
    try:
        turns = await api.turns(session.server_id)
    except UnknownSession:
        turns = []
    claimed = receipts.claimed_turns(ledger, session.server_id)
    return Listed(session, work.facts_in(session.server_id), turns, frozenset(claimed))


def _named(work: Workspace, finding: Finding, seen: Listed, scope: int) -> Finding:
    """A turn that nobody claims may be the copy of a memory that was written to another session of its scope."""
    if finding.kind != "foreign":
        return finding
    twins = [fact for fact in work.with_text(finding.texts["found"]) if fact.scope == scope]
    if not twins:
        return finding
    return Finding("doubled", twins[0].mem0_id, "a turn of another session has its text", finding.where, finding.texts)


def _same(finding: Finding) -> tuple[str, str | None, str]:
    return (finding.kind, finding.mem0_id, finding.where)
