"""Finds which memory made which attribute and relation, and whether each is in a scope of one of its memories.

From API 0.3.0 on, a fact shows its scope and the labels of its writes, one of which may hold the id of the memory. All
live attributes and relations are listed once. A row is ours if a receipt or such a label names a memory of the ledger
for it, or if it names the turn that it was made from. Older generations show neither scope nor labels: there, only
receipts trace attributes, and nothing traces relations.

A label names a memory and not its version. So it stands in for a receipt only if no receipt names the row and the
memory has one version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

from spectron_migrate.errors import MigrateError
from spectron_migrate.mapping.labels import id_of
from spectron_migrate.records import Json, Selector
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.graph import EntityLink, EntityValue, Graph
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.sightings import Sighting
from spectron_migrate.verify.stored_memory import StoredMemory, selector_text
from spectron_migrate.verify.workspace import Workspace

_WHOLE = "all"
_TOO_OLD = "this Spectron shows neither labels nor scope of its facts (API before 0.3.0)"


async def check_traces(work: Workspace, api: SpectronApi, key: str | None, reporter: Reporter) -> dict[str, Json]:
    """List all facts, and put findings and traces into the workspace.

    `key`: the label that holds a memory's id. Returns counts, or why nothing can be known.
    """
    graph = Graph(api)
    try:
        shows_labels = await graph.shows_labels()
    except MigrateError as error:
        await api.me()  # raises if the whole server is unreachable
        return _unknown(error.message)
    if not shows_labels:
        return _unknown(_TOO_OLD)
    if not work.is_done("traced", _WHOLE):
        reporter.stage("facts")
        walk = _Walk(work, key)
        try:
            async for row in _rows(graph):
                walk.add(row)
                reporter.advance(1)
        except MigrateError as error:
            await api.me()
            return _unknown(error.message)
        work.keep_traces(
            walk.traces,
            dict(walk.counts),
            walk.findings,
            accounted=walk.accounted,
            strange=walk.strange,
            names_memories=walk.names_memories,
        )
    return {"told": True, "why": "", **work.trace_counts(), "elsewhere": work.count_findings("misplaced_fact")}


async def _rows(graph: Graph) -> AsyncIterator[EntityValue | EntityLink]:
    async for value in graph.attributes():
        yield value
    async for link in graph.relations():
        yield link


def _unknown(why: str) -> dict[str, Json]:
    return {"told": False, "why": why, "attributes": 0, "relations": 0, "untraced": 0, "elsewhere": 0}


class _Walk:
    """Totals of one listing of all facts."""

    def __init__(self, work: Workspace, key: str | None) -> None:
        self._work = work
        self._key = key
        self._clauses = {clause for _, selector in work.scopes() for clause in _as_sets(selector)}
        self.counts: Counter[str] = Counter(attributes=0, relations=0, untraced=0)
        self.traces: list[tuple[int, str]] = []
        self.findings: list[Finding] = []
        self.accounted: list[str] = []
        """Rows that a label or a turn names, but no receipt."""
        self.names_memories = False
        """Whether any row names its memory, by a turn or a label."""
        self.strange: list[Sighting] = []
        """Rows that can be read in our scopes, and that nothing names."""

    def add(self, row: EntityValue | EntityLink) -> None:
        """Count one row; note which memory it is from, and whether it is where it should not be."""
        kind = "attributes" if isinstance(row, EntityValue) else "relations"
        by_receipt = self._work.owners_of(row.id)
        labelled = [
            fact
            for mem0_id in (id_of(row.labels or (), self._key) if self._key is not None else ())
            if (fact := self._work.newest(mem0_id)) is not None
        ]
        memories = [*by_receipt, *labelled]
        self.names_memories |= row.turn is not None or bool(labelled)
        if not memories and row.turn is not None:
            memories = self._work.owners_of(row.turn)
        where = _as_sets(row.scopes or ())
        if not memories:
            if where & self._clauses and not self._work.sightings.is_left(row.turn):
                self.counts["untraced"] += 1
                self.strange.append(_sighting(row))
            return
        self.counts[kind] += 1
        if not by_receipt:
            self.accounted.append(row.id)
            self.traces += [(fact.no, row.id) for fact in labelled if fact.version == 1]
        if all(_as_sets(fact.selector) != where for fact in memories):
            self.findings.append(_elsewhere(row, memories))


def _sighting(row: EntityValue | EntityLink) -> Sighting:
    what, text = _in_words(row)
    return Sighting(row.id, row.scopes or (), what, text, row.turn)


def _in_words(row: EntityValue | EntityLink) -> tuple[str, str]:
    """What the row is, and what it says."""
    if isinstance(row, EntityValue):
        return "attribute", f"{row.entity} {row.key}: {row.value}"
    return "relation", f"{row.subject} {row.label} {row.object}"


def _elsewhere(row: EntityValue | EntityLink, memories: list[StoredMemory]) -> Finding:
    what, text = _in_words(row)
    where = f"{what} {row.id} in scope {selector_text(row.scopes or ()) or 'of nobody'}"
    reason = f"a fact made from it is neither in {selector_text(memories[0].selector)} nor where its other memories are"
    return Finding("misplaced_fact", memories[0].mem0_id, reason, where, {"fact": text, "written": memories[0].text})


def _as_sets(selector: Selector) -> frozenset[frozenset[str]]:
    return frozenset(frozenset(clause) for clause in selector)
