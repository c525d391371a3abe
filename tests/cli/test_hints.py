"""Every command that a message of the program names exists, and takes the options that are named with it."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from spectron_migrate.cli.app import build_app

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parents[2] / "spectron_migrate"
PROGRAM: Any = typer.main.get_command(build_app())
COMMANDS = {
    **{name: command for name, command in PROGRAM.commands.items() if name != "cutover"},
    **{f"cutover {name}": command for name, command in PROGRAM.commands["cutover"].commands.items()},
}
NAMED = re.compile(
    r"(?<![\w./-])(?P<program>spectron-migrate )?(?P<name>cutover [a-z]+|[a-z]+(?:-[a-z]+)?)(?P<rest>(?: [^;,:`()]+)?)"
)
WORD_OF_A_VALUE = "1"
MISSING = "a value is missing"


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every text of a module, with its line; what an f-string fills in is a word."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [each.value if isinstance(each, ast.Constant) else WORD_OF_A_VALUE for each in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def commands_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """Commands with the words behind them up to the first that is neither an option nor its value."""
    for found in NAMED.finditer(text):
        name, rest = found["name"], found["rest"]
        known = COMMANDS.get(name)
        if known is None or not (found["program"] or rest.startswith(" --")):
            continue
        words = list(_options(known, rest.split()))
        if found["program"] or MISSING not in words:  # without the program's name it is prose about the option
            yield name, words


def _options(command: Any, words: list[str]) -> Iterator[str]:
    takes_value = {name: not option.is_flag for option in command.params for name in option.opts if name[:1] == "-"}
    rest = iter(words)
    for word in rest:
        option = re.match(r"--[a-z0-9-]+(?:=\S+)?", word)
        if option is None:
            return
        word = option[0]
        yield word
        if takes_value.get(word.partition("=")[0]) and "=" not in word:
            yield next(rest, MISSING)


FOUND = sorted(
    {
        (f"{path.relative_to(PACKAGE)}:{line}", name, shlex.join(words))
        for path in PACKAGE.rglob("*.py")
        for line, text in texts_of(path)
        for name, words in commands_in(text)
    }
)


def test_the_walk_finds_the_hints() -> None:
    assert len({name for _, name, _ in FOUND}) > 10
    assert "cutover/gates.py" in {where.partition(":")[0] for where, _, _ in FOUND}


@pytest.mark.parametrize(("where", "name", "words"), FOUND)
def test_a_named_command_takes_the_options_that_are_named_with_it(where: str, name: str, words: str) -> None:
    command = COMMANDS[name]
    known = {option for param in command.params for option in param.opts}
    unknown = [word for word in shlex.split(words) if word.startswith("--") and word.partition("=")[0] not in known]
    assert [] == unknown, f"{where}: spectron-migrate {name} {words}"
    assert MISSING not in words, f"{where}: spectron-migrate {name} {words}"


PROSE = {"that", "is"}
"""Words behind the program's name in sentences about it."""


def test_no_message_names_a_command_that_there_is_not() -> None:
    named = {
        (found[1], f"{path.relative_to(PACKAGE)}:{line}")
        for path in PACKAGE.rglob("*.py")
        for line, text in texts_of(path)
        for found in re.finditer(r"(?<![\w./-])spectron-migrate ([a-z][a-z-]+)", text)
    }
    assert [] == sorted((word, where) for word, where in named if word not in PROGRAM.commands and word not in PROSE)
