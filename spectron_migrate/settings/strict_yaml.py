"""Strict YAML for the settings and the mapping: every value knows its file and line.

It is stricter than YAML 1.1 because the files decide whose memory goes where. A duplicate key, an alias, a tag and a
second document are refused; `no`, `on` and `2025-01-01` are text, not a boolean or a date; `007` is text, because an
id is not a number.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spectron_migrate.errors import InputError

if TYPE_CHECKING:
    import yaml

Scalar = str | int | float | bool | None

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
"""Neither file needs more; the limits keep a hostile file from exhausting the parser."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,2})?")
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its origin: `where` is `file:line`, an option or an environment variable."""

    value: Scalar | tuple[Node, ...] | Mapping[str, Node]
    where: str
    key_where: str = ""
    """The origin of the key, which can be on an earlier line than the value."""
    raw: str = ""
    """A scalar as it was written, so that `1.10` and `1.1` stay different."""

    @property
    def kind(self) -> str:
        """The value as messages call it."""
        if isinstance(self.value, Mapping):
            return "a mapping"
        if isinstance(self.value, tuple):
            return "a list"
        if self.value is None:
            return "nothing"
        return f"`{shown(self.raw or self.value)}`"


class Problems:
    """Collects everything that is wrong, so that a user can fix a file in one go."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.hint: str | None = None

    def add(self, where: str, text: str, *, hint: str | None = None) -> None:
        """Add a problem at `where`; of all hints the first one is kept."""
        problem = f"{where}: {text}" if where else text
        if problem not in self.found:
            self.found.append(problem)
        self.hint = self.hint or hint

    def refuse(self) -> None:
        """Raise InputError naming all problems, if there are any."""
        if self.found:
            raise InputError.of_all(self.found, hint=self.hint)


def shown(value: object) -> str:
    """Text from outside as one short line of a message, without line breaks and terminal escapes."""
    text = printable(str(value)[:200])
    return text if len(text) <= 60 else text[:57] + "..."


def printable(text: str) -> str:
    """Text from outside without line breaks and terminal escapes."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the most similar known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word[:100], names, n=1, cutoff=0.5)
    if close:
        return f"did you mean `{close[0]}`?"
    return "known here: " + ", ".join(f"`{name}`" for name in names)


def read_yaml(path: Path) -> Node:
    """The whole file as a tree of nodes.

    Raises InputError, with the line if there is one, for a file that does not exist, is not UTF-8, is too large or is
    not strict YAML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"there is no file {shown(path)}", hint="`spectron-migrate init` writes one") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read {shown(path)}: {reason}") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{shown(path)} is larger than 1 MiB", hint="is this the file you meant?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path.name}:{line}: not UTF-8 text", hint="save it as UTF-8") from None
    return parse_yaml(text, path.name)


