"""Looks on the server for the facts of one selector, and records what is there."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from spectron_migrate.keywords import WordFrequencies
from spectron_migrate.ledger import adopting
from spectron_migrate.ledger.adopting import FoundTurn
from spectron_migrate.ledger.read import adoption
from spectron_migrate.ledger.read.adoption import SoughtFact
from spectron_migrate.ledger.read.turns import claimed_passages
from spectron_migrate.migration.adoption_run import AdoptionRun
from spectron_migrate.migration.turn_matching import (
    Leftover,
    ListedTurn,
    Match,
    begins,
    folded_text,
    is_of,
    match_turns,
    plain_text,
)
from spectron_migrate.records import Hit
from spectron_migrate.spectron.api import MAX_K
from spectron_migrate.spectron.rows import Turn

_LONGEST_QUERY = 1_000
_PART = 300
"""How many characters of a text provide the words that should find the passage there."""
_TOGETHER = 8
"""The most texts of one scope that are looked for at once."""
_OURS = 10
"""A session counts as opened by this migration if at least one turn in this many is a memory of the dump."""
FULL = "more than 50 passages with its text are in its scope, and not all of them can be looked at"
CACHED = "only a cache answers whether its text is there, which proves nothing"
WORDLESS = "its text has no word by which it could be found"
PARTLY = "only a part of its text was found"
SHARED = "its text was found where several scopes can see it, and nothing shows which scope it is in"


@dataclass(slots=True)
class TextEvidence:
    """What the queries for one text have shown."""

    equal: dict[str, Hit] = field(default_factory=dict)
    """Passages of the text, by id."""
    is_full: bool = False
    """Whether there may be more passages than were shown."""
    is_proven: bool = False
    """Whether an answer to its words came from the store, not from a cache."""
    has_words: bool = True


class ScopeSearch:
    """Looks for the facts of one selector."""

    def __init__(
        self,
        run: AdoptionRun,
        selector: int,
        fact_ids: Sequence[int],
        unclaimed: Sequence[ListedTurn],
    ) -> None:
        """`unclaimed`: turns of known sessions that no receipt names."""
        self._run = run
        self._ledger = run.ledger
        self._number = selector
        self.fact_ids = fact_ids
        self.selector = adoption.selector_of_number(self._ledger, selector)
        self.paths = adoption.selector_paths(self._ledger, selector)
        self._turns = list(unclaimed)
        self._sizes: dict[str, int] = {}
        """The number of turns in each listed session."""
        self._evidence: dict[str, TextEvidence] = {}
        self._chunks: dict[str, str] = {}
        """First passage by turn."""
        self._ambiguous: set[str] = set()
        """Texts of sessions that several scopes can see."""
        self._partly: set[str] = set()
        """Texts of which only a part was found."""

    async def run(self) -> None:
        """Find what is there, and record it in one transaction."""
        facts = adoption.read_sought(self._ledger, self.fact_ids)
        if self._may_be_there():
            await self._find_sessions(facts)
        matching = match_turns(self._turns, facts)
        surplus = await self._passages_of_surplus(matching.leftovers, facts)
        loose = await self._loose_passages(self._lacking(facts, matching.matches))
        with self._ledger.transaction():
            taken = self._adopt_turns(matching.matches)
            taken |= self._adopt_passages(loose)
            self._keep_leftovers(matching.leftovers, matching.matches, facts, surplus)
            self._hold_undecided([fact for fact in facts if fact.id not in taken])

    def _may_be_there(self) -> bool:
        """False if no scope of the selector was ever registered, as far as the key can see."""
        registered = self._run.scopes
        if registered is None or self._run.me.ungranted("scope:read", self.paths):
            return True
        return any(path in registered for path in self.paths)

    # -- finding ------------------------------------------------------------------------------------------

    async def _find_sessions(self, facts: Sequence[SoughtFact]) -> None:
        """Query for texts that have fewer turns than facts, and list the sessions that hits name."""
        words = WordFrequencies(fact.text for fact in facts)
        together = 1
        while texts := self._unasked(facts)[:together]:
            answers = await asyncio.gather(*(self._ask_for(text, words) for text in texts))
            named = {hit.session_id: None for hits in answers for hit in hits if hit.session_id is not None}
            new = [session for session in named if await self._list(session)]
            together = 1 if new else min(2 * together, _TOGETHER)

    def _unasked(self, facts: Sequence[SoughtFact]) -> list[str]:
        there: defaultdict[str, int] = defaultdict(int)
        for each in self._turns:
            there[plain_text(each.turn.content)] += 1
        lacking: dict[str, str] = {}
        for fact in facts:
            text = plain_text(fact.text)
            there[text] -= 1
            if there[text] < 0 and text not in self._evidence:
                lacking.setdefault(text, fact.text)
        return list(lacking.values())

    async def _ask_for(self, text: str, words: WordFrequencies) -> list[Hit]:
        """The passages of a text in its exact scopes: by its rarest words, then by the whole text."""
        evidence = self._evidence.setdefault(plain_text(text), TextEvidence())
        rarest, whole = " ".join(words.rarest(text)), text[:_LONGEST_QUERY]
        evidence.has_words = bool(rarest)
        for query, mode in ((rarest, "bm25"), (whole, "hybrid"), (whole, "vector")):
            if not query.strip() or (mode == "vector" and evidence.is_proven):
                continue
            answer = await self._run.ask(query, lens=self.selector, mode=mode)
            if answer.cached:
                continue  # a cached answer may be from another lens and another time
            equal = [hit for hit in answer.hits if is_of(hit, text)]
            evidence.is_proven = evidence.is_proven or mode == "bm25"
            evidence.equal |= {hit.id: hit for hit in equal}
            if equal:
                evidence.is_full = len(answer.hits) >= MAX_K and is_of(answer.hits[-1], text)
                for hit in equal:
                    if hit.turn_id is not None and begins(hit, text, 0):
                        self._chunks[hit.turn_id] = hit.id
                return equal
        return []

    async def _list(self, session: str) -> bool:
        """List a session that a hit names, if it is new and of this scope; True if it added turns."""
        run = self._run
        if session in run.gone_sessions or session in run.owners:
            return False
        known = adoption.known_session(self._ledger, session)
        if known is not None and known.selector != self._number:
            return False
        run.owners[session] = self._number
        turns = await run.list_turns(session, self._number)
        if turns is None:
            run.gone_sessions.add(session)
            del run.owners[session]
            return False
        if known is None and not await self._is_of_this_scope(session, turns):
            return False
        claimed = known.facts.keys() | known.residue if known is not None else set()
        already = {each.turn.id for each in self._turns}
        self._sizes[session] = len(turns)
        new = [ListedTurn(session, turn) for turn in turns if turn.id not in claimed | already]
        self._turns += new
        return bool(new)

    async def _is_of_this_scope(self, session: str, turns: Sequence[Turn]) -> bool:
        """Whether a session is in this selector; needed if overlapping selectors have one of its texts."""
        ledger, run = self._ledger, self._run
        overlapping = adoption.overlapping_selectors(ledger, self._number)
        texts = [turn.content for turn in turns]
        sharing = adoption.selectors_with_text(ledger, overlapping, texts) if overlapping else []
        if not sharing:
            return True
        visible: set[str] = set()
        candidates = {number: set(adoption.selector_paths(ledger, number)) for number in (self._number, *sharing)}
        for path in sorted({path for paths in candidates.values() for path in paths}):
            answer = await run.ask(turns[0].content[:_LONGEST_QUERY], lens=((path,),), mode="bm25")
            if any(hit.session_id == session for hit in answer.hits):
                visible.add(path)
        top = {path for path in visible if not any(path.startswith(f"{other}/") for other in visible)}
        owners = [number for number, paths in candidates.items() if paths == top]
        if owners == [self._number]:
            return True
        if len(owners) == 1:
            del run.owners[session]  # the search of its own scope finds it too
        else:
            self._ambiguous |= {plain_text(text) for text in texts}
        return False

    # -- passages without a turn --------------------------------------------------------------------------

    def _lacking(self, facts: Sequence[SoughtFact], matches: Sequence[Match]) -> dict[str, list[SoughtFact]]:
        """Facts without a turn, by text."""
        matched = {match.fact.id for match in matches}
        lacking: defaultdict[str, list[SoughtFact]] = defaultdict(list)
        for fact in facts:
            if fact.id not in matched:
                lacking[plain_text(fact.text)].append(fact)
        return dict(lacking)

    def _without_listing(self, evidence: TextEvidence) -> list[Hit]:
        """Passages whose session cannot be listed: it is gone, or this generation of the API names none."""
        run = self._run
        return [
            hit
            for hit in evidence.equal.values()
            if hit.session_id in run.gone_sessions or (hit.session_id is None and not run.names_sessions)
        ]

    async def _loose_passages(self, lacking: dict[str, list[SoughtFact]]) -> list[tuple[SoughtFact, str]]:
        """Facts whose text was found in passages whose turn cannot be listed, each with its first passage."""
        pairs: list[tuple[SoughtFact, str]] = []
        used: set[str] = set()
        overlapping = adoption.overlapping_selectors(self._ledger, self._number)
        for text, facts in lacking.items():
            evidence = self._evidence.get(text)
            hits = self._without_listing(evidence) if evidence is not None else []
            if not hits or evidence is None:
                continue
            if overlapping and adoption.selectors_with_text(self._ledger, overlapping, [facts[0].text]):
                self._ambiguous.add(text)
                continue
            first = [hit for hit in hits if begins(hit, facts[0].text, 0)]
            if not first or not await self._covers(facts[0].text, hits):
                self._partly.add(text)
                continue
            claimed = claimed_passages(self._ledger, [hit.id for hit in first])
            free = [hit.id for hit in first if hit.id not in claimed | used]
            if not self._run.names_sessions:
                free = free[adoption.count_without_passage(self._ledger, self._number, facts[0].text) :]
            pairs += zip(facts, free, strict=False)
            used.update(free)
        return pairs

    async def _covers(self, text: str, hits: Sequence[Hit]) -> bool:
        """Whether passages cover the text from its first letter to its last. Missing ones are queried for."""
        whole = folded_text(text)
        known = list(hits)
        at = 0
        while at < len(whole):
            end = max((begins(hit, text, at) for hit in known), default=0)
            if not end:
                answer = await self._run.ask(whole[at : at + _PART], lens=self.selector, mode="bm25")
                known += [hit for hit in answer.hits if not answer.cached]
                end = max((begins(hit, text, at) for hit in known), default=0)
            if not end:
                return False
            at = end + whole.startswith(" ", end)
        return True

    async def _passages_of_surplus(self, leftovers: Sequence[Leftover], facts: Sequence[SoughtFact]) -> set[str]:
        """Query for texts that have more turns than facts, because their passages may tell the turns apart.

        Returns the texts with a passage for each turn.
        """
        words = WordFrequencies(fact.text for fact in facts)
        own = {plain_text(fact.text): fact.text for fact in facts}
        known = set()
        for text in {plain_text(each.listed.turn.content) for each in leftovers}:
            if text not in own:
                continue
            await self._ask_for(own[text], words)
            turns = [each.turn.id for each in self._turns if plain_text(each.turn.content) == text]
            if all(turn in self._chunks for turn in turns):
                known.add(text)
        return known

    # -- recording it -------------------------------------------------------------------------------------

    def _adopt_turns(self, matches: Sequence[Match]) -> set[int]:
        """Record receipts; returns the facts that are decided, or left to the recovery of their batch."""
        taken, sessions = set(), set()
        for match in matches:
            fact, listed = match.fact, match.listed
            taken.add(fact.id)
            session = adopting.adopted_session(
                self._ledger, self._number, fact.run, fact.infer, listed.session, self._run.stamp()
            )
            if fact.in_batch:
                if fact.session == session:
                    continue  # the whole batch is decided by its session, in order
                adopting.plan_rest_of_batch(self._ledger, fact.id)
            turn = listed.turn
            found = FoundTurn(fact, session, turn.id, turn.seq, self._chunks.get(turn.id), match.late)
            adopting.adopt(self._ledger, found)
            sessions.add(session)
            self._run.found.adopted += 1
        for session in sessions:
            adopting.mark_out_of_order(self._ledger, session)
        return taken

    def _adopt_passages(self, pairs: Sequence[tuple[SoughtFact, str]]) -> set[int]:
        for fact, chunk_id in pairs:
            session = adopting.adopted_session(
                self._ledger, self._number, fact.run, fact.infer, None, self._run.stamp()
            )
            adopting.adopt(self._ledger, FoundTurn(fact, session, None, None, chunk_id))
            self._run.found.adopted += 1
            self._run.found.without_turn += 1
        return {fact.id for fact, _ in pairs}

    def _keep_leftovers(
        self,
        leftovers: Sequence[Leftover],
        matches: Sequence[Match],
        facts: Sequence[SoughtFact],
        surplus: set[str],
    ) -> None:
        """Turns that have the text of no fact: replaced or deleted in Mem0, or perhaps newer."""
        matched: defaultdict[str, list[SoughtFact]] = defaultdict(list)
        for match in matches:
            matched[match.listed.session].append(match.fact)
        with_text = {plain_text(match.fact.text): match.fact for match in matches}
        decided = {match.fact.id for match in matches}
        in_doubt = {fact.session for fact in facts if fact.state == "intended" and fact.id not in decided}
        for each in leftovers:
            session, turn = each.listed.session, each.listed.turn
            known = adoption.known_session(self._ledger, session)
            if known is not None and turn.id in known.spare:
                continue  # an earlier adoption kept this turn
            if known is not None and known.id in in_doubt:
                continue  # perhaps the turn of a fact in doubt, with a text that the server changed
            like = matched[session][0] if matched[session] else adoption.any_fact(self._ledger, self._number)
            is_ours = self._is_ours(session, len(matched[session]))
            text = plain_text(turn.content)
            if like is not None and is_ours and self._run.is_stale(turn):
                number = adopting.adopted_session(
                    self._ledger, self._number, like.run, like.infer, session, self._run.stamp()
                )
                if text in with_text and text not in surplus:
                    adopting.keep_copies(self._ledger, with_text[text].id, number, [turn.id])
                else:
                    found = FoundTurn(like, number, turn.id, turn.seq, self._chunks.get(turn.id))
                    adopting.keep_deleted(self._ledger, found, text=turn.content, now=self._run.stamp())
            elif like is not None:
                self._run.note_unknown(like.lane, each)

    def _is_ours(self, session: str, matched: int) -> bool:
        """Whether this migration opened the session: the ledger knows it, or it holds enough memories of the dump.

        Otherwise an application opened it, and happened to store a text that is in the dump too.
        """
        if session not in self._sizes:
            return True
        return not self._run.settings.applications_write and matched * _OURS >= self._sizes[session]

    def _hold_undecided(self, facts: Sequence[SoughtFact]) -> None:
        """Mark the facts as undecidable for which no evidence shows whether they are there."""
        for fact in facts:
            reason = self._why_undecided(plain_text(fact.text))
            if reason is not None and fact.state == "planned":
                adopting.hold(self._ledger, fact.id, reason)
                self._run.found.held += 1

    def _why_undecided(self, text: str) -> str | None:
        evidence = self._evidence.get(text)
        if text in self._ambiguous:
            return SHARED
        if text in self._partly:
            return PARTLY
        if evidence is None:
            return None
        if evidence.is_full:
            return FULL
        if not evidence.is_proven:
            return CACHED if evidence.has_words else WORDLESS
        return None
