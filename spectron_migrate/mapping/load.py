"""Parses `mapping.yaml`. All problems are reported at once, each with its line, before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from spectron_migrate.errors import InputError
from spectron_migrate.mapping.collisions import find_collisions
from spectron_migrate.mapping.conditions import CAPTURE_NAME, Capture, Condition, parse_condition
from spectron_migrate.mapping.labels import LabelTemplate
from spectron_migrate.mapping.lookup_tables import read_lookup_table
from spectron_migrate.mapping.rules import (
    METADATA,
    STATES,
    TEXT_FIELDS,
    TIME_FIELDS,
    CapturedSegment,
    Constant,
    FieldSegment,
    LookupSegment,
    PathTemplate,
    Rule,
    SegmentTemplate,
)
from spectron_migrate.mapping.scope_mapping import ScopeMapping
from spectron_migrate.mapping.segments import is_plain
from spectron_migrate.mapping.text_times import TEXT_AT, TextAt
from spectron_migrate.records import Category, Infer, State
from spectron_migrate.settings.strict_yaml import (
    Node,
    Problems,
    check_version,
    choice,
    entries,
    items,
    nearest,
    parse_yaml,
    read_yaml,
    shown,
    text_of,
    whole_number,
)

DEFAULT_MAPPING = """\
version: 1
rules:
  - when: {user_id: "*", agent_id: "*"}
    scope: {user: "{user_id}", agent: "{agent_id}"}
  - when: {user_id: "*"}
    scope: {user: "{user_id}"}
  - when: {agent_id: "*"}
    scope: {agent: "{agent_id}"}
  - when: {app_id: "*"}
    scope: {app: "{app_id}"}
  - when: {run_id: "*"}
    scope: {run: "{run_id}"}
