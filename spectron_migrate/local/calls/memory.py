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
from spectron_migrate.local.errors import not_found
from spectron_migrate.local.extract import type_of
from spectron_migrate.local.recall import as_prompt, recall_cached
from spectron_migrate.local.results import QueryResult
from spectron_migrate.local.storage import Entity, Region
from spectron_migrate.local.web import ApiCall, no_content, reply


@serves("POST", "/query")
async def query(call: ApiCall) -> Response:
    """`/query`: passages and facts that answer a question."""
    found, took = _recall(call)
    resources = call.engine.store.resources([hit.id for hit in found.hits]) if call.later else {}
    if not call.engine.reading.hits_name_turn:
        resources = {id_: replace(resource, turn=None) for id_, resource in resources.items()}
    hits = [answers.hit(hit, resources.get(hit.id), later=call.later) for hit in found.hits]
    answer = {
        "tier": found.tier,
        "hits": hits,
        "queryMs": took,
        "trace": answers.trace(call.trace, found, took),
        "classificationKind": "direct_lookup" if found.seeds else "hybrid",
        "seedEntities": found.seeds,
    }
    return reply(answer | ({"contextHits": []} if call.later else {}))


@serves("POST", "/context")
async def context(call: ApiCall) -> Response:
    """`/context`: the same as text for a prompt."""
    found, took = _recall(call)
    return reply({"context": as_prompt(found.hits), "tier": found.tier, "queryMs": took})


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
    return reply(answers.profile(rows, entities, store.notes(region, "instruction"), later=call.later))


@serves("GET", "/state")
async def state(call: ApiCall) -> Response:
    """Everything live, by category; in the later generation at most `limit` rows of each table."""
    region, store = call.engine.region(call.caller), call.engine.store
    edges, facts = store.relations(region), store.attributes(region)
    named = store.entities_by_id({id_ for edge in edges for id_ in (edge.subject, edge.object)})
    tables: dict[str, Sequence[Any]] = {
        "entities": [answers.with_category(row, answers.entity(row)) for row in store.entities(region)],
        "attributes": [answers.with_category(row, answers.attribute(row)) for row in facts],
        "relations": [answers.with_category(row, answers.relation(row, named)) for row in edges],
        "instructions": [answers.instruction(row) for row in store.notes(region, "instruction")],
        "unknowns": [answers.uncertainty(row) for row in store.notes(region, "uncertainty")],
    }
    return reply(answers.state(tables, call.limit() if call.later else None))


@serves("GET", "/entities")
async def list_entities(call: ApiCall) -> Response:
    """Entities by type, then name."""
    window = call.window()
    rows = call.engine.store.entities(call.engine.region(call.caller), call.query.get("type"))
    page = [answers.entity(row) for row in rows[window.offset : window.end]]
    return call.listed("entities", page, more=len(rows) > window.end, total=lambda: len(rows))


@serves("GET", "/entities/{entity_type}/{entity_name}")
async def get_entity(call: ApiCall) -> Response:
    """One entity with its live attributes and relations."""
    region, store = call.engine.region(call.caller), call.engine.store
    entity = _entity(call, region)
    if entity is None:
        raise not_found("entity not found")
    edges = store.relations(region, entity=entity.id)
    named = store.entities_by_id({id_ for edge in edges for id_ in (edge.subject, edge.object)})
    return reply(
        {
            "entity": answers.entity(entity),
            "attributes": [answers.attribute(row) for row in store.attributes(region, entity=entity.id)],
            "relations": [answers.relation(row, named) for row in edges],
        }
    )


@serves("DELETE", "/entities/{entity_type}/{entity_name}")
async def delete_entity(call: ApiCall) -> Response:
    """Soft-delete an entity where the caller may forget."""
    region = call.engine.region(call.caller, verb="memory:forget")
    entity = _entity(call, region)
    if entity is not None:
        with call.engine.store.transaction():
            call.engine.store.drop_entity(entity.id, region, call.engine.now())
    return no_content()


@serves("GET", "/entities/{entity_type}/{entity_name}/history/{key}")
async def history(call: ApiCall) -> Response:
    """Every value that a key ever had, oldest first."""
    rows, store = [], call.engine.store
    entity = store.entity(type_of(call.params["entity_type"]), call.params["entity_name"])
    if entity is not None:
        region = call.engine.region(call.caller)
        rows = store.attributes(region, entity=entity.id, key=call.params["key"], history=True)
    return reply({"history": [answers.attribute(row) for row in rows]})


def _entity(call: ApiCall, region: Region) -> Entity | None:
    """The entity, if it occurs in the region."""
    type_ = type_of(call.params["entity_type"])
    named = call.engine.store.entities_named([call.params["entity_name"]], region)
    return next((entity for entity in named if entity.type == type_), None)
