"""Memories that say the same as another one of their scope, to the letter or nearly."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from spectron_migrate.judge import plain
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace

NEAR_PERCENT = 90.0
"""Texts of at least this rapidfuzz ratio (0-100), with equal numbers, may be folded into one another."""
SCANNED = 5000
"""So many memories of a scope are looked at."""
_KEPT = 20_000
"""Texts that are kept ready for the next question about their scope."""
_NO_DIGIT = re.compile(r"\D+")


@dataclass
class _Texts:
    """A scope's standing texts that have the same digits."""

    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class NearDuplicates:
    """Looks for twins; the texts of the scopes asked about last are kept."""

    def __init__(self, work: Workspace) -> None:
        """Nothing is read yet."""
        self._work = work
        self._scopes: dict[int, dict[str, _Texts]] = {}
        self._sizes: dict[int, int] = {}

    def of(self, fact: StoredMemory) -> list[str]:
        """Mem0 ids of the other standing memories of the scope that say the same."""
        from rapidfuzz import fuzz, process

        group = self._texts(fact.scope).get(_digits(fact.text))
        if group is None:
            return []
        near = process.extract(
            plain(fact.text), group.texts, scorer=fuzz.ratio, processor=None, score_cutoff=NEAR_PERCENT, limit=None
        )
        return [group.ids[place] for _, _, place in sorted(near, key=_place) if group.ids[place] != fact.mem0_id]

    def _texts(self, scope: int) -> dict[str, _Texts]:
        if scope not in self._scopes:
            while self._scopes and sum(self._sizes.values()) > _KEPT:
                oldest = next(iter(self._scopes))
                del self._scopes[oldest], self._sizes[oldest]
            groups: dict[str, _Texts] = defaultdict(_Texts)
            for mem0_id, text in self._work.standing_texts(scope, SCANNED):
                group = groups[_digits(text)]
                group.ids.append(mem0_id)
                group.texts.append(plain(text))
            self._scopes[scope], self._sizes[scope] = groups, sum(len(group.ids) for group in groups.values())
        return self._scopes[scope]


def _digits(text: str) -> str:
    return _NO_DIGIT.sub("", text)


def _place(match: tuple[str, float, int]) -> int:
    return match[2]
