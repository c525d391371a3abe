"""The documents name commands, options, files and links that exist."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest

from spectron_migrate.cli.app import COMMANDS, run
from tests.operator import console, glossary_links, help_page

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md")),
]


def shown_command_lines() -> list[tuple[str, list[str]]]:
    """Every command line of ours that a page shows at a prompt or as code: the page, and the words."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [each.command for each in console.shown(text) if each.command.startswith("spectron-migrate")]
        lines += re.findall(r"`(spectron-migrate [a-z][^`]*)`", text)
        found += [(page.name, shlex.split(line.replace("…", "X"))[1:]) for line in lines]
    return found


def options_of(words: list[str]) -> set[str] | None:
    """The options in the help of the command; None where there is no such command."""
    names = [word for word in words if not word.startswith("-")]
    known = help_page.commands()
    for length in (2, 1):
        if names[:length] in known:
            text = help_page.help_texts()[tuple(names[:length])]
            return set(re.findall(r"(?<![\w-])(--?[a-z][a-z0-9-]*)", text))
    return None


def test_every_command_line_on_a_page_has_a_command_and_options_of_the_program() -> None:
    wrong = []
    for page, words in shown_command_lines():
        known = options_of(words)
        if known is None:
            wrong.append(f"{page}: {' '.join(words)}: no such command")
            continue
        given = {word.split("=")[0] for word in words if word.startswith("-") and word != "-"}
        wrong += [f"{page}: {' '.join(words)}: no option {option}" for option in sorted(given - known)]
    assert [] == wrong


def test_the_page_of_help_is_the_help_of_the_program() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    made_with = re.search(r"with Typer ([\w.]+)", page)
    assert made_with
    for words in help_page.commands():
        assert f"\n## {' '.join(['spectron-migrate', *words])}\n" in page
    if made_with[1] == version("typer"):  # other versions have another layout
        assert help_page.page() == page, "python -m tests.operator.help_page > docs/cli.md"


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as a forge makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_leads_to_a_page_and_a_heading_that_exist() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
            name, _, anchor = target.partition("#")
            aim = page.parent / name if name else page
            if not aim.exists() or (anchor and anchor not in anchors_of(aim)):
                broken.append(f"{page.name}: {target}")
    assert [] == broken


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [page.name for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "index.md"]
    assert [] == [name for name in pages if f"]({name})" not in index]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 170


def test_every_command_is_on_some_page() -> None:
    text = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [] == [name for name in COMMANDS if name not in text]


def test_every_mapping_of_the_cookbook_is_on_its_page() -> None:
    page = (ROOT / "docs" / "mapping.md").read_text(encoding="utf-8")
    assert [] == [file.name for file in sorted((ROOT / "configs" / "mappings").iterdir()) if file.name not in page]


def test_every_key_of_a_mapping_is_on_its_page() -> None:
    from spectron_migrate.mapping import load

    page = (ROOT / "docs" / "mapping.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \| (top|rule|top or rule) \|", page, re.MULTILINE)
    places = {"top": load._TOP_KEYS, "rule": load._RULE_KEYS}
    shown = {place: {key for key, where in named if place in where.split(" or ")} for place in places}
    assert {place: {*keys} - {"version"} for place, keys in places.items()} == shown


def test_every_reason_of_a_difference_is_on_the_page_about_verifying() -> None:
    from spectron_migrate.verify.differences import DifferenceReason

    page = glossary_links.without_links((ROOT / "docs" / "verifying.md").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| ([a-z][a-z ,]+) \|", page, re.MULTILINE)
    named = {reason for row in rows for reason in row.split(", ")}
    assert [] == [reason for reason in get_args(DifferenceReason) if reason.replace("_", " ") not in named]


def test_no_page_contains_a_key_or_a_path_of_a_machine() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert [] == re.findall(r"(?:sk-(?!local)[\w-]{6,}|/(?:home|root|Users)/\w+)", text), page.name


def test_the_picture_calls_the_program_by_its_name() -> None:
    picture = (ROOT / "docs" / "terminal.svg").read_text(encoding="utf-8")
    assert "spectron-migrate&#160;cutover&#160;start" in picture
    assert "/bin/" not in picture


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(
    shell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    with pytest.raises(SystemExit) as ended:
        run(["--show-completion", shell])
    assert not ended.value.code
    assert "spectron-migrate" in capsys.readouterr().out


@pytest.mark.parametrize("page", glossary_links.PAGES, ids=lambda page: page.stem)
def test_a_word_of_ours_is_a_link_to_the_glossary_where_a_page_first_uses_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = {word: glossary_links.first_use(text, word) for word in glossary_links.LINKED}
    assert [] == [word for word, use in found.items() if use is not None and not use[2]]


def test_the_words_that_are_linked_are_in_the_glossary() -> None:
    assert set(glossary_links.LINKED) <= set(glossary_links.anchors())
