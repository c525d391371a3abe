"""A version of a memory that Spectron confirmed, as verification reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spectron_migrate.records import Infer, Selector


@dataclass(frozen=True, slots=True)
class StoredMemory:
    """A version of a memory that Spectron confirmed, as the workspace keeps it."""

    no: int
    mem0_id: str
    version: int
    newest: bool
    text: str
    text_at: str | None
    order_key: str
    selector: Selector
    scope: int
    run: str | None
    infer: Infer
    category: str | None
    """`memory_category` as it was sent; None if the server chose."""
    role: str
    """As it was sent."""
    state: str
    session_id: str
    turn_id: str | None
    chunk_id: str | None
    ids: tuple[str, ...]
    late: bool
    echoed: bool
    tombstoned: bool
    owners: Mapping[str, str]

    @property
    def stale(self) -> bool:
        """An older version, or deleted in Mem0: an application must not be shown it."""
        return self.tombstoned or not self.newest


def selector_text(selector: Selector) -> str:
    """A selector in words, such as `user/anna and team/a or team/b`."""
    return " or ".join(" and ".join(clause) for clause in selector)
