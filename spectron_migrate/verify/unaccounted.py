"""Finds rows that searches showed and that nothing accounts for.

A row is accounted for if a receipt or a label names it, if it names the turn of a memory under the lens, if an adapter
added it after `complete`, or if it is a passage whose text was written under the lens. Anything else was written by
somebody else, or is a copy of something written elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from spectron_migrate.judge import plain
from spectron_migrate.ledger.schema import marks
from spectron_migrate.mapping import covers
from spectron_migrate.records import Json, Selector, selector_of
from spectron_migrate.state.added_tables import DDL, NAME
from spectron_migrate.state.store import StateStore, Tables
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.sightings import FACTS, MOST, Sighting, in_parts
from spectron_migrate.verify.workspace import Workspace

NAMED = 3
"""The most scopes and rows that the gate names. The report has all."""


def count_unaccounted(work: Workspace, store: StateStore) -> dict[str, Json]:
    """Judge what the searches showed, and put findings into the workspace. Call it after the last search."""
    found: dict[str, list[Sighting]] = {}
    untold: set[str] = set()
    added = _Added(store)
    try:
        for lens, sightings in work.sightings.by_lens():
            rest = added.without(work.sightings.unnamed(sightings, lens), lens)
            facts = [each for each in rest if each.kind in FACTS]
            lacks = bool(facts) and any(work.lacks_extraction(scope) for scope, _ in work.scopes_covered(lens))
            strange = [each for each in facts if _can_tell(work, each, lacks=lacks)]
            untold |= {each.id for each in facts} - {each.id for each in strange}
            passages = [each for each in rest if each.kind not in FACTS]
            for each in (*strange, *_of_no_text(work, added, passages, lens)):
                found.setdefault(each.id, []).append(each)
    finally:
        added.close()
    if not work.is_done("unaccounted", "all"):
        work.keep("unaccounted", "all", map(_finding, found.values()))
    ours = [row for row, seen in found.items() if any(_is_ours(work, each.lens) for each in seen)]
    scopes = sorted({_name(each.lens) for seen in found.values() for each in seen})
    return {
        "rows": len(found),
        "ours": len(ours),
        "scopes": scopes[:NAMED],
        "scopes_count": len(scopes),
        "examples": [f"{seen[0].kind} {row}" for row, seen in sorted(found.items())[:NAMED]],
        "searches": work.count_done("recallable", "isolation"),
        "untold": len(untold - found.keys()),
        "more": work.sightings.count() >= MOST,
    }


def _finding(seen: Sequence[Sighting]) -> Finding:
    first = seen[0]
    lenses = ", ".join(dict.fromkeys(_name(each.lens) for each in seen))
    reason = f"a reader there is shown {first.kind} {first.id}, and nothing that was written accounts for it"
    return Finding("unaccounted", None, reason, f"scope {lenses}", {"found": first.text})


def _name(lens: Selector) -> str:
    """The scopes of a lens, without scopes below another one."""
    clauses = dict.fromkeys(tuple(path.removesuffix("/*") for path in clause) for clause in lens)
    return " or ".join(" and ".join(clause) for clause in clauses)


def _is_ours(work: Workspace, lens: Selector) -> bool:
    """Whether this migration made every scope of a lens, so that nobody else had a reason to write there."""
    return work.is_ours(tuple(tuple(path.removesuffix("/*") for path in clause) for clause in lens))


def _can_tell(work: Workspace, seen: Sighting, *, lacks: bool) -> bool:
    """Whether a fact of ours would be recognized as ours.

    It would not if the ids in answers differ from those in receipts. Nor would it if facts cannot be listed or name no
    memory, and it is not known what was extracted from some memory under the lens (`lacks`).
    """
    is_walked = work.is_done("traced", "all")
    if lacks and not work.sightings.name_memories:
        return False
    if not is_walked:
        return work.sightings.knows_attributes or not work.has_extracted()
    traced = work.trace_counts().get("attributes" if seen.kind == "attribute" else "relations", 0)
    return traced > 0 or not work.has_extracted()


def _of_no_text(work: Workspace, added: _Added, passages: Sequence[Sighting], lens: Selector) -> list[Sighting]:
    """Rows whose text was not written under the lens and, if they name no turn, is no piece of such a text."""
    rest = [each for each in passages if not _is_written(work, each.text, lens)]
    if all(each.turn is not None for each in rest):
        return rest
    texts = (text for scope, _ in work.scopes_covered(lens) for text in work.texts_of(scope))
    for part in (texts, added.texts(lens)):
        for text in part:
            whole = plain(text)
            rest = [each for each in rest if each.turn is not None or plain(each.text) not in whole]
            if not rest:
                return []
    return rest


def _is_written(work: Workspace, text: str, lens: Selector) -> bool:
    return any(covers(lens, fact.selector) for fact in (*work.with_text(text), *work.with_passage(text)))


class _Added:
    """Memories that adapters added after `complete`, as far as this state has them."""

    def __init__(self, store: StateStore) -> None:
        is_there = store.folder is None or (store.folder / f"{NAME}.db").exists()
        self._tables: Tables | None = store.tables(NAME, DDL) if is_there else None

    def without(self, sightings: Sequence[Sighting], lens: Selector) -> list[Sighting]:
        """Rows of which neither id nor turn was added under the lens."""
        ids = {name for each in sightings for name in (each.id, each.turn) if name is not None}
        made = self._made(ids, lens)
        return [each for each in sightings if each.id not in made and each.turn not in made]

    def texts(self, lens: Selector) -> Iterator[str]:
        """Texts that were added under the lens."""
        if self._tables is None:
            return
        prefix = self._tables.prefix
        for (selector,) in self._tables.read(f"SELECT DISTINCT selector FROM {prefix}placed"):
            if covers(lens, selector_of(selector)):
                rows = self._tables.read(
                    f"SELECT record FROM {prefix}memory AS memory JOIN {prefix}placed AS placed"
                    " ON placed.memory = memory.id WHERE selector = ?",
                    (selector,),
                )
                yield from (str(json.loads(record)["memory"]) for (record,) in rows)

    def close(self) -> None:
        """Close the tables."""
        if self._tables is not None:
            self._tables.close()

    def _made(self, ids: set[str], lens: Selector) -> set[str]:
        found: set[str] = set()
        for some in in_parts(ids) if self._tables is not None else ():
            assert self._tables is not None  # noqa: S101 - for the type checker
            prefix = self._tables.prefix
            rows = self._tables.read(
                f"SELECT made.row, selector FROM {prefix}made AS made JOIN {prefix}placed AS placed"
                f" ON placed.memory = made.memory WHERE made.row IN ({marks(some)})",
                tuple(some),
            )
            found |= {row for row, selector in rows if covers(lens, selector_of(selector))}
        return found
