"""Calls that read entities and what is known about them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from spectron_migrate.local import answers
from spectron_migrate.local.calls import serves
from spectron_migrate.local.errors import ApiError, bad_request, not_found
from spectron_migrate.local.extract import type_of
from spectron_migrate.local.rows import Attribute, Entity, Region, Relation
from spectron_migrate.local.times import read_time
from spectron_migrate.local.web import MAX_PAGE, ApiCall, no_content, reply


@serves("GET", "/entities")
async def list_entities(call: ApiCall) -> Response:
    """Entities by type, then name."""
    window = call.window()
    rows = call.engine.store.entities(call.engine.region(call.caller), call.query.get("type"))
    page = [answers.entity(row) for row in rows[window.offset : window.end]]
    return call.listed("entities", page, more=len(rows) > window.end, total=lambda: len(rows))


@serves("GET", "/entities/{entity_type}/{entity_name}")
async def get_entity(call: ApiCall) -> Response:
    """One entity with its live attributes and relations; in 0.3.0 only the newest of each, and whether that is all."""
    region, store = call.engine.region(call.caller), call.engine.store
    entity = _entity(call, region)
    if entity is None:
        raise not_found("entity not found")
    facts, edges = store.attributes(region, entity=entity.id), store.relations(region, entity=entity.id)
    if not call.has_labels:
        return reply(_entity_answer(call, entity, facts, edges))
    if any(name in call.query for name in ("atInstant", "validFrom", "validUntil")):
        raise ApiError(501, "the local Spectron keeps no system time and no valid time")
    then, limit = call.undeclared_400(lambda: (_time(call, "asOf"), call.limit(default=MAX_PAGE)))
    if then is not None:
        known = store.attributes(region, entity=entity.id, history=True)
        facts = [row for row in known if row.created_at <= then and (row.valid_until or "~") > then]
    answer = _entity_answer(call, entity, facts[::-1][:limit], edges[::-1][:limit])
    answer["truncated"] = {"attributes": len(facts) > limit, "relations": len(edges) > limit}
    return reply(answer)


def _entity_answer(
    call: ApiCall, entity: Entity, facts: Sequence[Attribute], edges: Sequence[Relation]
) -> answers.Answer:
    """`EntityResponseJson`."""
    shown = facts_shown(call, facts, edges)
    return {
        "entity": answers.entity(entity),
        "attributes": [shown.attribute(row) for row in facts],
        "relations": [shown.relation(row) for row in edges],
    }


@serves("DELETE", "/entities/{entity_type}/{entity_name}")
async def delete_entity(call: ApiCall) -> Response:
    """Soft-delete an entity where the caller may forget."""
    region = call.engine.region(call.caller, verb="memory:forget")
    entity = _entity(call, region)
    if entity is not None:
        with call.engine.store.transaction():
            call.engine.store.drop_entity(entity.id, region, call.engine.now())
    return no_content()


@serves("GET", "/attributes", since="0.2.1")
async def list_attributes(call: ApiCall) -> Response:
    """Live attributes, newest first."""
    region, store = call.engine.region(call.caller), call.engine.store
    if "entity" not in call.query:
        return _page(call, "attributes", store.attributes(region, key=call.query.get("key")))
    entity = named_entity(call, call.query["entity"], region)
    rows = store.attributes(region, entity=entity.id, key=call.query.get("key")) if entity else []
    return _page(call, "attributes", rows)


@serves("GET", "/relations", since="0.2.1")
async def list_relations(call: ApiCall) -> Response:
    """Live relations, newest first."""
    region = call.engine.region(call.caller)
    ends = {end: named_entity(call, call.query[end], region) for end in ("src", "dst") if end in call.query}
    source, target = ends.get("src"), ends.get("dst")
    rows = [] if None in ends.values() else call.engine.store.relations(region)
    return _page(
        call,
        "relations",
        [
            row
            for row in rows
            if (source is None or row.subject == source.id)
            and (target is None or row.object == target.id)
            and call.query.get("label", row.label) == row.label
        ],
    )


@serves("GET", "/actions", since="0.2.1")
async def list_actions(call: ApiCall) -> Response:
    """None: the rules extract no dated events, and entries that give one are not served."""
    if "actor" in call.query:
        named_entity(call, call.query["actor"], None)
    for bound in ("since", "until"):
        _time(call, bound)
    call.window()
    return call.listed("actions", [], more=False, total=lambda: 0)


@serves("GET", "/uncertainty", since="0.3.0")
async def list_uncertainty(call: ApiCall) -> Response:
    """What is uncertain, newest first."""
    resolved = call.query.get("resolved", "false")
    if resolved not in ("true", "false"):
        raise bad_request("resolved must be true or false")
    region, store, window = call.engine.region(call.caller), call.engine.store, call.window()
    rows = store.notes(region, "uncertainty")[::-1] if resolved == "false" else []
    if "entity" in call.query:
        entity = named_entity(call, call.query["entity"], None)
        rows = [row for row in rows if entity is not None and row.entity == f"{entity.type}/{entity.name}"]
    scopes = store.selectors()
    page = [answers.uncertainty_detail(row, scopes[row.selector]) for row in rows[window.offset : window.end]]
    return call.listed("unknowns", page, more=len(rows) > window.end, total=lambda: len(rows))


@serves("GET", "/entities/{entity_type}/{entity_name}/history/{key}")
async def history(call: ApiCall) -> Response:
    """Every value that a key ever had, oldest first."""
    rows, store = [], call.engine.store
    entity = store.entity(type_of(call.params["entity_type"]), call.params["entity_name"])
    if entity is not None:
        region = call.engine.region(call.caller)
        rows = store.attributes(region, entity=entity.id, key=call.params["key"], history=True)
    if not rows and call.has_pages:
        raise not_found("no such entity or key")
    shown = facts_shown(call, rows)
    return reply({"history": [shown.attribute(row) for row in rows]})


@serves("GET", "/entities/{entity_type}/{entity_name}/history", since="0.3.0")
async def history_of_all_keys(call: ApiCall) -> Response:
    """Every value that any key of an entity ever had, newest first."""
    store, region = call.engine.store, call.engine.region(call.caller)
    entity = store.entity(type_of(call.params["entity_type"]), call.params["entity_name"])
    rows = store.attributes(region, entity=entity.id, history=True) if entity else []
    if not rows and _entity(call, region) is None:
        raise not_found("entity not found")
    return _page(call, "history", rows)


def facts_shown(call: ApiCall, facts: Sequence[Attribute], edges: Sequence[Relation] = ()) -> answers.FactAnswers:
    """How these rows are shown."""
    store = call.engine.store
    named = {row.entity for row in facts} | {id_ for row in edges for id_ in (row.subject, row.object)}
    return answers.FactAnswers(store.entities_by_id(named), store.selectors(), call.has_labels)


def named_entity(call: ApiCall, named: str, region: Region) -> Entity | None:
    """The entity `<type>/<name>`, if it occurs in the region. Raises ApiError 400."""
    type_, slash, name = named.partition("/")
    if not slash or not type_.strip() or not name.strip():
        raise bad_request("an entity is named as <type>/<name>")
    return _found(call, type_, name, region)


def _page(call: ApiCall, name: str, rows: Sequence[Attribute] | Sequence[Relation]) -> Response:
    """One page of facts that are given oldest first."""
    window = call.window()
    cut = list(rows)[::-1][window.offset : window.end]
    facts = [row for row in cut if isinstance(row, Attribute)]
    edges = [row for row in cut if isinstance(row, Relation)]
    shown = facts_shown(call, facts, edges)
    page = [*map(shown.attribute, facts), *map(shown.relation, edges)]
    return call.listed(name, page, more=len(rows) > window.end, total=lambda: len(rows))


def _entity(call: ApiCall, region: Region) -> Entity | None:
    """The entity of the path, if it occurs in the region."""
    return _found(call, call.params["entity_type"], call.params["entity_name"], region)


def _found(call: ApiCall, type_: str, name: str, region: Region) -> Entity | None:
    named = call.engine.store.entities_named([name], region)
    return next((entity for entity in named if entity.type == type_of(type_)), None)


def _time(call: ApiCall, name: str) -> str | None:
    if name not in call.query:
        return None
    try:
        return read_time(call.query[name])
    except ValueError as error:
        raise bad_request(f"{name} must be an RFC 3339 time") from error
