"""Shows what Spectron would make of some memories of a plan, before anything is stored (`infer: preview`).

The memories are spread over users. If the scopes of a memory are registered, its preview names them. If not, it names
none, because registering one would store something; such a preview shows no corrections, because nothing is there yet.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectron_migrate.delivery.tokens import estimate_tokens
from spectron_migrate.dump import Dump
from spectron_migrate.errors import NotLegal
from spectron_migrate.ledger import Ledger, plan
from spectron_migrate.ledger.bodies import fact_body
from spectron_migrate.ledger.read.planned import planned_memories
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.migration.planning import make_plan
from spectron_migrate.quantiles import t_quantile
from spectron_migrate.records import Filters, Json, Memory, Placement, counted
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.scopes import live_paths, paths_of
from spectron_migrate.state.store import StateStore

IN_FLIGHT = 4
CONFIDENCE = 0.95
LISTED = 100
_NOBODY = "-"


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """What Spectron would make of one memory."""

    id: str
    owner: str
    text: str
    entities: tuple[str, ...]
    attributes: tuple[str, ...]
    relations: tuple[str, ...]
    corrections: tuple[str, ...]
    tokens: int
    """As the server reports, or else the upper estimate: what a replay counts for this memory."""
    tokens_stated: bool
    refused: str = ""

    @property
    def gives_nothing(self) -> bool:
        """Whether the text would be stored without any fact."""
        return not (self.refused or self.entities or self.attributes or self.relations)

    def to_json(self) -> dict[str, Json]:
        """For `--json`."""
        lists = {name: list(getattr(self, name)) for name in ("entities", "attributes", "relations", "corrections")}
        return {"id": self.id, "owner": self.owner, **lists, "tokens": self.tokens, "refused": self.refused}


def _line(points: Sequence[tuple[int, int]]) -> tuple[float, float, float, float]:
    """Fit a straight line to points by least squares.

    Returns the mean of x, the sum of its squared deviations, the slope, and the variance of y around the line.
    """
    n = len(points)
    x_mean, y_mean = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0
    left_over = sum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in points)
    return x_mean, spread, slope, left_over / (n - 2)


@dataclass(frozen=True, slots=True)
class PreviewSummary:
    """The result of a preview, with an estimate for all memories of the plan."""

    rows: tuple[PreviewRow, ...]
    of: int
    """Memories of the plan that would be sent with extraction."""
    users: int
    """How many users the previewed memories belong to."""
    without_scope: int
    """Previews of memories whose scopes are not registered yet."""
    estimated: tuple[int, int]
    """Tokens of all memories, estimated from their texts alone: lower and upper bound."""
    letters: int
    """Total length of the texts of all memories, in characters."""

    @property
    def taken(self) -> list[PreviewRow]:
        """The memories that Spectron accepted."""
        return [row for row in self.rows if not row.refused]

    @property
    def tokens(self) -> int:
        """Of the previewed memories together."""
        return sum(row.tokens for row in self.taken)

    @property
    def is_stated(self) -> bool:
        """Whether the server reported what each preview cost."""
        return bool(self.taken) and all(row.tokens_stated for row in self.taken)

    def extrapolated(self) -> tuple[int, int, int]:
        """Tokens of all memories: the estimate, with lower and upper bound.

        If the server reports what a preview cost, a straight line through cost and length of text predicts the cost of
        the other memories, whose lengths are known, with a 95 % interval. Otherwise the estimate is the upper bound,
        and both bounds come from the lengths of the texts.
        """
        estimated_low, estimated_high = self.estimated
        if not self.is_stated:
            return estimated_high, estimated_low, estimated_high
        costs, n = self.taken, len(self.taken)
        rest = self.of - n
        if rest <= 0:
            return (self.tokens,) * 3
        if n < 3:  # too few points to know how much costs vary
            total = self.tokens / n * self.of
            return round(total), self.tokens, round(3 * total)
        middle, spread, slope, left_over = _line([(len(row.text), row.tokens) for row in costs])
        further = (self.letters - sum(len(row.text) for row in costs)) - rest * middle
        total = self.tokens + rest * self.tokens / n + slope * further
        variance = left_over * (rest + rest**2 / n + (further**2 / spread if spread else 0.0))
        half = t_quantile((1 + CONFIDENCE) / 2, n - 2) * math.sqrt(variance)
        return round(total), max(self.tokens, round(total - half)), round(total + half)

    def to_json(self) -> dict[str, Json]:
        """The fields of the command's JSON."""
        estimate, low, high = self.extrapolated()
        return {
            "previewed": len(self.rows),
            "of": self.of,
            "users": self.users,
            "nothing": sum(row.gives_nothing for row in self.rows),
            "refused": sum(bool(row.refused) for row in self.rows),
            "without_scope": self.without_scope,
            "tokens": {"previewed": self.tokens, "told": self.is_stated, "all": estimate, "low": low, "high": high},
            "rows": [row.to_json() for row in self.rows[:LISTED]],
        }


