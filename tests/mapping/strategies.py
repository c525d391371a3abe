"""Generates mappings and memories from few ids, words and texts, so that they collide often."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from spectron_migrate.errors import InputError
from spectron_migrate.mapping import ScopeMapping, parse_mapping
from spectron_migrate.records import Memory

IDS = ("user_id", "agent_id", "app_id", "run_id")
NAMES = ("a", "b", "acme", "kb", "A", "a:b", "b:a", "a:kb", "a/b", "")
WORDS = ("org", "user", "agent", "team")
PLAIN = ("acme", "kb", "a", "b")
TABLE = {"a": "acme", "b": "acme", "acme": "kb", "kb": "B", "a:b": "a"}
LOOKUP = "lookup.csv"

conditions = st.sampled_from(("*", "*", "*", "*", "*", "*", "*", "a", "kb", "a*", "?", "*b"))


def write_table(folder: Path) -> None:
    """Write the lookup tables that generated rules name: one by user, one by agent."""
    for key in ("user_id", "agent_id"):
        rows = [f'"{name}","{found}"' for name, found in TABLE.items()]
        (folder / f"{key}.csv").write_text("\n".join([f"{key},looked", *rows]), encoding="utf-8")


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """One rule: legal by itself most of the time."""
    when: dict[str, Any] = {}
    for field in draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True)):
        when[field] = draw(conditions)
    fields = [f"{{{field}}}" for field in when]
    for field in ("metadata.team", "metadata.source"):
        if draw(st.integers(0, 3)) == 0:
            when[field] = draw(conditions)
            fields.append(f"{{{field}}}")
    rule: dict[str, Any] = {"when": when}
    if draw(st.integers(0, 2)) == 2:
        field = draw(st.sampled_from(("user_id", "agent_id")))
        when[field] = draw(st.sampled_from(("{left}:{right}", "{left}/{right}")))
        fields += ["{left}", "{left}", "{right}", "{right}"]
    if draw(st.integers(0, 2)) == 2:
        field = draw(st.sampled_from(("user_id", "agent_id")))
        when.setdefault(field, "*")
        rule["lookup"] = {"file": f"{field}.csv", "key": field, "value": "looked"}
        fields.append("{looked}")
    if draw(st.integers(0, 15)) == 15:
        when["expired"] = True
    if draw(st.integers(0, 15)) == 15:
        rule.pop("lookup", None)
        return {**rule, "skip": True}
    rule["scope"] = draw(scopes(fields))
    return rule


@st.composite
def scopes(draw: st.DrawFn, fields: list[str]) -> dict[str, Any]:
    """A scope of one path mostly, else `all_of` or `any_of` several."""
    kind = draw(st.sampled_from(("one", "one", "one", "all_of", "any_of")))
    if kind == "one":
        return draw(paths(fields))
    return {kind: draw(st.lists(paths(fields), min_size=2, max_size=3))}


@st.composite
def paths(draw: st.DrawFn, fields: list[str]) -> dict[str, str]:
    """A path in which most fields follow their own word, as in real mappings."""
    path: dict[str, str] = {}
    for _ in range(draw(st.integers(1, 3))):
        value = draw(st.sampled_from((*PLAIN[: draw(st.integers(1, 4))], *fields, *fields, *fields)))
        homes = {
            "{user_id}": "user",
            "{agent_id}": "agent",
            "{metadata.team}": "team",
            "{looked}": "org",
            "{left}": "org",
            "{right}": "user",
        }
        word = homes.get(value, "") if draw(st.integers(0, 5)) else ""
        path[word or draw(st.sampled_from(WORDS))] = value
    return path


@st.composite
def mapping_texts(draw: st.DrawFn) -> str:
    """A whole mapping file; JSON is YAML."""
    given: dict[str, Any] = {
        "version": 1,
        "rules": draw(st.lists(rules(), min_size=1, max_size=4)),
        "session": {"by": draw(st.sampled_from(("run_id", "none"))), "size": 10},
        "unmapped": draw(st.sampled_from(("refuse", "skip"))),
    }
    return json.dumps(given)


def sound(text: str, folder: Path) -> ScopeMapping | None:
    """The mapping, or None where it is refused."""
    try:
        return parse_mapping(text, folder)
    except InputError:
        return None


names = st.sampled_from((None, None, *NAMES))


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    """A memory with any of the ids, some metadata, and a state."""
    metadata = {
        key: draw(st.sampled_from(("a", "b", "kb", "acme", 1, True, ["a", "kb"])))
        for key in ("team", "source")
        if draw(st.booleans())
    }
    ids = {field: draw(names) for field in IDS}
    state = "expired" if draw(st.integers(0, 9)) == 9 else "active"
    return Memory(id="m", memory="text", metadata=metadata, state=state, **ids)  # type: ignore[arg-type]


@st.composite
def kindred(draw: st.DrawFn) -> list[Memory]:
    """Memories that differ in one field each: the ones that a mapping could mix up."""
    first = draw(memories())
    found = [first]
    for _ in range(draw(st.integers(1, 5))):
        field = draw(st.sampled_from(IDS))
        found.append(replace(draw(st.sampled_from(found)), **{field: draw(names)}))
    return [*found, draw(memories())]
