"""Which turn of the server is the receipt of which fact, by text and order (pure).

One turn is the receipt of one fact at most. Equal texts are told apart by the order of their session: turns of a
session that were sent with extraction rise with the order key.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from spectron_migrate.judge import PASSAGE_LETTERS
from spectron_migrate.ledger.read.adoption import SoughtFact
from spectron_migrate.records import Hit
from spectron_migrate.rising import longest_rising
from spectron_migrate.spectron.api import Turn


@dataclass(frozen=True, slots=True)
class ListedTurn:
    """A turn that no receipt names, and its session by the server's id."""

    session: str
    turn: Turn


@dataclass(frozen=True, slots=True)
class Match:
    """A turn and the fact that it is the receipt of."""

    listed: ListedTurn
    fact: SoughtFact
    late: bool = False
    """Whether it is out of order in its session."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A turn that has the text of no fact."""

    listed: ListedTurn
    before: str | None
    """The order key of a fact that was sent after it in the same session; None where there is none."""


@dataclass(slots=True)
class Matching:
    """All turns of a scope, matched."""

    matches: list[Match] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)


def plain_text(text: str) -> str:
    """Equal for texts that differ only by what a server may normalise (`records.same_text`)."""
    return unicodedata.normalize("NFC", text).strip()


def match_turns(turns: Sequence[ListedTurn], facts: Sequence[SoughtFact]) -> Matching:
    """Match the turns of one scope with the facts of that scope.

    Where several turns and facts have one text, a fact goes to a turn between whose neighbours its order key lies, if
    there is one; else the oldest fact to the oldest turn.
    """
    by_text: defaultdict[str, list[SoughtFact]] = defaultdict(list)
    for fact in sorted(facts, key=lambda fact: fact.order_key):
        by_text[plain_text(fact.text)].append(fact)
    order = sorted(turns, key=lambda each: (each.turn.created_at, each.session, each.turn.seq))
    times = Counter(plain_text(each.turn.content) for each in order)
    pairs = _Pairs()
    for each in order:
        text = plain_text(each.turn.content)
        if times[text] == 1 and len(by_text[text]) == 1:
            pairs.add(each, by_text[text].pop())
    rest = [each for each in order if each.turn.id not in pairs.facts]
    for in_order in (True, False):
        for each in rest:
            candidates = by_text[plain_text(each.turn.content)]
            if each.turn.id not in pairs.facts and candidates:
                chosen = pairs.choose(each, candidates, in_order=in_order)
                if chosen is not None:
                    candidates.remove(chosen)
                    pairs.add(each, chosen)
    return pairs.finish(order)


class _Pairs:
    """Turns and their facts so far."""

    def __init__(self) -> None:
        self.facts: dict[str, SoughtFact] = {}
        """By turn."""
        self._by_session: defaultdict[str, list[tuple[int, SoughtFact]]] = defaultdict(list)

    def add(self, each: ListedTurn, fact: SoughtFact) -> None:
        self.facts[each.turn.id] = fact
        self._by_session[each.session].append((each.turn.seq, fact))

    def choose(self, each: ListedTurn, candidates: Sequence[SoughtFact], *, in_order: bool) -> SoughtFact | None:
        """The best fact for a turn; with `in_order` only one whose order key lies between the turn's neighbours."""
        known = self._by_session[each.session]
        if in_order:
            low = max((fact.order_key for seq, fact in known if seq < each.turn.seq), default="")
            high = min((fact.order_key for seq, fact in known if seq > each.turn.seq), default=None)
            candidates = [
                fact for fact in candidates if low < fact.order_key and (high is None or fact.order_key < high)
            ]
        runs = {fact.run for _, fact in known}
        return min(
            candidates,
            key=lambda fact: (bool(runs) and fact.run not in runs, fact.role != each.turn.role, fact.order_key),
            default=None,
        )

    def finish(self, order: Sequence[ListedTurn]) -> Matching:
        matching = Matching()
        in_order = {session: self._rising(pairs) for session, pairs in self._by_session.items()}
        for each in order:
            fact = self.facts.get(each.turn.id)
            if fact is None:
                later = [key for seq, key in in_order.get(each.session, {}).items() if seq > each.turn.seq]
                matching.leftovers.append(Leftover(each, min(later, default=None)))
            else:
                late = fact.infer == "full" and each.turn.seq not in in_order[each.session]
                matching.matches.append(Match(each, fact, late))
        return matching

    @staticmethod
    def _rising(pairs: list[tuple[int, SoughtFact]]) -> dict[int, str]:
        """The order keys, by `seq`, of the facts of a session that were sent in order."""
        full = sorted((seq, fact.order_key) for seq, fact in pairs if fact.infer == "full")
        ranks = {key: rank for rank, key in enumerate(sorted(key for _, key in full))}
        kept = longest_rising([ranks[key] for _, key in full])
        return {seq: key for index, (seq, key) in enumerate(full) if index in kept}


def is_older(leftover: Leftover, fact: SoughtFact, *, read_at: str | None) -> bool:
    """Whether a turn with an unknown text is certainly older than what Mem0 had when the fact's text was read.

    `read_at`: when Mem0 was read, by the server's clock; None for raw files, of which nobody knows. What was written
    before Mem0 was read and is not in it was replaced or deleted there. Else the fact's own time must be later, or
    something older than the fact was written after that turn.
    """
    written = leftover.listed.turn.created_at
    if read_at is not None and written and written <= read_at:
        return True
    if fact.text_at is not None and written and written < fact.text_at:
        return True
    return leftover.before is not None and leftover.before < fact.order_key


def is_of(hit: Hit, text: str) -> bool:
    """Whether a hit is the text, or a passage of it that is long enough to tell."""
    if hit.source not in ("memory_chunk", "turn"):
        return False
    found = _folded(hit.text)
    whole = _folded(text)
    return found == whole or (len(found) >= PASSAGE_LETTERS and found in whole)


def begins(hit: Hit, text: str, at: int) -> int:
    """Where a passage ends that covers the folded text from position `at`; 0 if it does not."""
    found = _folded(hit.text)
    return at + len(found) if found and folded_text(text).startswith(found, at) else 0


def folded_text(text: str) -> str:
    """A text without differences of Unicode form and white space, which a server may lose between passages."""
    return _folded(text)


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def expected_requests(sizes: Iterable[tuple[int, int]], *, sessions: int, session_size: int) -> tuple[int, int]:
    """Requests to look for facts: if all of them are there, and at most.

    `sizes`: the number of facts and of different texts of each scope; `sessions`: those that the ledger knows.
    """
    low = high = sessions
    for facts, texts in sizes:
        parts = -(-facts // session_size)
        low += 2 * parts
        high += 2 * texts + parts
    return low, high
