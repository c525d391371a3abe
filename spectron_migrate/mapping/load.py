"""Reads `mapping.yaml`: all problems at once, each with its line, before anything is written."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import cast

from spectron_migrate.errors import InputError
from spectron_migrate.mapping.rules import (
    METADATA,
    STATES,
    TEXTS,
    TIMES,
    Captured,
    Direct,
    LookedUp,
    Lookup,
    Part,
    Path,
    Plain,
    Rule,
)
from spectron_migrate.mapping.scope_mapping import ScopeMapping
from spectron_migrate.mapping.segments import is_plain
from spectron_migrate.mapping.unique import collisions
from spectron_migrate.mapping.when import CAPTURE_NAME, Capture, Condition, condition
from spectron_migrate.records import Category, Infer, State
from spectron_migrate.settings.yaml_lines import (
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
"""What is used without a mapping file: only rows with no id at all are refused."""

_TOP = ("version", "rules", "session", "infer", "write", "category", "labels", "unmapped")
_RULE = ("when", "scope", "category", "infer", "labels", "skip", "lookup", "name")
_INFER = ("full", "none")
_CATEGORY = ("knowledge", "identity", "context")
_ASKABLE = ("id", *TEXTS, "categories", *TIMES)
_FIELD = re.compile(r"\{([^{}]*)\}")
_METADATA = re.compile(r"metadata(\.[^.{}\s]+)+")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
_MOST_RULES = 200


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What a rule uses where it says nothing itself."""

    infer: str
    category: str
    labels: Mapping[str, str]


@dataclass(slots=True)
class _RuleNames:
    """What a template of one rule may name."""

    label: str
    where: str
    conditions: dict[str, Condition] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    """Captured and looked-up names."""


def load_mapping(path: FilePath | None) -> ScopeMapping:
    """The mapping of a file, or the built-in default for None.

    Raises InputError naming every problem with file and line: bad YAML, unknown keys, templates that name
    what their rule does not ask for, lookup tables that cannot be read, ids that could share a scope.
    """
    if path is None:
        return _Loader(FilePath(), "built-in", Problems()).mapping(parse_yaml(DEFAULT_MAPPING, "built-in"))
    return _Loader(path.parent, path.name, Problems()).mapping(read_yaml(path))


def parse_mapping(text: str, folder: FilePath, name: str = "mapping.yaml") -> ScopeMapping:
    """As `load_mapping`, for text at hand; lookup tables are looked for in `folder`."""
    return _Loader(folder, name, Problems()).mapping(parse_yaml(text, name))