def parse_yaml(text: str, name: str) -> Node:
    """The tree of a text; `name` stands for the file in messages. Raises what `read_yaml` raises."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        reason = str(error.problem or error.context or error)
        hint = "indent with spaces: YAML allows no tabs there" if "'\\t'" in reason else None
        raise InputError(f"{name}:{line}: not YAML: {shown(reason)}", hint=hint) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{name}:{line}: a character that YAML does not allow") from None
    except RecursionError:
        raise InputError(f"{name}: nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The parser lets some errors of others through, for example for an escape beyond Unicode.
        raise InputError(f"{name}: not YAML: {shown(error)}") from None
    if root is None:
        return Node(None, f"{name}:1")
    problems = Problems()
    tree = _TreeBuilder(name, problems).node(root, 0)
    problems.refuse()
    return tree


class _TreeBuilder:
    """Turns the parser's nodes into ours, and collects what is legal in YAML and refused here."""

    def __init__(self, name: str, problems: Problems) -> None:
        self.name = name
        self.problems = problems
        self.seen: set[int] = set()

    def node(self, node: yaml.Node, depth: int, key_where: str = "") -> Node:
        import yaml

        where = self.where(node)
        if depth > MAX_DEPTH:
            self.problems.add(where, "nested too deeply")
            return Node(None, where, key_where)
        if id(node) in self.seen:
            self.problems.add(where, "anchors and aliases (`&`, `*`) are not allowed here", hint="write it out")
            return Node(None, where, key_where)
        self.seen.add(id(node))
        if str(node.tag) not in _KNOWN_TAGS:
            self.problems.add(where, f"tags such as `{shown(node.tag)}` are not allowed here")
        if isinstance(node, yaml.MappingNode):
            return Node(self.mapping(node, depth), where, key_where or where)
        if isinstance(node, yaml.SequenceNode):
            items = tuple(self.node(item, depth + 1) for item in node.value)
            return Node(items, where, key_where or where)
        return self.scalar(node, where, key_where or where)

    def mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        import yaml

        found: dict[str, Node] = {}
        for key_node, value_node in node.value:
            where = self.where(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.add(where, "a key must be plain text")
                continue
            key = str(key_node.value)
            if key in found:
                self.problems.add(where, f"`{shown(key)}` is given twice")
                continue
            if _INVISIBLE.search(key):
                self.problems.add(where, "a key with an invisible character")
                continue
            found[key] = self.node(value_node, depth + 1, where)
        return found

    def scalar(self, node: yaml.Node, where: str, key_where: str) -> Node:
        text = str(node.value)
        plain = getattr(node, "style", None) is None
        if not plain and str(node.tag) != _STR:
            self.problems.add(where, f"tags such as `{shown(node.tag)}` are not allowed here")
        if _INVISIBLE.search(text):
            self.problems.add(where, "text with an invisible character")
        return Node(resolve(text) if plain else text, where, key_where, text)

    def where(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"


_STR = "tag:yaml.org,2002:str"
_KNOWN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "map", "seq")
)


def resolve(text: str) -> Scalar:
    """The value of a plain scalar: null, a boolean, a decimal number, else text."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def entries(node: Node, known: Collection[str], what: str, problems: Problems) -> dict[str, Node]:
    """The entries of a mapping; another value, and every unknown key, is a problem."""
    if not isinstance(node.value, Mapping):
        problems.add(node.where, f"{what} must be a mapping, not {node.kind}")
        return {}
    kept: dict[str, Node] = {}
    for key, child in node.value.items():
        if key in known:
            kept[key] = child
        else:
            problems.add(child.key_where, f"unknown key `{shown(key)}` in {what}, {nearest(key, known)}")
    return kept


def items(node: Node, what: str, problems: Problems) -> tuple[Node, ...]:
    """The items of a list; another value is a problem."""
    if isinstance(node.value, tuple):
        return node.value
    problems.add(node.where, f"{what} must be a list, not {node.kind}")
    return ()


def text_of(node: Node, what: str, problems: Problems) -> str:
    """A value that must be text; a number counts as its spelling. If it is a problem, the result is empty."""
    if isinstance(node.value, str) and node.value.strip():
        return node.value
    if isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.raw
    problems.add(node.where, f"{what} must be text, not {node.kind if node.value != '' else 'empty'}")
    return ""


def choice(node: Node, known: Collection[str], what: str, problems: Problems) -> str:
    """A value that must be one of the known words. If it is a problem, the result is the first of these."""
    if isinstance(node.value, str) and node.value in known:
        return node.value
    given = node.raw if isinstance(node.raw, str) else ""
    problems.add(node.where, f"{what} cannot be {node.kind}, {nearest(given, known)}")
    return next(iter(known))


def whole_number(node: Node, what: str, problems: Problems, *, least: int, most: int | None = None) -> int:
    """A whole number within bounds. If it is a problem, the result is `least`."""
    value = node.value
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if fits and isinstance(value, int) and (most is None or value <= most):
        return value
    bounds = f"from {least} to {most}" if most is not None else f"of {least} or more"
    problems.add(node.where, f"{what} must be a whole number {bounds}, not {node.kind}")
    return least


def check_version(root: Mapping[str, Node], where: str, problems: Problems) -> None:
    """Require `version: 1`, so that a later format is never read as this one."""
    node = root.get("version")
    if node is None:
        problems.add(where, "`version` is missing", hint="put `version: 1` at the top")
    elif node.value != 1 or isinstance(node.value, bool):
        problems.add(node.where, f"version {node.kind} is not known, only 1")
