"""What a reader of changes finds, as texts by id."""

from __future__ import annotations

from datetime import datetime

from spectron_migrate.mem0.reader import Changed, ChangesReader

Texts = dict[str, str]


def changed_at(changes: ChangesReader, now: datetime) -> Changed:
    """What changed, where the reader can say so."""
    found = changes.changed(now=now)
    assert found is not None
    return found


def texts_after(texts: Texts, found: Changed) -> Texts:
    """The texts once the changes are made."""
    kept = {mem0_id: text for mem0_id, text in texts.items() if mem0_id not in found.gone}
    return kept | {memory.id: memory.memory for memory in found.memories}
