"""Authentication and grants: keys, principals, delegation."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from spectron_migrate.local.errors import forbidden, unauthorised
from spectron_migrate.local.rows import ApiKey, Grants, Principal
from spectron_migrate.local.scopes import EVERYTHING, ROOT, Selector, canonical_pattern, intersection, readable, within
from spectron_migrate.local.storage import Store

VERBS = (
    "memory:read",
    "memory:write",
    "memory:forget",
    "scope:read",
    "scope:create",
    "scope:delete",
    "grant:manage",
)
ALL_GRANTS: Grants = dict.fromkeys(VERBS, (EVERYTHING,))
OPERATOR = "operator"
"""The principal of the key that the server was started with; it has all grants."""
FROM_START = "-start"
"""Suffix of the ids of keys that the server was started with."""
SYSTEM = "system"
"""A principal that exists in every context and cannot be changed."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request. `effective` are the grants that principal, key and delegation all allow."""

    principal: Principal
    key: ApiKey
    on_behalf_of: Principal | None
    effective: Grants

    @property
    def identity(self) -> str:
        """The owner of the caller's idempotency keys."""
        return f"{self.principal.id}\0{self.on_behalf_of.id}" if self.on_behalf_of else self.principal.id

    def patterns(self, verb: str) -> tuple[str, ...]:
        """Scope patterns on which the caller may use a verb."""
        return tuple(self.effective.get(verb, ()))

    def may(self, verb: str, selector: Selector) -> bool:
        """Whether the caller may use a verb on a selector: reading needs one whole clause, other verbs every node."""
        held = self.patterns(verb)
        return readable(held, selector) if verb == "memory:read" else within(held, selector)

    def require(self, verb: str, selector: Selector) -> None:
        """Raises ApiError 403 if the caller may not."""
        if not self.may(verb, selector):
            raise forbidden(f"{verb} is not granted there")

    def default_region(self) -> Selector:
        """The selector of a write without scopes: every node that the write grants start from."""
        nodes = (pattern.removesuffix("*") or ROOT for pattern in self.patterns("memory:write"))
        region = tuple(sorted({("/",) if node == ROOT else (node,) for node in nodes}))
        if not region:
            raise forbidden("memory:write is not granted anywhere")
        return region


def digest_of(secret: str) -> str:
    """The digest that is stored instead of a key. Keys are long and random, so a plain hash is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def narrow(grants: Grants, by: Grants | None) -> Grants:
    """The grants that both allow; None allows all."""
    if by is None:
        return grants
    both = {verb: intersection(patterns, by.get(verb, ())) for verb, patterns in grants.items()}
    return {verb: patterns for verb, patterns in both.items() if patterns}


class Keyring:
    """The keys and principals of a context in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._used: dict[str, str] = {}
        self.reload()

    def reload(self) -> None:
        """Read the store again; call after a key or a principal changed."""
        self._keys = {key.digest: key for key in self._store.api_keys()}
        self._principals = self._store.principals()
        self._callers: dict[tuple[str, str], Caller] = {}

    def last_used(self, key: str) -> str | None:
        """When a key was last used since the start; this is not stored."""
        return self._used.get(key)

    def caller(self, headers: Mapping[str, str], now: str) -> Caller:
        """Authenticate a request.

        Raises:
            ApiError: 401 for a missing, wrong or expired key; 403 if the principal to act for does not exist.
        """
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        key = self._keys.get(digest_of(secret.strip())) if scheme.casefold() == "bearer" else None
        if key is None or (key.valid_until is not None and key.valid_until <= now):
            raise unauthorised()
        self._used[key.id] = now
        target = headers.get("x-spectron-on-behalf-of", "")
        known = self._callers.get((key.id, target))
        if known is None:
            known = self._callers[key.id, target] = self._delegated(key, target.strip())
        return known

    def _delegated(self, key: ApiKey, target: str) -> Caller:
        principal = self._principals[key.principal]
        effective = narrow(principal.grants, key.grants)
        if not target:
            return Caller(principal, key, None, effective)
        delegated = self._principals.get(target)
        if delegated is None or delegated.id == SYSTEM:
            raise forbidden("no such principal to act on behalf of")
        return Caller(principal, key, delegated, narrow(effective, delegated.grants))


def bootstrap(store: Store, api_key: str, principals: Mapping[str, Mapping[str, object]], now: str) -> None:
    """Store the operator and the principals that the server was started with, each with its key.

    Only the keys of this start are valid; those of an earlier start are replaced.

    Args:
        store: the store of the context.
        api_key: the operator's key.
        principals: id -> `{"key": …, "grants": {verb: [pattern]}, "kind": …}`.
        now: the time of the start.
    """
    with store.transaction():
        wanted: dict[str, tuple[str, Principal]] = {
            OPERATOR: (api_key, Principal(OPERATOR, "service", "Operator", ALL_GRANTS))
        }
        for id_, options in principals.items():
            grants = options.get("grants", {})
            assert isinstance(grants, Mapping)  # noqa: S101 - options of our own process
            held = {verb: [canonical_pattern(pattern) for pattern in patterns] for verb, patterns in grants.items()}
            wanted[id_] = (str(options["key"]), Principal(id_, str(options.get("kind", "agent")), id_, held))
        if SYSTEM not in store.principals():
            store.put_principal(Principal(SYSTEM, "service", "System", ALL_GRANTS))
        for id_, (secret, principal) in wanted.items():
            known = store.principals().get(id_)
            store.put_principal(replace(known, grants=principal.grants) if known else principal)
            digest = digest_of(secret)
            for key in store.api_keys():
                if key.id == id_ + FROM_START or key.digest == digest:
                    store.drop_key(key.id)
            store.put_key(ApiKey(id_ + FROM_START, id_, id_, digest, now))


def mint_secret(key_id: str) -> str:
    """A new key in the published form, `sp-{id}-{secret}`."""
    return f"sp-{key_id}-{secrets.token_urlsafe(32)}"