async def preview_plan(
    state: Path | StateStore,
    dump: Dump,
    mapping: ScopeMapping,
    filters: Filters,
    api: SpectronApi,
    *,
    most: int,
    now: str,
    reporter: Reporter,
) -> PreviewSummary:
    """Plan on a copy of the ledger and preview `most` memories; changes nothing, here or on the server.

    Raises NotLegal if the server stores instead of previewing; then one memory may be stored, and no more are sent.
    """
    with Ledger.scratch_copy(state) as ledger:
        planned = make_plan(ledger, dump, mapping, filters, context=api.context, now=now, reporter=reporter)
        with ledger.transaction():
            plan.mark_late(ledger, planned.id)
        chosen, of, users, estimated, letters = _choose(ledger, planned.id, most)
    registered = await live_paths(api)
    bodies = [_body(memory, mapping, registered) for memory in chosen]
    reporter.stage("preview", len(chosen))
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def ask(memory: Memory, body: dict[str, Json]) -> PreviewRow:
        async with slots:
            row = await _ask(api, memory, body)
            reporter.advance(1)
            return row

    # One alone first, so that a server that stores instead of previewing stores one memory, not four.
    rows = [await ask(memory, body) for memory, body in list(zip(chosen, bodies, strict=True))[:1]]
    rows += await asyncio.gather(*map(ask, chosen[1:], bodies[1:]))
    return PreviewSummary(tuple(rows), of, users, sum("scopes" not in body for body in bodies), estimated, letters)


def _choose(ledger: Ledger, number: int, most: int) -> tuple[list[Memory], int, int, tuple[int, int], int]:
    """Choose memories with extraction, spread evenly over owners; also returns how many owners they have.

    For all memories with extraction: their number, their estimated tokens, and their length in characters.
    """
    counts: Counter[str] = Counter()
    low = high = letters = 0
    for each in planned_memories(ledger, number):
        if each.infer == "full":
            counts[_owner(each.memory)] += 1
            least, most_of_it = estimate_tokens(each.memory.memory, "full")
            low, high, letters = low + least, high + most_of_it, letters + len(each.memory.memory)
    owners = heapq.nsmallest(most, counts, key=_lot)
    share, left = divmod(most, len(owners)) if owners else (0, 0)
    wanted = {owner: share + (place < left) for place, owner in enumerate(owners)}
    for owner in owners:  # if an owner has too few memories, later owners make up for it
        spare = max(0, wanted[owner] - counts[owner])
        wanted[owner] -= spare
        for other in owners:
            more = min(spare, max(0, counts[other] - wanted[other])) if other != owner else 0
            wanted[other] += more
            spare -= more
    drawn: dict[str, list[tuple[int, Memory]]] = {owner: [] for owner in owners}
    for each in planned_memories(ledger, number):
        owner = _owner(each.memory)
        if each.infer != "full" or owner not in drawn:
            continue
        drawn[owner].append((_lot(each.memory.id), each.memory))
        if len(drawn[owner]) > wanted[owner]:
            drawn[owner].remove(max(drawn[owner], key=lambda pair: pair[0]))
    chosen = [memory for owner in owners for _, memory in sorted(drawn[owner], key=lambda pair: pair[0])]
    return chosen, counts.total(), len({_owner(memory) for memory in chosen}), (low, high), letters


def _lot(text: str) -> int:
    """The position of a text in a random but fixed order."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _owner(memory: Memory) -> str:
    return memory.user_id or next(iter(memory.entity_ids.values()), _NOBODY)


def _body(memory: Memory, mapping: ScopeMapping, registered: set[str]) -> dict[str, Json]:
    placed = mapping.map_memory(memory)
    assert isinstance(placed, Placement)  # noqa: S101 - it is planned, so the mapping has a place for it
    body = {**fact_body(memory, placed), "infer": "preview"}
    if not set(paths_of(placed.selector)) <= registered:
        del body["scopes"]
    return body


async def _ask(api: SpectronApi, memory: Memory, body: dict[str, Json]) -> PreviewRow:
    estimated = estimate_tokens(memory.memory, "full")[1]
    response = await api.preview(body)
    if response.status in (400, 403, 404, 409, 413, 422):
        refused = f"{response.status} {response.message}"
        return PreviewRow(memory.id, _owner(memory), memory.memory, (), (), (), (), 0, False, refused)
    if response.status != 200 or not isinstance(response.body, dict):
        raise api.failure(response, "a preview")
    answer = response.body
    if answer.get("mode") != "preview" or answer.get("turnId"):
        raise NotLegal(
            f"Spectron stored memory {memory.id} instead of previewing it",
            hint="this server does not know `infer: preview`; nothing more was sent",
        )
    usage = answer.get("usage")
    stated = usage.get("totalTokens") if isinstance(usage, dict) else None
    made = answer.get("extraction")
    extraction: dict[str, Any] = made if isinstance(made, dict) else {}
    entities = {
        str(row.get("id")): f"{row.get('entityType')}/{row.get('name')}" for row in _rows(extraction, "entities")
    }
    return PreviewRow(
        memory.id,
        _owner(memory),
        memory.memory,
        tuple(entities.values()),
        tuple(
            f"{entities.get(str(row.get('entityId')), '?')} {row.get('key')}: {row.get('value')}"
            for row in _rows(extraction, "attributes")
        ),
        tuple(f"{row.get('subject')} {row.get('label')} {row.get('object')}" for row in _rows(extraction, "relations")),
        tuple(
            f"{row.get('key')}: {row.get('oldValue')} -> {row.get('newValue')}"
            for row in _rows(extraction, "corrections")
        ),
        stated if isinstance(stated, int) else estimated,
        isinstance(stated, int),
    )


def _rows(extraction: dict[str, Any], name: str) -> Sequence[dict[str, Any]]:
    return [row for row in extraction.get(name) or [] if isinstance(row, dict)]


def describe(summary: PreviewSummary) -> str:
    """One sentence: how many memories of how many, from how many users."""
    if not summary.of:
        return "nothing to preview, because no memory with extraction is left to write"
    n, users = counted(len(summary.rows), "memory"), counted(summary.users, "user")
    return f"{n} of {summary.of:,} with extraction, of {users}; nothing was stored"