session: {by: run_id, size: 100}
infer: full
write: facts
category: knowledge
labels: {source: mem0}
unmapped: refuse
"""
"""Used without a mapping file; it refuses only memories without any owner."""

_TOP_KEYS = ("version", "rules", "session", "infer", "write", "category", "labels", "text_at", "unmapped")
_RULE_KEYS = ("when", "scope", "category", "infer", "labels", "skip", "lookup", "name")
_INFER = ("full", "none")
_CATEGORY = ("knowledge", "identity", "context")
_FIELDS = ("id", *TEXT_FIELDS, "categories", *TIME_FIELDS)
_TEMPLATE = re.compile(r"\{([^{}]*)\}")
_METADATA = re.compile(r"metadata(\.[^.{}\s]+)+")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
_MOST_RULES = 200


@dataclass(frozen=True, slots=True)
class _Defaults:
    """Settings of the whole mapping, for rules that have none of their own."""

    infer: str
    category: str
    labels: Mapping[str, LabelTemplate]


@dataclass(slots=True)
class _RuleNames:
    """The names that the templates of one rule may use."""

    conditions: dict[str, Condition] = field(default_factory=dict)
    segments: dict[str, SegmentTemplate] = field(default_factory=dict)
    """What captured and looked-up names stand for."""


def load_mapping(path: Path | None) -> ScopeMapping:
    """The mapping of a file, or the built-in default for None.

    Raises InputError naming every problem with file and line: bad YAML, unknown keys, templates that use a field
    without a condition on it, lookup tables that cannot be read, two ids that could share a scope.
    """
    if path is None:
        return _MappingParser(Path(), "built-in", Problems()).mapping(parse_yaml(DEFAULT_MAPPING, "built-in"))
    return _MappingParser(path.parent, path.name, Problems()).mapping(read_yaml(path))


def parse_mapping(text: str, folder: Path, name: str = "mapping.yaml") -> ScopeMapping:
    """The mapping of a text; its lookup tables are read from `folder`. Raises what `load_mapping` raises."""
    return _MappingParser(folder, name, Problems()).mapping(parse_yaml(text, name))


class _MappingParser:
    """Turns the tree of a file into a `ScopeMapping`, and collects everything that is wrong with it."""

    def __init__(self, folder: Path, name: str, problems: Problems) -> None:
        self.folder = folder
        self.built_in = name == "built-in"
        self.problems = problems

    def mapping(self, root: Node) -> ScopeMapping:
        if root.value is None:
            raise InputError(f"{root.where}: the mapping is empty", hint=_NO_FILE)
        top = entries(root, _TOP_KEYS, "the mapping", self.problems)
        if isinstance(root.value, Mapping):
            check_version(top, root.where, self.problems)
        defaults = _Defaults(
            self.word(top, "infer", _INFER), self.word(top, "category", _CATEGORY), self.labels(top.get("labels"))
        )
        session = entries(top["session"], ("by", "size"), "`session`", self.problems) if "session" in top else {}
        size = session.get("size")
        rules = self.rules(top.get("rules"), root.where, defaults)
        mapping = ScopeMapping(
            rules=rules,
            session_by="none" if self.word(session, "by", ("run_id", "none")) == "none" else "run_id",
            session_size=100 if size is None else whole_number(size, "`size`", self.problems, least=1, most=10_000),
            infer=cast(Infer, defaults.infer),
            write="batch" if self.word(top, "write", ("facts", "batch")) == "batch" else "facts",
            text_at=cast(TextAt, self.word(top, "text_at", TEXT_AT)),
            unmapped="skip" if self.word(top, "unmapped", ("refuse", "skip")) == "skip" else "refuse",
        )
        self.problems.refuse()
        for problem in dict.fromkeys(find_collisions(rules)):
            self.problems.add("", problem, hint=_COLLISION)
        self.problems.refuse()
        return mapping

    def word(self, found: Mapping[str, Node], key: str, known: tuple[str, ...], default: str | None = None) -> str:
        if key not in found:
            return default or known[0]
        return choice(found[key], known, f"`{key}`", self.problems)

    def rules(self, node: Node | None, where: str, defaults: _Defaults) -> tuple[Rule, ...]:
        if node is None:
            self.problems.add(where, "`rules` is missing", hint=_NO_FILE)
            return ()
        given = items(node, "`rules`", self.problems)
        if not given and isinstance(node.value, tuple):
            self.problems.add(node.where, "`rules` is empty: nothing would be written")
        if len(given) > _MOST_RULES:
            self.problems.add(node.where, f"more than {_MOST_RULES} rules", hint="use a lookup table")
            return ()
        rules = [self.rule(at, rule, defaults) for at, rule in enumerate(given)]
        return tuple(rule for rule in rules if rule is not None)

    def rule(self, at: int, node: Node, defaults: _Defaults) -> Rule | None:
        keys = entries(node, _RULE_KEYS, f"rule {at + 1}", self.problems)
        if not keys:
            if isinstance(node.value, Mapping):
                self.problems.add(node.where, f"rule {at + 1} is empty")
            return None
        title = text_of(keys["name"], "`name`", self.problems) if "name" in keys else ""
        label = f"built-in rule {at + 1}" if self.built_in else f"rule {at + 1} ({node.where})"
        names = _RuleNames()
        state = self.when(keys.get("when"), names)
        self.lookups(keys.get("lookup"), names)
        skips = self.skips(keys)
        scope = keys.get("scope")
        if scope is None and not skips:
            self.problems.add(node.where, f"rule {at + 1} has no `scope`", hint="give it one, or `skip: true`")
        if scope is not None and skips:
            self.problems.add(scope.where, "a rule with `skip: true` takes no `scope`")
        labels = {**defaults.labels, **self.labels(keys.get("labels"))}
        return Rule(
            index=-1 if self.built_in else at,
            label=label,
            when=tuple(names.conditions.items()),
            state=state,
            clauses=() if scope is None or skips else self.scope(scope, names),
            skip=f"rule {title or at + 1}" if skips else None,
            category=cast(Category, self.word(keys, "category", _CATEGORY, defaults.category)),
            infer=cast(Infer, self.word(keys, "infer", _INFER, defaults.infer)),
            labels=tuple(labels.values()),
        )

    def skips(self, keys: Mapping[str, Node]) -> bool:
        node = keys.get("skip")
        if node is not None and not isinstance(node.value, bool):
            self.problems.add(node.where, f"`skip` must be true or false, not {node.kind}")
        return node is not None and node.value is True

    def when(self, node: Node | None, names: _RuleNames) -> State:
        """Parse the conditions into `names`; returns the state of the memories that the rule takes."""
        if node is None:
            return "active"
        known = (*_FIELDS, *STATES)
        if not isinstance(node.value, Mapping):
            self.problems.add(node.where, f"`when` must be a mapping, not {node.kind}")
            return "active"
        states: list[State] = []
        for key, child in node.value.items():
            if key in STATES:
                if not isinstance(child.value, bool):
                    self.problems.add(child.where, f"`{key}` must be true or false, not {child.kind}")
                elif child.value:
                    states.append(key)
            elif key in _FIELDS or _METADATA.fullmatch(key):
                self.condition(key, child, names)
            else:
                text = f"unknown field `{shown(key)}` in `when`, {nearest(key, [*known, 'metadata.…'])}"
                self.problems.add(child.key_where, text)
        if len(states) > 1:
            self.problems.add(node.where, f"a memory is never both {states[0]} and {states[1]}", hint="write two rules")
        return states[0] if states else "active"

    def condition(self, key: str, node: Node, names: _RuleNames) -> None:
        if isinstance(node.value, tuple | Mapping):
            self.problems.add(node.where, f"`{key}` cannot be {node.kind}")
            return
        try:
            condition = parse_condition(node.value, node.raw)
        except ValueError as error:
            self.problems.add(node.where, f"`{key}` {error}")
            return
        if isinstance(condition.spec, bool) and not key.startswith(METADATA):
            self.problems.add(node.where, f"`{key}` is text, never {node.raw}", hint='`"*"` means present')
        names.conditions[key] = condition
        if isinstance(condition, Capture):
            for index, name in enumerate(condition.names):
                self.define(name, CapturedSegment(key, condition, index), node.where, names)

    def define(self, name: str, segment: SegmentTemplate, where: str, names: _RuleNames) -> None:
        """Let templates of the rule use `name`, which a capture or a lookup table fills."""
        if name in _FIELDS or name in STATES or name == "metadata":
            self.problems.add(where, f"`{name}` is a field of every memory, choose another name")
        elif name in names.segments:
            self.problems.add(where, f"`{name}` is defined twice")
        names.segments[name] = segment

    def lookups(self, node: Node | None, names: _RuleNames) -> None:
        if node is None:
            return
        for one in node.value if isinstance(node.value, tuple) else (node,):
            given = entries(one, ("file", "key", "value"), "`lookup`", self.problems)
            missing = [key for key in ("file", "key", "value") if key not in given]
            if missing:
                self.problems.add(one.where, f"`lookup` needs `{'`, `'.join(missing)}`")
                continue
            file, key, value = (text_of(given[name], f"`{name}`", self.problems) for name in ("file", "key", "value"))
            if not (file and key and value):
                continue
            if key not in names.conditions:
                text = f"`lookup` uses the field {shown(key)}, which `when` has no condition on"
                self.problems.add(one.where, text, hint=f'add `{shown(key)}: "*"` to the rule\'s `when`')
            if not CAPTURE_NAME.fullmatch(value):
                self.problems.add(given["value"].where, "`value` must be letters, digits and `_`")
            table = read_lookup_table(self.folder, file, key, value, given["file"].where, self.problems)
            self.define(value, LookupSegment(key, table), one.where, names)

    def scope(self, node: Node, names: _RuleNames) -> tuple[tuple[PathTemplate, ...], ...]:
        """The clauses: one of one path; with `all_of` one of several paths; with `any_of` several of one path."""
        words = node.value if isinstance(node.value, Mapping) else {}
        for kind in ("all_of", "any_of"):
            if kind not in words:
                continue
            if len(words) > 1:
                self.problems.add(node.where, f"`{kind}` must be the only key of a `scope`")
            given = items(words[kind], f"`{kind}`", self.problems)
            if len(given) < 2 and isinstance(words[kind].value, tuple):
                self.problems.add(words[kind].where, f"`{kind}` needs at least two scopes")
            paths = [path for one in given if (path := self.path(one, names)) is not None]
            if len(set(map(str, paths))) < len(paths):
                self.problems.add(words[kind].where, f"`{kind}` names one scope twice")
            return (tuple(paths),) if kind == "all_of" else tuple((path,) for path in paths)
        path = self.path(node, names)
        return ((path,),) if path is not None else ()

    def path(self, node: Node, names: _RuleNames) -> PathTemplate | None:
        if not isinstance(node.value, Mapping) or not node.value:
            kind = node.kind if not isinstance(node.value, Mapping) else "empty"
            hint = 'an empty scope would reach everything; write for example {user: "{user_id}"}'
            self.problems.add(node.where, f"`scope` must be a mapping of words to ids, not {kind}", hint=hint)
            return None
        levels: list[tuple[str, SegmentTemplate]] = []
        for word, child in node.value.items():
            if not is_plain(word) or word in ("all_of", "any_of"):
                self.problems.add(child.key_where, f"`{shown(word)}` is not a legal scope segment", hint=_LEGAL)
            segment = self.segment(child, names)
            if segment is not None:
                levels.append((word, segment))
        return PathTemplate(tuple(levels)) if len(levels) == len(node.value) else None

    def segment(self, node: Node, names: _RuleNames) -> SegmentTemplate | None:
        text = text_of(node, "a scope segment", self.problems)
        template = _TEMPLATE.fullmatch(text)
        if template is None:
            if "{" in text or "}" in text:
                self.problems.add(node.where, f"`{shown(text)}` mixes a field and text", hint=_ONE_FIELD)
            elif text and not is_plain(text):
                self.problems.add(node.where, f"`{shown(text)}` is not a legal scope segment", hint=_LEGAL)
            return Constant(text) if text else None
        name = template[1]
        if name in names.segments:
            return names.segments[name]
        if name not in TEXT_FIELDS and not _METADATA.fullmatch(name):
            known = [*TEXT_FIELDS, "metadata.…", *names.segments]
            self.problems.add(node.where, f"unknown field `{shown(name)}` in `scope`, {nearest(name, known)}")
        elif name not in names.conditions:
            text = f"`scope` uses {{{shown(name)}}}, which `when` has no condition on"
            self.problems.add(node.where, text, hint=f'add `{shown(name)}: "*"` to the rule\'s `when`')
        return FieldSegment(name)

    def labels(self, node: Node | None) -> dict[str, LabelTemplate]:
        """Labels are plain text, or one field of the memory; keys that begin with `_` are reserved by Spectron."""
        if node is None:
            return {}
        if not isinstance(node.value, Mapping):
            self.problems.add(node.where, f"`labels` must be a mapping, not {node.kind}")
            return {}
        found: dict[str, LabelTemplate] = {}
        for key, child in node.value.items():
            if not _LABEL_KEY.fullmatch(key):
                hint = "letters, digits, `.`, `-`, `_` and `/`, and no `_` at the start"
                self.problems.add(child.key_where, f"`{shown(key)}` is not a legal label", hint=hint)
            text = text_of(child, f"label `{shown(key)}`", self.problems)
            named = _TEMPLATE.fullmatch(text)
            if named is None and ("{" in text or "\n" in text):
                self.problems.add(child.where, f"label `{shown(key)}` must be one line of plain text, or one field")
            name = named[1] if named is not None else None
            if name is not None and name not in ("id", *TEXT_FIELDS) and not _METADATA.fullmatch(name):
                known = ["id", *TEXT_FIELDS, "metadata.…"]
                self.problems.add(child.where, f"unknown field `{shown(name)}` in a label, {nearest(name, known)}")
            found[key] = LabelTemplate(key, None if name is not None else text, name)
        return found


_NO_FILE = "without a mapping file the built-in default is used"
_COLLISION = "write the id's own field into the path, after a word that no other rule uses"
_LEGAL = "lower-case letters, digits, `.`, `_`, `-`; at most 64; not `x--` at the start, which marks an escaped id"
_ONE_FIELD = "a segment is either one field, such as `{user_id}`, or plain text"
