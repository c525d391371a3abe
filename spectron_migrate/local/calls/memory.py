"""Calls that read memories."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from spectron_migrate.local import answers
from spectron_migrate.local.bodies import read_query
from spectron_migrate.local.calls import serves
from spectron_migrate.local.calls.entities import facts_shown, named_entity
from spectron_migrate.local.errors import not_found
from spectron_migrate.local.recall import as_prompt, recall_cached
from spectron_migrate.local.results import QueryResult
from spectron_migrate.local.web import ApiCall, reply


@serves("POST", "/query")
async def query(call: ApiCall) -> Response:
    """`/query`: passages and facts that answer a question."""
    found, took = _recall(call)
    shown = [*found.hits, *(found.next_ranks if call.has_labels else ())]
    resources = call.engine.store.resources([hit.id for hit in shown]) if call.has_pages else {}
    if not call.engine.reading.hits_name_turn:
        resources = {id_: replace(resource, turn=None) for id_, resource in resources.items()}
    rows = [answers.hit(hit, resources.get(hit.id), later=call.has_pages) for hit in shown]
    hits, beside = rows[: len(found.hits)], rows[len(found.hits) :]
    answer = {
        "tier": found.tier,
        "hits": hits,
        "queryMs": took,
        "trace": answers.trace(call.trace, found, took),
        "classificationKind": "direct_lookup" if found.seeds else "hybrid",
        "seedEntities": found.seeds,
    }
    return reply(answer | ({"contextHits": beside} if call.has_pages else {}))


@serves("POST", "/context")
async def context(call: ApiCall) -> Response:
    """`/context`: the same as text for a prompt; in 0.3.0 also of one subject, with its own facts only."""
    found, took = _recall(call)
    subject = call.body().text("subject") if call.has_labels else None
    text = as_prompt(found.hits) if subject is None else _about(call, subject, found)
    return reply({"context": text, "tier": found.tier, "queryMs": took})


def _about(call: ApiCall, subject: str, found: QueryResult) -> str:
    region, store = call.engine.region(call.caller, read_query(call.body()).lens), call.engine.store
    entity = named_entity(call, subject, region)
    if entity is None:
        raise not_found("subject not found")
    facts = [f"- {fact.key}: {fact.value}" for fact in store.attributes(region, entity=entity.id)]
    passages = as_prompt(tuple(hit for hit in found.hits if hit.source == "memory_chunk"))
    return "\n".join([f"{entity.name}:", *facts, *([passages] if passages else [])])


def _recall(call: ApiCall) -> tuple[QueryResult, int]:
    """The result of the query and the milliseconds that it took."""
    began = time.perf_counter()
    found = recall_cached(call.engine, call.caller, read_query(call.body()))
    return found, round((time.perf_counter() - began) * 1000)


@serves("GET", "/profile")
async def profile(call: ApiCall) -> Response:
    """What is known in the caller's whole region, which may cover many users."""
    region, store = call.engine.region(call.caller), call.engine.store
    rows = store.attributes(region)
    entities = store.entities_by_id({row.entity for row in rows})
    return reply(answers.profile(rows, entities, store.notes(region, "instruction"), later=call.has_pages))


@serves("GET", "/state")
async def state(call: ApiCall) -> Response:
    """Everything live, by category; in all generations but the first at most `limit` rows of each table."""
    region, store = call.engine.region(call.caller), call.engine.store
    edges, facts = store.relations(region), store.attributes(region)
    shown = facts_shown(call, facts, edges)
    tables: dict[str, Sequence[Any]] = {
        "entities": [answers.with_category(row, answers.entity(row)) for row in store.entities(region)],
        "attributes": [answers.with_category(row, shown.attribute(row)) for row in facts],
        "relations": [answers.with_category(row, shown.relation(row)) for row in edges],
        "instructions": [answers.instruction(row) for row in store.notes(region, "instruction")],
        "unknowns": [answers.uncertainty(row) for row in store.notes(region, "uncertainty")],
    }
    return reply(answers.state(tables, call.undeclared_400(call.limit) if call.has_pages else None))