class _Loader:
    def __init__(self, folder: FilePath, name: str, problems: Problems) -> None:
        self.folder = folder
        self.built_in = name == "built-in"
        self.problems = problems

    def mapping(self, root: Node) -> ScopeMapping:
        if root.value is None:
            raise InputError(f"{root.where}: the mapping is empty", hint="leave it out to use the built-in default")
        top = entries(root, _TOP, "the mapping", self.problems)
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
            unmapped="skip" if self.word(top, "unmapped", ("refuse", "skip")) == "skip" else "refuse",
        )
        self.problems.refuse()
        for problem in dict.fromkeys(collisions(rules)):
            self.problems.add("", problem, hint="name an id by its own field, and put another word before it")
        self.problems.refuse()
        return mapping

    def word(self, found: Mapping[str, Node], key: str, known: tuple[str, ...], default: str | None = None) -> str:
        if key not in found:
            return default or known[0]
        return choice(found[key], known, f"`{key}`", self.problems)

    def rules(self, node: Node | None, where: str, defaults: _Defaults) -> tuple[Rule, ...]:
        if node is None:
            self.problems.add(where, "`rules` is missing", hint="leave the whole file out to use the built-in default")
            return ()
        given = items(node, "`rules`", self.problems)
        if not given and isinstance(node.value, tuple):
            self.problems.add(node.where, "`rules` is empty, so nothing would be written")
        if len(given) > _MOST_RULES:
            self.problems.add(node.where, f"more than {_MOST_RULES} rules", hint="use a lookup table")
            return ()
        rules = [self.rule(at, rule, defaults) for at, rule in enumerate(given)]
        return tuple(rule for rule in rules if rule is not None)

    def rule(self, at: int, node: Node, defaults: _Defaults) -> Rule | None:
        keys = entries(node, _RULE, f"rule {at + 1}", self.problems)
        if not keys:
            if isinstance(node.value, Mapping):
                self.problems.add(node.where, f"rule {at + 1} says nothing")
            return None
        title = text_of(keys["name"], "`name`", self.problems) if "name" in keys else ""
        label = f"built-in rule {at + 1}" if self.built_in else f"rule {at + 1} ({node.where})"
        names = _RuleNames(label, node.where)
        state = self.when(keys.get("when"), names)
        self.lookups(keys.get("lookup"), names)
        skips = self.skips(keys)
        scope = keys.get("scope")
        if scope is None and not skips:
            self.problems.add(node.where, f"rule {at + 1} has no `scope`", hint="or let it say `skip: true`")
        if scope is not None and skips:
            self.problems.add(scope.where, "a rule that skips has no `scope`")
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
            labels=tuple(f"{key}={value}" for key, value in labels.items()),
        )

    def skips(self, keys: Mapping[str, Node]) -> bool:
        node = keys.get("skip")
        if node is not None and not isinstance(node.value, bool):
            self.problems.add(node.where, f"`skip` must be true or false, not {node.kind}")
        return node is not None and node.value is True

    def when(self, node: Node | None, names: _RuleNames) -> State:
        """Fill in the conditions and captured names; returns the state of memories that the rule takes."""
        if node is None:
            return "active"
        known = (*_ASKABLE, *STATES)
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
            elif key in _ASKABLE or _METADATA.fullmatch(key):
                self.ask(key, child, names)
            else:
                text = f"unknown field `{shown(key)}` in `when`, {nearest(key, [*known, 'metadata.…'])}"
                self.problems.add(child.key_where, text)
        if len(states) > 1:
            self.problems.add(node.where, f"no memory is both {states[0]} and {states[1]}", hint="write two rules")
        return states[0] if states else "active"

    def ask(self, key: str, node: Node, names: _RuleNames) -> None:
        if isinstance(node.value, tuple | Mapping):
            self.problems.add(node.where, f"`{key}` cannot be {node.kind}")
            return
        try:
            asked = condition(node.value, node.raw)
        except ValueError as error:
            self.problems.add(node.where, f"`{key}` {error}")
            return
        if isinstance(asked.spec, bool) and not key.startswith(METADATA):
            self.problems.add(node.where, f"`{key}` is text, never {node.raw}", hint='`"*"` means present')
        names.conditions[key] = asked
        if isinstance(asked, Capture):
            for index, name in enumerate(asked.names):
                self.claim(name, Captured(key, asked, index), node.where, names)

    def claim(self, name: str, part: Part, where: str, names: _RuleNames) -> None:
        if name in _ASKABLE or name in STATES or name == "metadata":
            self.problems.add(where, f"`{name}` is a field of every memory, take another name")
        elif name in names.parts:
            self.problems.add(where, f"`{name}` is filled twice")
        names.parts[name] = part

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
                text = f"`lookup` by {shown(key)}, but `when` does not ask for it"
                self.problems.add(one.where, text, hint=f'add `{shown(key)}: "*"` to the rule\'s `when`')
            if not CAPTURE_NAME.fullmatch(value):
                self.problems.add(given["value"].where, "`value` must be letters, digits and `_`")
            table = self.table(self.folder / file, file, key, value, given["file"].where)
            self.claim(value, LookedUp(key, Lookup(file, key, value, table)), one.where, names)

    def table(self, path: FilePath, file: str, key: str, value: str, where: str) -> dict[str, str]:
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError:
            self.problems.add(where, f"{shown(file)} is not UTF-8 text")
            return {}
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.problems.add(where, f"cannot read {shown(file)}: {reason}")
            return {}
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            missing = [name for name in (key, value) if name not in (rows.fieldnames or ())]
            for name in missing:
                self.problems.add(f"{shown(file)}:1", f"no column `{shown(name)}`")
            return {} if missing else self.table_rows(rows, file, key, value)
        except csv.Error as error:
            self.problems.add(f"{shown(file)}:{rows.reader.line_num}", f"not CSV: {error}")
            return {}

    def table_rows(self, rows: csv.DictReader[str], file: str, key: str, value: str) -> dict[str, str]:
        table: dict[str, str] = {}
        for row in rows:
            name, found = row[key], row[value]
            where = f"{shown(file)}:{rows.line_num}"
            if not name or not found:
                self.problems.add(where, f"no `{shown(value if name else key)}`")
            elif table.setdefault(name, found) != found:
                self.problems.add(where, f"two values for one `{shown(key)}`")
        return table

    def scope(self, node: Node, names: _RuleNames) -> tuple[tuple[Path, ...], ...]:
        """One clause of one path; `all_of`: one clause of several; `any_of`: several clauses."""
        words = node.value if isinstance(node.value, Mapping) else {}
        for kind in ("all_of", "any_of"):
            if kind not in words:
                continue
            if len(words) > 1:
                self.problems.add(node.where, f"`{kind}` stands alone in a `scope`")
            given = items(words[kind], f"`{kind}`", self.problems)
            if len(given) < 2 and isinstance(words[kind].value, tuple):
                self.problems.add(words[kind].where, f"`{kind}` needs two scopes or more")
            paths = [path for one in given if (path := self.path(one, names)) is not None]
            if len(set(map(str, paths))) < len(paths):
                self.problems.add(words[kind].where, f"`{kind}` names one scope twice")
            return (tuple(paths),) if kind == "all_of" else tuple((path,) for path in paths)
        path = self.path(node, names)
        return ((path,),) if path is not None else ()

    def path(self, node: Node, names: _RuleNames) -> Path | None:
        if not isinstance(node.value, Mapping) or not node.value:
            kind = node.kind if not isinstance(node.value, Mapping) else "empty"
            hint = 'an empty scope would be the whole region; write for example {user: "{user_id}"}'
            self.problems.add(node.where, f"`scope` must be a mapping of words to ids, not {kind}", hint=hint)
            return None
        levels: list[tuple[str, Part]] = []
        for word, child in node.value.items():
            if not is_plain(word) or word in ("all_of", "any_of"):
                self.problems.add(child.key_where, f"`{shown(word)}` is no legal scope segment", hint=_LEGAL)
            part = self.part(child, names)
            if part is not None:
                levels.append((word, part))
        return Path(tuple(levels)) if len(levels) == len(node.value) else None

    def part(self, node: Node, names: _RuleNames) -> Part | None:
        text = text_of(node, "a scope segment", self.problems)
        template = _FIELD.fullmatch(text)
        if template is None:
            if "{" in text or "}" in text:
                self.problems.add(node.where, f"`{shown(text)}` mixes a field with text", hint=_ONE_FIELD)
            elif text and not is_plain(text):
                self.problems.add(node.where, f"`{shown(text)}` is no legal scope segment", hint=_LEGAL)
            return Plain(text) if text else None
        name = template[1]
        if name in names.parts:
            return names.parts[name]
        if name not in TEXTS and not _METADATA.fullmatch(name):
            known = [*TEXTS, "metadata.…", *names.parts]
            self.problems.add(node.where, f"unknown field `{shown(name)}` in `scope`, {nearest(name, known)}")
        elif name not in names.conditions:
            text = f"`scope` names {{{shown(name)}}}, but `when` does not ask for it"
            self.problems.add(node.where, text, hint=f'add `{shown(name)}: "*"` to the rule\'s `when`')
        return Direct(name)

    def labels(self, node: Node | None) -> dict[str, str]:
        """Plain text each; Spectron keeps keys that begin with `_` for itself."""
        if node is None:
            return {}
        if not isinstance(node.value, Mapping):
            self.problems.add(node.where, f"`labels` must be a mapping, not {node.kind}")
            return {}
        found: dict[str, str] = {}
        for key, child in node.value.items():
            if not _LABEL_KEY.fullmatch(key):
                hint = "letters, digits, `.`, `-`, `_` and `/`, and no `_` in front"
                self.problems.add(child.key_where, f"`{shown(key)}` is no label", hint=hint)
            text = text_of(child, f"label `{shown(key)}`", self.problems)
            if "{" in text or "\n" in text:
                self.problems.add(child.where, f"label `{shown(key)}` must be one line of plain text")
            found[key] = text
        return found


_LEGAL = "lower-case letters, digits, `.`, `_`, `-`; up to 64, not `x--` in front, which marks an escaped id"
_ONE_FIELD = "a segment is one field and nothing else, such as `{user_id}`, or plain text"
