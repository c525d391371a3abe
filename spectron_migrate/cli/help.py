"""`--help` in sections: what a command has of its own, and last what every command has."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

LEFT_OVER = "What is left over, or in the way"
PACE = "How fast, and how much at once"
_EVERYWHERE = "Of every command"
_COMMON = frozenset({"config", "state", "as_json", "quiet", "verbose", "help"})


class Sectioned(TyperCommand):
    """A command whose options stand under headings; an option names its own as `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one list a section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(_section(param), []).append(record)
        for title in sorted(sections, key=lambda each: each == _EVERYWHERE):
            with formatter.section(title):
                formatter.write_dl(sections[title])


def _section(param: Any) -> str:
    if param.param_type_name == "argument":
        return "Arguments"
    if param.name in _COMMON:
        return _EVERYWHERE
    return getattr(param, "rich_help_panel", None) or "Options"
