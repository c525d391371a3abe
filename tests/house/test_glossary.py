"""The glossary holds the words of the house: each is in use, and names say what they name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "spectron_migrate"
PAGE = ROOT / "docs" / "architecture.md"


def glossary() -> dict[str, str]:
    """Word -> meaning, from the tables of the chapter."""
    chapter = re.search(r"## Glossary\n(.*?)\n## ", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert chapter is not None
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", chapter[1], re.MULTILINE)
    return {word.strip("` "): meaning for word, meaning in rows if word not in ("word", "---")}


def words_of_the_code() -> str:
    """All Python of the package as words: identifiers taken apart, text as it is."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")))
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text.replace("_", " "))
    return " ".join(re.findall(r"[a-z0-9]+", apart.lower()))


def is_used(word: str, code: str) -> bool:
    """Whether the word, or its plural, is in the code."""
    plain = " ".join(re.findall(r"[a-z0-9]+", word.replace("_", " ").lower()))
    return re.search(rf"\b{plain}(?:s|es)?\b", code) is not None


def test_every_word_of_the_glossary_is_in_use() -> None:
    code = words_of_the_code()
    assert [] == [word for word in glossary() if not is_used(word, code)]


def test_every_word_has_one_line_and_a_meaning() -> None:
    assert len(glossary()) > 60
    assert [] == [word for word, meaning in glossary().items() if not meaning.strip().endswith((".", ")"))]


def test_a_word_that_nobody_uses_is_found() -> None:
    assert is_used("order key", "the order keys of a lane")
    assert not is_used("hush", "hushed")


# -- names ------------------------------------------------------------------------------------------------

GONE = ("conduct", "ground", "heart", "hushed", "said", "somewhere", "standing", "told", "truth", "twins", "whom")
"""Words that say nothing to somebody who has not read the neighbours: nothing is named by them."""
NO_MODULE = (*GONE, "at_once", "ending", "expect", "pool", "shape", "since", "stored", "surface")
"""Words that do not say what is in a module."""

MEANT = {"said_at"}
"""Names that mean such a word literally: the time at which a message was said."""


def names_given_in(path: Path) -> Iterator[str]:
    """Names that a module gives: to functions, classes, arguments, variables and attributes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def words_in(name: str) -> set[str]:
    """The words of an identifier, in either spelling."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def test_nothing_is_named_by_a_word_that_is_gone() -> None:
    files = [(path, str(path.relative_to(PACKAGE))) for path in sorted(PACKAGE.rglob("*.py"))]
    found = {f"{file}: {name}" for path, file in files for name in names_given_in(path) if words_in(name) & set(GONE)}
    assert [] == sorted(each for each in found if each.rpartition(" ")[2] not in MEANT)


def test_no_module_is_called_by_a_word_that_does_not_say_what_is_in_it() -> None:
    files = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
    assert [] == [str(file) for file in files if {*file.with_suffix("").parts} & {*NO_MODULE}]


def test_a_name_with_a_word_that_is_gone_is_found() -> None:
    assert {"tell", "truth"} == words_in("tellTruth")
    assert {"as", "told"} == words_in("as_told")
