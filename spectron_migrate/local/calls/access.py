"""Calls on the caller's identity, API keys, and the grants of principals."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from starlette.responses import Response

from spectron_migrate.local import answers
from spectron_migrate.local.auth import FROM_START, SYSTEM, VERBS, digest_of, mint_secret
from spectron_migrate.local.bodies import Body
from spectron_migrate.local.calls import serves
from spectron_migrate.local.calls.scopes import path_of
from spectron_migrate.local.errors import ApiError, bad_request, forbidden, not_found
from spectron_migrate.local.rows import ApiKey, Grants, Principal
from spectron_migrate.local.scopes import BadScope, canonical_pattern, contains, covers
from spectron_migrate.local.times import stamp
from spectron_migrate.local.web import ApiCall, no_content, reply

Change = Callable[[Sequence[str], str], list[str]]
"""The patterns that a verb has and another pattern -> the new patterns."""


@serves("GET", "/me")
async def me(call: ApiCall) -> Response:
    """The caller's identity and grants."""
    return reply(answers.whoami(call.caller))


@serves("GET", "/keys")
async def list_keys(call: ApiCall) -> Response:
    """The caller's own keys."""
    window = call.window()
    keys = _own_keys(call)
    page = [answers.key_detail(key, call.engine.keyring.last_used(key.id)) for key in keys]
    more = len(page) > window.end
    return call.listed("keys", page[window.offset : window.end], more=more, total=lambda: len(page), bare=True)


@serves("POST", "/keys")
async def mint_key(call: ApiCall) -> Response:
    """Create a key of the caller's principal, with the same or narrower grants."""
    _refuse_delegated(call)
    body, store = call.body(optional=True), call.engine.store
    grants = _narrowed_grants(call, body)
    id_ = secrets.token_hex(6)
    name = body.text("name") or id_
    if any(key.name == name for key in store.api_keys()):
        raise ApiError(409, "a key of that name exists")
    return _issue(call, ApiKey(id_, name, call.caller.principal.id, "", call.engine.now(), grants), status=201)


@serves("DELETE", "/keys/{key_name}")
async def delete_key(call: ApiCall) -> Response:
    """Delete one of the caller's own keys."""
    _refuse_delegated(call)
    key = _own_key(call)
    with call.engine.store.transaction():
        call.engine.store.drop_key(key.id)
    call.engine.keyring.reload()
    return no_content()


@serves("POST", "/keys/{key_name}/rotate")
async def rotate_key(call: ApiCall) -> Response:
    """Replace the secret of a key; the old one is invalid at once, id and grants stay."""
    _refuse_delegated(call)
    return _issue(call, _own_key(call), status=200)


@serves("GET", "/principals")
async def list_principals(call: ApiCall) -> Response:
    """All principals of the context."""
    _require_any_manage_grant(call)
    window = call.window()
    rows = [answers.principal(row) for row in call.engine.store.principals().values()]
    more = len(rows) > window.end
    return call.listed("principals", rows[window.offset : window.end], more=more, total=lambda: len(rows), bare=True)


@serves("GET", "/principals/{principal_id}")
async def get_principal(call: ApiCall) -> Response:
    """One principal."""
    _require_any_manage_grant(call)
    return reply(answers.principal(_principal(call)))


@serves("GET", "/principals/{principal_id}/effective")
async def effective_grants(call: ApiCall) -> Response:
    """The verbs that a principal may use at a path."""
    path = path_of(call.query.get("path", ""))
    call.caller.require("grant:manage", ((path,),))
    principal = _principal(call)
    if "asOf" in call.query:
        raise bad_request("the local Spectron keeps no history of grants")
    verbs = [verb for verb in VERBS if any(covers(one, path) for one in principal.grants.get(verb, ()))]
    return reply({"path": path, "verbs": verbs})


@serves("POST", "/principals/{principal_id}/grants")
async def grant(call: ApiCall) -> Response:
    """Grant verbs on a pattern."""
    return _regrant(call, lambda held, pattern: [*held, *([] if pattern in held else [pattern])])


@serves("DELETE", "/principals/{principal_id}/grants")
async def revoke(call: ApiCall) -> Response:
    """Revoke verbs on a pattern."""
    return _regrant(call, lambda held, pattern: [one for one in held if one != pattern])


def _regrant(call: ApiCall, change: Change) -> Response:
    body = call.body()
    pattern = _pattern(body.required("path"))
    verbs = body.strings("verbs")
    for verb in verbs:
        if verb not in VERBS:
            raise bad_request(f"verbs must be of {', '.join(VERBS)}")
    if not any(contains(held, pattern) for held in call.caller.patterns("grant:manage")):
        raise forbidden("grant:manage is not granted over that region")
    principal = _principal(call)
    if principal.id == SYSTEM:
        raise forbidden("the system principal cannot be changed")
    grants = {verb: list(patterns) for verb, patterns in principal.grants.items()}
    for verb in verbs:
        grants[verb] = change(grants.get(verb, []), pattern)
    changed = replace(principal, grants={verb: patterns for verb, patterns in grants.items() if patterns})
    with call.engine.store.transaction():
        call.engine.store.put_principal(changed)
    call.engine.keyring.reload()
    return reply(answers.principal(changed))


def _issue(call: ApiCall, key: ApiKey, status: int) -> Response:
    """Give a key a new secret; only this answer shows it."""
    valid_until = key.valid_until
    if "ttlSeconds" in call.query:
        lasts = call.undeclared_400(lambda: call.number("ttlSeconds", 0))
        seconds = timedelta(seconds=min(lasts, 10**9))
        valid_until = stamp(call.engine.clock() + seconds)
    secret = mint_secret(key.id)
    with call.engine.store.transaction():
        call.engine.store.put_key(replace(key, digest=digest_of(secret), valid_until=valid_until))
    call.engine.keyring.reload()
    answer = {"key": secret, "id": key.id}
    return reply(answer | ({"validUntil": valid_until} if valid_until else {}), status)


def _narrowed_grants(call: ApiCall, body: Body) -> Grants | None:
    grants = body.object("grants")
    if grants is None:
        return None
    narrowed: dict[str, Sequence[str]] = {}
    for verb in grants.names():
        if verb not in VERBS:
            raise bad_request(f"grants must be of {', '.join(VERBS)}")
        narrowed[verb] = [_pattern(one) for one in grants.strings(verb)]
        for pattern in narrowed[verb]:
            if not any(contains(held, pattern) for held in call.caller.patterns(verb)):
                raise bad_request(f"{verb} on {pattern} is wider than the caller's own grants")
    return narrowed


def _own_keys(call: ApiCall) -> list[ApiKey]:
    return [key for key in call.engine.store.api_keys() if key.principal == call.caller.principal.id]


def _own_key(call: ApiCall) -> ApiKey:
    for key in _own_keys(call):
        if key.name == call.params["key_name"]:
            if key.id.endswith(FROM_START):
                raise forbidden("the server was started with this key, and only a new start changes it")
            return key
    raise not_found("key not found")


def _principal(call: ApiCall) -> Principal:
    principal = call.engine.store.principals().get(call.params["principal_id"])
    if principal is None:
        raise not_found("principal not found")
    return principal


def _require_any_manage_grant(call: ApiCall) -> None:
    if not call.caller.patterns("grant:manage"):
        raise forbidden("grant:manage is not granted")


def _refuse_delegated(call: ApiCall) -> None:
    if call.caller.on_behalf_of is not None:
        raise forbidden("a delegated caller cannot manage keys")


def _pattern(text: str) -> str:
    try:
        return canonical_pattern(text)
    except BadScope as error:
        raise bad_request(str(error)) from error
