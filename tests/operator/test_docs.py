"""The README names the commands and exit codes of the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spectron_migrate.cli.app import COMMANDS, run
from spectron_migrate.errors import ExitCode, MigrateError
from tests.operator import glossary_links

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    return [*COMMANDS]


def test_the_table_of_exit_codes_is_the_one_in_the_code() -> None:
    page = glossary_links.without_links((ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8"))
    written = re.findall(r"^\| (\d+) \| ([^|]+) \| [^|]+ \|$", page, re.MULTILINE)
    assert [(str(int(code)), code.meaning) for code in ExitCode] == written


def test_every_error_class_has_an_exit_code_of_the_table() -> None:
    def with_subclasses(error: type[MigrateError]) -> list[type[MigrateError]]:
        return [error, *(each for subclass in error.__subclasses__() for each in with_subclasses(subclass))]

    assert [] == [error for error in with_subclasses(MigrateError) if not isinstance(error.exit_code, ExitCode)]


def test_the_readme_names_every_command_and_no_other() -> None:
    table = set(re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE))
    assert set(commands()) == table
    used = set(re.findall(r"^\$ spectron-migrate ([a-z-]+)", README, re.MULTILINE))
    assert used <= set(commands())


@pytest.mark.parametrize("page", ["README.md", "docs/runbook.md", "docs/adapter.md"])
def test_a_page_says_what_becomes_of_scores(page: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert re.search(r"its rank as (?:its )?`score`|their rank as `score`", text)


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run([command, "--help"])
    assert f"Example: spectron-migrate {command}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_version_and_help_import_nothing_heavy(argument: str) -> None:
    import subprocess
    import sys

    script = (
        "import sys; from spectron_migrate.cli import main; sys.argv = ['spectron-migrate', sys.argv[1]]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'mem0', 'httpx', 'aiohttp', 'numpy', 'starlette', 'qdrant_client', 'yaml'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script, argument], capture_output=True, text=True, check=True)
    assert "[]" == ended.stdout.splitlines()[-1]
