"""Memories of one scope whose texts are equal or nearly equal."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from spectron_migrate.judge import plain
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace

NEAR_PERCENT = 90.0
"""Texts with at least this rapidfuzz ratio (0-100) and the same digits are near-duplicates, which Spectron may fold."""
SCANNED = 5000
"""The most memories of a scope that are compared."""
_CACHED = 20_000
"""How many texts are kept for the next question about their scope."""
_DIGITS = re.compile(r"\d+")


@dataclass(slots=True)
class _TextGroup:
    """Current texts of a scope that have the same digits."""

    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    are_plain: bool = False
    """Whether the texts were made `plain`, which is done only for groups that are asked for."""

    def plain_texts(self) -> list[str]:
        if not self.are_plain:
            self.texts, self.are_plain = [plain(text) for text in self.texts], True
        return self.texts


class NearDuplicates:
    """Finds near-duplicates; caches the texts of recently used scopes."""

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self._scopes: dict[int, dict[str, _TextGroup]] = {}
        self._sizes: dict[int, int] = {}

    def of(self, fact: StoredMemory) -> list[str]:
        """Mem0 ids of the other current memories of the scope that are equal or nearly equal to this one."""
        from rapidfuzz import fuzz, process

        group = self._texts(fact.scope).get(_digits(fact.text))
        if group is None:
            return []
        near = process.extract(
            plain(fact.text),
            group.plain_texts(),
            scorer=fuzz.ratio,
            processor=None,
            score_cutoff=NEAR_PERCENT,
            limit=None,
        )
        return [group.ids[index] for _, _, index in sorted(near, key=_index) if group.ids[index] != fact.mem0_id]

    def _texts(self, scope: int) -> dict[str, _TextGroup]:
        if scope not in self._scopes:
            while self._scopes and sum(self._sizes.values()) > _CACHED:
                oldest = next(iter(self._scopes))
                del self._scopes[oldest], self._sizes[oldest]
            groups: dict[str, _TextGroup] = defaultdict(_TextGroup)
            for mem0_id, text in self._work.expected_texts(scope, SCANNED):
                group = groups[_digits(text)]
                group.ids.append(mem0_id)
                group.texts.append(text)
            self._scopes[scope], self._sizes[scope] = groups, sum(len(group.ids) for group in groups.values())
        return self._scopes[scope]


def _digits(text: str) -> str:
    return "".join(_DIGITS.findall(text))


def _index(match: tuple[str, float, int]) -> int:
    return match[2]
