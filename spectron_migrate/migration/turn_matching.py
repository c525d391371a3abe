"""Which turn of the server is the receipt of which fact, by text and order (pure).

A turn is the receipt of at most one fact. A fact in doubt gets a turn of the session that it was sent to. Nothing else
tells turns with equal texts apart. So the first turn goes to the oldest fact, which is safe whichever turn belongs to
which fact.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from spectron_migrate.judge import PASSAGE_LETTERS
from spectron_migrate.ledger.read.adoption import SoughtFact
from spectron_migrate.records import Hit
from spectron_migrate.spectron.rows import Turn


@dataclass(frozen=True, slots=True)
class ListedTurn:
    """A turn that no receipt names, and the server's id of its session."""

    session: str
    turn: Turn


@dataclass(frozen=True, slots=True)
class Match:
    """A turn, and the fact whose receipt it is."""

    listed: ListedTurn
    fact: SoughtFact
    late: bool = False
    """Whether the turn of a newer fact arrived before it. Then it was sent without extraction."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A turn that has the text of no fact."""

    listed: ListedTurn
    before: str | None
    """The order key of the oldest fact that was certainly sent after it in its session, if there is one."""


@dataclass(slots=True)
class Matching:
    """All turns of a scope, matched."""

    matches: list[Match] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)


def plain_text(text: str) -> str:
    """The same result for texts that differ only in what a server may normalise (`records.same_text`)."""
    return unicodedata.normalize("NFC", text).strip()


def match_turns(turns: Sequence[ListedTurn], facts: Sequence[SoughtFact]) -> Matching:
    """Match the turns of one scope with the facts of that scope.

    If a text has fewer turns than facts, the facts in doubt get the turns of their own sessions, and the oldest of the
    others get the rest. The newest facts are sent again. So whichever facts the turns really belong to, nothing older
    is sent after the newest text.
    """
    order = sorted(turns, key=lambda each: (each.turn.created_at, each.session, each.turn.seq))
    oldest_first = sorted(facts, key=lambda fact: fact.order_key)
    matched: dict[str, SoughtFact] = {}
    taken: set[int] = set()
    for by_session, by_role in ((True, True), (False, True), (False, False)):
        free: defaultdict[tuple[str, str, str], deque[SoughtFact]] = defaultdict(deque)
        for fact in oldest_first:
            if fact.id not in taken and (fact.sent_to or not by_session):
                session = fact.sent_to or "" if by_session else ""
                free[plain_text(fact.text), fact.role if by_role else "", session].append(fact)
        for each in order:
            role, session = each.turn.role if by_role else "", each.session if by_session else ""
            same = free[plain_text(each.turn.content), role, session]
            if same and each.turn.id not in matched:
                matched[each.turn.id] = same.popleft()
                taken.add(matched[each.turn.id].id)
    return _matching(order, matched, Counter(plain_text(fact.text) for fact in facts))


def _matching(order: Sequence[ListedTurn], matched: Mapping[str, SoughtFact], times: Mapping[str, int]) -> Matching:
    """All turns: those matched with a fact, and those with the text of no fact. `times`: how many facts have a text."""
    matching = Matching()
    high = ""
    for each in order:
        fact = matched.get(each.turn.id)
        if fact is not None:
            late = fact.infer == "full" and fact.order_key < high
            high = max(high, fact.order_key) if fact.infer == "full" else high
            matching.matches.append(Match(each, fact, late))
    late_turns = {match.listed.turn.id for match in matching.matches if match.late}
    before: dict[str, str] = {}
    for each in reversed(order):
        fact = matched.get(each.turn.id)
        if fact is None:
            matching.leftovers.append(Leftover(each, before.get(each.session)))
        elif fact.infer == "full" and each.turn.id not in late_turns and times[plain_text(fact.text)] == 1:
            before[each.session] = fact.order_key
    matching.leftovers.reverse()
    return matching


def is_older(leftover: Leftover, fact: SoughtFact, *, read_at: str | None) -> bool:
    """Whether a turn with an unknown text is certainly older than the fact's text.

    `read_at`: when Mem0 was read, by the server's clock; None for raw files, for which it is not known. If the turn was
    written before that and Mem0 did not have its text, the text had been replaced or deleted. Otherwise the turn is
    older if the fact's own time is later, or if something older than the fact was written after the turn.
    """
    written = leftover.listed.turn.created_at
    if read_at is not None and written and written <= read_at:
        return True
    if fact.text_at is not None and written and written < fact.text_at:
        return True
    return leftover.before is not None and leftover.before < fact.order_key


def is_of(hit: Hit, text: str) -> bool:
    """Whether a hit is the text, or a passage of it that is long enough to be sure."""
    if hit.source not in ("memory_chunk", "turn"):
        return False
    found = _folded(hit.text)
    whole = _folded(text)
    return found == whole or (len(found) >= PASSAGE_LETTERS and found in whole)


def begins(hit: Hit, text: str, at: int) -> int:
    """The end of a passage that covers the folded text from position `at`; 0 if none does."""
    found = _folded(hit.text)
    return at + len(found) if found and folded_text(text).startswith(found, at) else 0


def folded_text(text: str) -> str:
    """A text without differences of Unicode form and white space, which a server may lose between passages."""
    return _folded(text)


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def expected_requests(sizes: Iterable[tuple[int, int]], *, sessions: int, session_size: int) -> tuple[int, int]:
    """The fewest and the most requests that looking for facts takes.

    `sizes`: the number of facts and of different texts in each scope; `sessions`: how many the ledger knows.
    """
    low = high = sessions
    for facts, texts in sizes:
        parts = -(-facts // session_size)
        low += 2 * parts
        high += 2 * texts + parts
    return low, high
