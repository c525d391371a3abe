"""Options that several commands share, and what their values become."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spectron_migrate.cli import completion
from spectron_migrate.cli.conduct import Common
from spectron_migrate.errors import InputError
from spectron_migrate.records import Filters

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file (spectron-migrate.yaml, if it is there).", metavar="FILE")
]
StateOption = Annotated[
    Path | None, typer.Option("--state", help="State directory with the ledger (.spectron-migrate).", metavar="DIR")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Errors and warnings only.")]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="More about what goes wrong.")]
UserOption = Annotated[
    list[str] | None,
    typer.Option(
        "--user", help="Only these users; @FILE has one id a line.", metavar="ID|@FILE", autocompletion=completion.users
    ),
]
AgentOption = Annotated[
    list[str] | None,
    typer.Option("--agent", help="Only these agents; @FILE too.", metavar="ID|@FILE", autocompletion=completion.agents),
]
RunOption = Annotated[
    list[str] | None,
    typer.Option("--run", help="Only these runs; @FILE too.", metavar="ID|@FILE", autocompletion=completion.runs),
]
MappingOption = Annotated[Path | None, typer.Option("--mapping", help="Mapping file: memory to scope.", metavar="FILE")]
DumpOption = Annotated[
    list[Path] | None,
    typer.Option("--dump", help="Dump directory (dump), or any raw Mem0 file; may be repeated.", metavar="PATH"),
]


def common(config: Path | None, state: Path | None, as_json: bool, quiet: bool, verbose: bool) -> Common:
    """The options of every command together."""
    return Common(config, state, as_json, quiet, verbose)


def filters(user: list[str] | None, agent: list[str] | None, run: list[str] | None) -> Filters:
    """Ids as given or from files; raises InputError naming every file that cannot be read."""
    problems: list[str] = []
    chosen = Filters(*(frozenset(_ids(values or [], problems)) for values in (user, agent, run)))
    if problems:
        raise InputError.of_all(problems)
    return chosen


def _ids(values: list[str], problems: list[str]) -> list[str]:
    found: list[str] = []
    for value in values:
        if not value.startswith("@"):
            found.append(value)
            continue
        try:
            lines = Path(value[1:]).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"the list of ids {value[1:]} cannot be read: {getattr(error, 'strerror', None) or error}")
            continue
        found += [line for line in lines if line]
        if not any(lines):
            problems.append(f"the list of ids {value[1:]} is empty")
    return found
