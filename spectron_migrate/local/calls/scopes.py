"""Calls on scopes and sessions."""

from __future__ import annotations

from dataclasses import replace

from starlette.responses import Response

from spectron_migrate.local import answers, maintenance
from spectron_migrate.local.bodies import read_query
from spectron_migrate.local.calls import serves
from spectron_migrate.local.errors import ApiError, bad_request, forbidden, not_found
from spectron_migrate.local.recall import as_prompt, recall
from spectron_migrate.local.remember import open_session
from spectron_migrate.local.rows import ScopeNode, Session
from spectron_migrate.local.scopes import ROOT, BadScope, ancestors, canonical_path, covers
from spectron_migrate.local.web import ApiCall, no_content, reply


@serves("GET", "/scopes")
async def list_scopes(call: ApiCall) -> Response:
    """Nodes that any of the caller's grants covers, tombstoned ones too."""
    window, nodes = call.window(), list(call.engine.store.scopes().values())
    held = {pattern for patterns in call.caller.effective.values() for pattern in patterns}
    # The page is cut before it is filtered, so it may be shorter than the limit although more pages follow.
    page = nodes[window.offset : window.end]
    seen = [node for node in page if any(covers(pattern, node.path) for pattern in held)]
    return call.listed("scopes", [answers.scope_node(node) for node in seen], more=len(nodes) > window.end, bare=True)


@serves("POST", "/scopes")
async def register_scope(call: ApiCall) -> Response:
    """Register a node and its missing ancestors; revives a tombstoned node."""
    body, store, now = call.body(), call.engine.store, call.engine.now()
    path = path_of(body.required("path"))
    call.caller.require("scope:create", ((path,),))
    known = store.scope(path)
    if known is not None and known.tombstoned_at is None and call.engine.reading.reregister == 409:
        raise ApiError(409, f"scope {path} exists")
    node = ScopeNode(path, now, None, body.text("displayName"), body.text("description"))
    if known is not None:
        node = replace(node, created_at=known.created_at)
    with store.transaction():
        for above in ancestors(path):
            if store.scope(above) is None:
                store.put_scope(ScopeNode(above, now))
        store.put_scope(node)
    return reply(answers.scope_node(node), 201)


@serves("DELETE", "/scopes")
async def tombstone_scope(call: ApiCall) -> Response:
    """Tombstone a node: it refuses new writes and keeps its content."""
    path, store = path_of(call.query.get("path", "")), call.engine.store
    call.caller.require("scope:delete", ((path,),))
    node = store.scope(path)
    if path == ROOT:
        raise ApiError(403 if call.has_pages else 400, "the root cannot be tombstoned")
    if node is None:
        raise bad_request(f"scope {path} is not registered")
    if node.tombstoned_at is None:
        with store.transaction():
            store.put_scope(replace(node, tombstoned_at=call.engine.now()))
    return no_content()


@serves("POST", "/scopes/forget")
async def forget_scope(call: ApiCall) -> Response:
    """Erase a subtree permanently."""
    path = path_of(call.body().required("path"))
    if not maintenance.holds_subtree(call.caller.patterns("memory:forget"), path):
        raise forbidden("memory:forget is not granted over that subtree")
    return reply({"forgotten": maintenance.forget_scope(call.engine, path)})


@serves("POST", "/sessions")
async def create_session(call: ApiCall) -> Response:
    """Create a session; the body may be empty, as both official clients send it."""
    try:
        body = call.body(optional=True)
        scopes, metadata = body.selector("scopes"), body.any("metadata")
    except ApiError as error:
        raise ApiError(422, error.message) from error  # the document declares no 400 here
    with call.engine.store.transaction():
        session, selector = open_session(call.engine, call.caller, scopes, metadata)
    return reply({"id": session.id, "scopes": selector, "createdAt": session.created_at}, 201)


@serves("DELETE", "/sessions/{session_id}")
async def delete_session(call: ApiCall) -> Response:
    """Remove a session with its turns and passages, permanently."""
    session = session_of(call, "memory:forget")
    with call.engine.store.transaction():
        call.engine.store.drop_session(session.id)
    return no_content()


@serves("GET", "/sessions/{session_id}/turns")
async def list_turns(call: ApiCall) -> Response:
    """Turns of a session, oldest first."""
    window = call.window(default=100)
    session, store = session_of(call, "memory:read", "memory:write"), call.engine.store
    if not call.caller.may("memory:read", store.selectors()[session.selector]):
        return call.listed("turns", [], more=False)  # a caller that may only write sees an empty list
    turns = store.turns(session.id, offset=window.offset, limit=window.limit + 1)
    rows = [answers.turn(turn) for turn in turns[: window.limit]]
    more = len(turns) > window.limit
    return call.listed("turns", rows, more=more, total=lambda: store.count_turns(session.id))


@serves("POST", "/sessions/{session_id}/context")
async def session_context(call: ApiCall) -> Response:
    """What the session's scope knows about a query, as text for a prompt."""
    body = call.body()
    try:
        session = session_of(call, "memory:read")
    except ApiError as error:
        raise bad_request(error.message) from error  # the document declares no 404 here
    hits = recall(call.engine, read_query(body), frozenset({session.selector})).hits
    return reply({"context": as_prompt(hits)})


def session_of(call: ApiCall, *verbs: str) -> Session:
    """The session, if the caller holds one of the verbs over it; ApiError 404 otherwise."""
    session = call.engine.store.session(call.params["session_id"])
    if session is not None:
        selector = call.engine.store.selectors()[session.selector]
        if any(call.caller.may(verb, selector) for verb in verbs):
            return session
    raise not_found("session not found")


def path_of(text: str) -> str:
    """The canonical path. Raises ApiError 400."""
    try:
        return canonical_path(text)
    except BadScope as error:
        raise bad_request(str(error)) from error
