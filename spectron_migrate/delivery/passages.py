"""Whether a stored text can be found. Its turn shows that it is stored; its passage shows that a search finds it."""

from __future__ import annotations

import unicodedata
from enum import Enum

from spectron_migrate.delivery.run import Run
from spectron_migrate.errors import KeyRefused, ScopeRefused, Unreachable
from spectron_migrate.ledger.read.turns import claimed_passages
from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.records import Hit
from spectron_migrate.spectron.api import MAX_K
from spectron_migrate.spectron.rows import Recall, Turn

PASSAGE_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Pauses between queries for a passage, 30 s in all, before it counts as absent."""
_LONGEST_QUERY = 1_000


class Passage(Enum):
    """The result if the queries named no passage."""

    ABSENT = "absent"
    UNKNOWN = "unknown"
    """It is not known: the key may not query, or all hits that the query can show are equal and of other memories."""
    UNANSWERED = "unanswered"


async def query_words(run: Run, fact: IntendedFact, text: str) -> Recall:
    """All passages with words of a text in the exact scopes of a fact, duplicates included. Raises as the API does."""
    return await run.api.query(
        text[:_LONGEST_QUERY],
        lens=fact.session.selector,
        k=MAX_K,
        mode="bm25",
        include=("passages",),
        include_duplicates=True,
    )


async def find_passage(run: Run, fact: IntendedFact, turn: Turn) -> str | Passage:
    """The id of the turn's passage, if no other memory has it. It is looked up in the exact scopes."""
    progress = run.progress(fact.key)
    while True:
        try:
            found = await query_words(run, fact, turn.content)
        except ScopeRefused:
            return Passage.UNKNOWN
        except KeyRefused as error:
            run.halt("key", error.message)
            return Passage.UNANSWERED
        except Unreachable as error:
            run.give_up_on(fact.key, error.message)
            return Passage.UNANSWERED
        pieces = [hit for hit in found.hits if hit.source == "memory_chunk" and _is_piece(hit, turn)]
        claimed = await run.writer.grouped(claimed_passages, [hit.id for hit in pieces])
        free = [hit.id for hit in pieces if hit.id not in claimed]
        if free:
            return free[0]
        if len(pieces) >= MAX_K:
            return Passage.UNKNOWN
        if progress.passage_queries >= len(PASSAGE_PAUSES_S):
            return Passage.ABSENT
        pause_s = PASSAGE_PAUSES_S[progress.passage_queries]
        progress.passage_queries += 1
        if not await run.pause(pause_s, fact.key, "a text that was stored cannot be found yet"):
            return Passage.UNANSWERED


def _is_piece(hit: Hit, turn: Turn) -> bool:
    """Whether a passage is a piece of the text: a long text is cut into several passages."""
    return bool(hit.text.strip()) and folded(hit.text) in folded(turn.content)


def folded(text: str) -> str:
    """The text in one Unicode form, without anything between its words."""
    return " ".join(unicodedata.normalize("NFC", text).split())
