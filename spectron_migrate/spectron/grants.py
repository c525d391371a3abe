"""What a key may do and where, and the one way to report that it lacks a grant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spectron_migrate.errors import KeyRefused
from spectron_migrate.records import Json, counted, name_first


@dataclass(frozen=True, slots=True)
class Me:
    """The owner of a key, and what the key may do, and where."""

    principal: str
    grants: Mapping[str, tuple[str, ...]]
    """Effective grants: verb -> path patterns (`a/b` that node, `a/b/*` its subtree, `*` all)."""
    server_now: str | None

    def may(self, verb: str, path: str) -> bool:
        """Whether the verb is granted at the path."""
        return any(pattern_covers(pattern, path) for pattern in self.grants.get(verb, ()))

    def may_below(self, verb: str, path: str) -> bool:
        """Whether the verb is granted at the path and everywhere below it."""
        patterns = self.grants.get(verb, ())
        return any(pattern.endswith("*") and pattern_covers(pattern, path) for pattern in patterns)

    def ungranted(self, verb: str, paths: Iterable[str], *, subtree: bool = False) -> list[str]:
        """The paths for which the verb is not granted; with `subtree`, also those whose grant ends at the node."""
        granted = self.may_below if subtree else self.may
        return [path for path in paths if not granted(verb, path)]


def require_grant(me: Me, verb: str, paths: Iterable[str], *, hint: str | None = None, subtree: bool = False) -> None:
    """Raises KeyRefused naming the first scopes for which the key lacks the verb."""
    lacking = me.ungranted(verb, paths, subtree=subtree)
    if lacking:
        raise KeyRefused(
            f"the key of {me.principal} lacks {verb} for {name_scopes(lacking, subtree=subtree)}", hint=hint
        )


def name_scopes(paths: Sequence[str], *, subtree: bool = False) -> str:
    """How many scopes, and the first of them by name."""
    below = " and everything below" if subtree else ""
    return f"{counted(len(paths), 'scope')}: {name_first(paths)}{below}"


def pattern_covers(pattern: str, path: str) -> bool:
    """Whether a grant pattern covers a path. A subtree pattern is taken to include its root."""
    bare = pattern.strip("/")
    if bare in ("*", ""):
        return pattern.endswith("*") or path.strip("/") == ""
    if bare.endswith("/*"):
        root = bare[:-2]
        return path.strip("/") == root or path.strip("/").startswith(root + "/")
    return path.strip("/") == bare


def is_within(pattern: str, path: str) -> bool:
    """Whether a grant pattern covers nothing but the path and what is below it."""
    root = pattern.strip("/").removesuffix("/*")
    return root not in ("", "*") and pattern_covers(f"{path}/*", root)


def grants_of(value: Json) -> dict[str, tuple[str, ...]]:
    """Verb -> path patterns; anything malformed grants nothing."""
    rows = value.items() if isinstance(value, dict) else ()
    return {
        str(verb): tuple(each for each in patterns if isinstance(each, str))
        for verb, patterns in rows
        if isinstance(patterns, list)
    }
