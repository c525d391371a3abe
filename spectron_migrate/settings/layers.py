"""Looks up settings and parses each to its type: an option overrides the environment, which overrides the file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from spectron_migrate.settings.strict_yaml import (
    Node,
    Problems,
    choice,
    entries,
    items,
    nearest,
    shown,
    text_of,
    whole_number,
)
from spectron_migrate.settings.types import Secret
from spectron_migrate.settings.values import option_node, parse_duration, parse_key, read_environment, read_key

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NEEDED_LATER = (".endpoint", ".context", ".base_url", ".api_key")
"""Settings that may be missing: the command that needs one refuses to run without it."""

T = TypeVar("T")


class Layers:
    """Finds the value of a setting by its dotted name, and collects everything that is wrong.

    A value that is wrong is reported once and replaced by its default, so that all problems are found in one run.
    """

    def __init__(
        self,
        written: Mapping[str, Node],
        file: Path | None,
        env: Mapping[str, str],
        overrides: Mapping[str, Any],
        known: list[str],
        problems: Problems,
    ) -> None:
        """`written` has the file's values and `overrides` the options, by dotted name; `known` names the legal ones."""
        self.file = file
        self.env = env
        self.problems = problems
        self.written = written
        self.options: dict[str, Node] = {}
        for key, value in overrides.items():
            if value is None:
                continue
            if key in known:
                self.options[key] = option_node(key, value)
            else:
                problems.add("options", f"unknown setting `{shown(key)}`, {nearest(key, known)}")
        self.variables = {f"spectron.{name}": node for name, node in read_environment(env, problems).items()}
        self._reasons: dict[str, str] = {}

    def reasons(self, section: str) -> dict[str, str]:
        """Why settings of a section that were meant to be there are missing, by the last part of their names."""
        return {key.rpartition(".")[2]: why for key, why in self._reasons.items() if key.startswith(f"{section}.")}

    def find(self, key: str) -> Node | None:
        """The value of the strongest layer that has one, with `${NAME}` in the file's text replaced."""
        node = self.options.get(key) or self.variables.get(key)
        if node is not None:
            return node
        node = self.written.get(key)
        if node is None or not isinstance(node.value, tuple):
            return self._expand(key, node)
        expanded = [self._expand(key, one) for one in node.value]
        return Node(tuple(one for one in expanded if one is not None), node.where, node.key_where)

    def _expand(self, key: str, node: Node | None) -> Node | None:
        if node is None or not isinstance(node.value, str) or "${" not in node.value:
            return node
        if "${" in VARIABLE.sub("", node.value):
            text = f"`{key}` has a `${{` without the name of a variable"
            self.problems.add(node.where, text, hint="a variable is written ${NAME}")
            return None
        names = VARIABLE.findall(node.value)
        unset = next((name for name in names if not self.env.get(name, "").strip()), None)
        if unset is None:
            text = VARIABLE.sub(lambda found: self.env[found[1]].strip(), node.value)
            return Node(text, node.where, node.key_where, text)
        text = f"`{key}` needs {unset}, which is not set"
        if key.endswith(_NEEDED_LATER):
            self._reasons[key] = f"{node.where}: {text}"
        else:
            self.problems.add(node.where, text)
        return None

    def parsed(self, key: str, parse: Callable[[str], T]) -> T | None:
        """A text, parsed; a text that `parse` refuses is never repeated in a message, because it may be a key."""
        node = self.find(key)
        if node is None:
            return None
        text = node.raw if isinstance(node.value, int | float) else node.value
        if isinstance(node.value, bool) or not isinstance(text, str) or not text.strip():
            self.problems.add(node.where, f"`{key}` must be text")
            return None
        try:
            return parse(text.strip())
        except ValueError as error:
            self.problems.add(node.where, f"`{key}` {error}")
            return None

    def key(self, key: str) -> Secret | None:
        """A key from the environment, or from a file that the settings name; never from the settings themselves."""
        written = self.written.get(key)
        is_section = written is not None and isinstance(written.value, Mapping)
        if written is not None and not is_section and not _is_variable(written):
            variable = "MEM0_API_KEY" if key.startswith("mem0") else "SPECTRON_API_KEY"
            hint = f'write api_key: "${{{variable}}}", or api_key: {{file: FILE}}'
            self.problems.add(written.where, f"`{key}` must not contain the key itself", hint=hint)
            return None
        if key not in self.variables and written is not None and is_section:
            return self._key_from_file(key, written)
        return self.parsed(key, parse_key)

    def _key_from_file(self, key: str, node: Node) -> Secret | None:
        given = entries(node, ("file",), f"`{key}`", self.problems)
        file = self._expand(key, given.get("file"))
        if file is None:
            if not given:
                self.problems.add(node.where, f"`{key}` needs `file`")
            return None
        path = self.path_of(key, file)
        try:
            return read_key(path)
        except ValueError as error:
            self._reasons[key] = f"{node.where}: the key file {shown(path)} {error}"
            return None

    def path(self, key: str) -> Path | None:
        """A path; None if the setting is not given."""
        node = self.find(key)
        return None if node is None else self.path_of(key, node)

    def is_of_file(self, key: str) -> bool:
        """Whether the value in the file is the one that counts."""
        return key in self.written and key not in self.options and key not in self.variables

    def path_of(self, key: str, node: Node) -> Path:
        """A node as a path, relative to the settings file, or to the working directory if it is not from the file."""
        text = text_of(node, f"`{key}`", self.problems)
        if "\0" in text:
            self.problems.add(node.where, f"`{key}` is not a path")
        home = self.env.get("HOME", "") if text.startswith("~/") else ""
        if home:
            return Path(home) / text[2:]
        folder = self.file.parent if self.file is not None and key not in {**self.options, **self.variables} else Path()
        return folder / text

    def nodes(self, key: str) -> tuple[Node, ...]:
        """The items of a list; empty if the setting is not given."""
        node = self.find(key)
        return () if node is None else items(node, f"`{key}`", self.problems)

    def word(self, key: str, known: tuple[str, ...]) -> str:
        """One of several words; the first one by default."""
        node = self.find(key)
        return known[0] if node is None else choice(node, known, f"`{key}`", self.problems)

    def whole(self, key: str, default: T, *, least: int, most: int | None = None) -> int | T:
        """A whole number within bounds."""
        node = self.find(key)
        if node is None:
            return default
        return whole_number(node, f"`{key}`", self.problems, least=least, most=most)

    def above_zero(self, key: str) -> float | None:
        """A number above 0."""
        node = self.find(key)
        value = _float(node)
        if node is not None and (value is None or value <= 0):
            self.problems.add(node.where, f"`{key}` must be a number above 0, not {node.kind}")
        return value

    def share(self, key: str, default: T) -> float | T:
        """A number from 0 to 1."""
        node = self.find(key)
        if node is None:
            return default
        value = _float(node)
        if value is None or not 0 <= value <= 1:
            self.problems.add(node.where, f"`{key}` must be a share from 0 to 1, not {node.kind}")
            return default
        return value

    def seconds(self, key: str, default: float, *, zero: bool = False) -> float:
        """A duration such as `120s` or `24h` in seconds; a bare number is in seconds already."""
        node = self.find(key)
        if node is None:
            return default
        value = _float(node)
        if value is None:
            value = self.parsed(key, parse_duration)
        if value is not None and (value < 0 or (value == 0 and not zero)):
            self.problems.add(node.where, f"`{key}` must be longer than nothing")
        return default if value is None else value


def _is_variable(node: Node) -> bool:
    return isinstance(node.value, str) and VARIABLE.fullmatch(node.value.strip()) is not None


def _float(node: Node | None) -> float | None:
    if node is None or isinstance(node.value, bool) or not isinstance(node.value, int | float):
        return None
    value = float(node.value)
    return value if math.isfinite(value) else None
