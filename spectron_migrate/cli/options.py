"""Options that several commands share, how `--help` lists options, and ids that are read from files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Concatenate, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from spectron_migrate.cli import completion
from spectron_migrate.cli.terminal import ProgressMode
from spectron_migrate.errors import InputError, MigrateError
from spectron_migrate.records import Filters, name_first

UserOption = Annotated[
    list[str] | None,
    typer.Option(
        "--user", help="Only these users; @FILE: one id per line.", metavar="ID|@FILE", autocompletion=completion.users
    ),
]
AgentOption = Annotated[
    list[str] | None,
    typer.Option(
        "--agent",
        help="Only these agents; @FILE: one id per line.",
        metavar="ID|@FILE",
        autocompletion=completion.agents,
    ),
]
RunOption = Annotated[
    list[str] | None,
    typer.Option(
        "--run", help="Only these runs; @FILE: one id per line.", metavar="ID|@FILE", autocompletion=completion.runs
    ),
]
MappingOption = Annotated[
    Path | None, typer.Option("--mapping", help="Mapping file: which memory goes to which scope.", metavar="FILE")
]
DumpOption = Annotated[
    list[Path] | None,
    typer.Option("--dump", help="Dump directory (dump), or any raw Mem0 file; may be repeated.", metavar="PATH"),
]

REMAINDER = "Memories that are left over or held up"
PACE = "Speed and limits"
_GLOBAL = "Global options"
OF_THEIR_OWN = ("rehearse", "local")
"""Commands that read neither settings nor state.

Their help does not show `--config` and `--state`, which do nothing there.
"""


@dataclass(frozen=True)
class GlobalOptions:
    """Options that every command has."""

    config: Annotated[
        Path | None,
        typer.Option("--config", help="Settings file (spectron-migrate.yaml, if it exists).", metavar="FILE"),
    ] = None
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            help="State with the ledger: a directory (.spectron-migrate), or postgresql://… for several hosts.",
            metavar="DIR|URL",
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False
    progress: Annotated[
        ProgressMode,
        typer.Option(
            "--progress",
            help="On stderr: a bar, a line every 30 s, or none; auto: a bar on a terminal, else lines.",
            metavar="auto|bar|lines|none",
        ),
    ] = "auto"
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Show only errors and warnings.")] = False
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show more details of errors.")] = False


def with_global_options(function: Callable[Concatenate[GlobalOptions, ...], int]) -> Callable[..., int]:
    """Add the global options to a command, which receives them together as its first argument.

    Typer reads a command's options from its signature; so the returned function has one that lists both kinds.
    """
    shared = inspect.signature(GlobalOptions).parameters
    hints = get_type_hints(GlobalOptions, include_extras=True) | get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[1:]

    def command(**given: Any) -> int:
        return function(GlobalOptions(**{name: given.pop(name) for name in shared}), **given)

    parameters = [
        each.replace(annotation=hints[each.name], kind=each.KEYWORD_ONLY) for each in (*own, *shared.values())
    ]
    command.__doc__ = function.__doc__
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


class SectionedCommand(TyperCommand):
    """A command whose `--help` lists options under headings. An option names its heading as `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading, the global options last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and not (self.name in OF_THEIR_OWN and param.name in ("config", "state")):
                sections.setdefault(_heading(param), []).append(record)
        for title in sorted(sections, key=lambda each: each == _GLOBAL):
            with formatter.section(title):
                formatter.write_dl(sections[title])


class GroupedCommands(TyperGroup):
    """The program, whose `--help` groups the commands by what somebody wants to do."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "Try": ("rehearse", "local"),
        "Migrate": ("init", "doctor", "export", "replay", "dual-verify", "status", "explain"),
        "Cut over": ("cutover",),
        "Move and keep": ("state",),
        "Undo": ("erase",),
    }

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group, in the order in which the commands are used."""
        for title, names in self.GROUPS.items():
            found = [(name, command) for name in names if (command := self.get_command(ctx, name)) is not None]
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(formatter.width)) for name, command in found])


def _heading(param: Any) -> str:
    if param.param_type_name == "argument":
        return "Arguments"
    if "--help" in param.opts or param.name in GlobalOptions.__dataclass_fields__:
        return _GLOBAL
    return getattr(param, "rich_help_panel", None) or "Options"


def read_filters(
    user: list[str] | None,
    agent: list[str] | None = None,
    run: list[str] | None = None,
    *,
    dumps: Sequence[Path] = (),
) -> Filters:
    """Filters from ids and `@FILE`s; raises InputError naming every file and id that is empty or cannot be read.

    `dumps`: the error names their users.
    """
    problems: list[str] = []
    filters = Filters(*(frozenset(_read_ids(values or [], problems)) for values in (user, agent, run)))
    if problems:
        raise InputError.of_all(problems, hint=_name_users(dumps))
    return filters


def _name_users(dumps: Sequence[Path]) -> str:
    from spectron_migrate.dump import open_any

    empty = "is it a variable of the shell that is not set?"
    try:
        with open_any(list(dumps)) as dump:
            users = [repr(user) for user in sorted(dump.manifest.users)]
    except MigrateError:
        return empty
    return f"{empty} the dump has memories of these users: {name_first(users)}" if users else empty


def _read_ids(values: list[str], problems: list[str]) -> list[str]:
    ids: list[str] = []
    for value in values:
        if not value.strip():
            problems.append("an id in --user, --agent or --run is empty, which no memory has")
            continue
        if not value.startswith("@"):
            ids.append(value)
            continue
        try:
            lines = Path(value[1:]).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"cannot read the list of ids {value[1:]}: {getattr(error, 'strerror', None) or error}")
            continue
        ids += [line for line in lines if line]
        if not any(lines):
            problems.append(f"the list of ids {value[1:]} is empty")
    return ids
