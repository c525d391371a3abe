"""Checks that every memory is present once, word for word and in order: lists each of our sessions and compares.

Turns are matched by the ids that receipts claim, not by text. A session with findings is listed a second time, and
compared with the ledger as it is then. Only findings that occur both times count, because a live system changes in
between.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from spectron_migrate.ledger.read import receipts
from spectron_migrate.ledger.read.receipts import OurSession
from spectron_migrate.parallel import for_each
from spectron_migrate.records import same_text
from spectron_migrate.reporter import Reporter
from spectron_migrate.rising import longest_rising
from spectron_migrate.spectron.api import SpectronApi, UnknownSession
from spectron_migrate.spectron.rows import Turn
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.given_times import GivenTimes, older_over_newer, times_of
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace

GONE = ("its turn is not listed", "its session lists no turns")
"""Starts of reasons for a missing memory that was confirmed and is no longer there."""
_MASK = re.compile(r"\[[A-Z][A-Z_ ]+\]|<[A-Z][A-Z_ ]+>|\*{3,}|█+|\bREDACTED\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SessionListing:
    """One session: the facts that should be in it, and the turns that the server lists."""

    session: OurSession
    facts: Sequence[StoredMemory]
    turns: Sequence[Turn]
    claimed: frozenset[str]
    """Turn ids with a receipt, including those of memories that the options leave out."""
    shows_roles: bool = False
    """Whether the server shows the role of every turn, as the API says since 0.2.1."""
    times: Mapping[int, GivenTimes] = field(default_factory=dict)
    """For a `full` session: when the texts of facts came to be, by Mem0's own times; the key is the fact's number."""


async def check_sessions(work: Workspace, api: SpectronApi, *, in_flight: int, reporter: Reporter) -> None:
    """List each of our sessions, and those with findings twice.

    Findings go into the workspace. Raises KeyRefused or Unreachable, because a memory that cannot be read must never be
    called missing.
    """
    reporter.stage("turns", work.count_sessions())

    async def check(item: tuple[OurSession, int]) -> None:
        session, scope = item
        if not work.is_done("present", session.server_id):
            listing = await _list(work, api, session)
            findings = findings_of(listing)
            if findings:
                listing = await _list(work, api, session)
                again = set(map(_identity, findings_of(listing)))
                findings = [each for each in findings if _identity(each) in again]
            findings = [_doubled_elsewhere(work, finding, scope) for finding in findings]
            for turn in listing.turns:
                if turn.id in session.residue:
                    work.leave(turn.id, scope, turn.content)
            work.keep("present", session.server_id, findings)
        reporter.advance(1)

    await for_each(work.sessions(), check, in_flight=in_flight)


def findings_of(listing: SessionListing) -> list[Finding]:
    """Everything that is wrong in one session."""
    by_id = {turn.id: turn for turn in listing.turns}
    return [
        *_absent_or_altered(listing, by_id),
        *_unclaimed(listing),
        *_out_of_order(listing, by_id),
    ]


def is_masked(found: str, written: str) -> bool:
    """Whether the server masked a part of the text, as it does if redaction is on."""
    return _MASK.search(found) is not None and _MASK.search(written) is None


def _absent_or_altered(listing: SessionListing, by_id: dict[str, Turn]) -> list[Finding]:
    findings: list[Finding] = []
    where = f"session {listing.session.server_id}"
    shows_roles = listing.shows_roles or any(turn.role for turn in listing.turns)
    for fact in listing.facts:
        turn = by_id.get(fact.turn_id or "")
        version = "" if fact.newest else f" (its older version {fact.version})"
        if turn is None:
            reason = f"{GONE[0] if by_id else GONE[1]}{version}"
            findings.append(Finding("missing", fact.mem0_id, reason, where, {"written": fact.text}))
        elif not same_text(turn.content, fact.text):
            reason = f"its text was {'masked' if is_masked(turn.content, fact.text) else 'changed'}{version}"
            texts = {"written": fact.text, "found": turn.content}
            findings.append(Finding("altered", fact.mem0_id, reason, f"{where}, turn {turn.id}", texts))
        elif turn.role != fact.role and shows_roles:
            reason = f"its role was changed from {fact.role} to {turn.role or 'none'}{version}"
            findings.append(Finding("altered", fact.mem0_id, reason, f"{where}, turn {turn.id}"))
    return findings


def _unclaimed(listing: SessionListing) -> list[Finding]:
    findings: list[Finding] = []
    undecided = list(listing.session.undecided)
    for turn in listing.turns:
        if turn.id in listing.claimed:
            continue
        where = f"session {listing.session.server_id}, turn {turn.id}"
        texts = {"found": turn.content}
        if turn.id in listing.session.residue:
            findings.append(Finding("residue", None, "left on the server by a failed write", where, texts))
            continue
        doubt = next((one for one in undecided if same_text(one[1], turn.content)), None)
        if doubt is not None:
            undecided.remove(doubt)
            continue
        same = next((fact for fact in listing.facts if same_text(fact.text, turn.content)), None)
        if same is not None:
            findings.append(Finding("doubled", same.mem0_id, "a second turn has its text", where, texts))
        else:
            findings.append(Finding("foreign", None, "a turn in our session that no receipt claims", where, texts))
    return findings


def _out_of_order(listing: SessionListing, by_id: dict[str, Turn]) -> list[Finding]:
    """In a `full` session `seq` must rise with the order key.

    Names the fewest memories that break that order. If it rises, the order is also compared with Mem0's own times,
    because the order key is the writer's.
    """
    if listing.session.infer != "full":
        return []
    present = [(fact, by_id[fact.turn_id]) for fact in listing.facts if fact.turn_id in by_id and not fact.late]
    present.sort(key=lambda pair: pair[0].order_key)
    kept = longest_rising([turn.seq for _, turn in present])
    where = f"session {listing.session.server_id}"
    found = [
        Finding("order", fact.mem0_id, "its turn is out of order in its session", f"{where}, turn {turn.id}")
        for index, (fact, turn) in enumerate(present)
        if index not in kept
    ]
    return found or older_over_newer(present, listing.times, where)


async def _list(work: Workspace, api: SpectronApi, session: OurSession) -> SessionListing:
    # The ledger is read after the server: a turn written in between has its receipt by the second listing.
    try:
        turns = await api.turns(session.server_id)
    except UnknownSession:
        turns = []
    claimed = receipts.claimed_turns(work.ledger, session.server_id)
    facts = work.facts_in(session.server_id)
    times = times_of(work.ledger, [fact.no for fact in facts if not fact.late]) if session.infer == "full" else {}
    shows_roles = await api.generation() != "0.0.0"
    return SessionListing(session, facts, turns, frozenset(claimed), shows_roles, times)


def _doubled_elsewhere(work: Workspace, finding: Finding, scope: int) -> Finding:
    """The memory of which a foreign turn may be a copy, written to another session of the same scope."""
    if finding.kind != "foreign":
        return finding
    same = next((fact for fact in work.with_text(finding.texts["found"]) if fact.scope == scope), None)
    if same is None:
        return finding
    return Finding("doubled", same.mem0_id, "a turn of another session has its text", finding.where, finding.texts)


def _identity(finding: Finding) -> tuple[str, str | None, str]:
    return (finding.kind, finding.mem0_id, finding.where)
