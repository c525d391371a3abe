"""Completes the command line that is named as the next one, so that it can be pasted as it is printed."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

TAKES = {
    "replay": ("--dump", "--mapping", "--max-in-flight", "--max-rps"),
    "dual-verify": ("--dump", "--mapping", "--mem0-config", "--mem0-results"),
    "explain": ("--dump", "--mapping"),
}
"""Options of the command that ran which the next one needs too, because it is about the same memories."""
_READS_MEM0 = ("--follow", "--late-writers")
"""With these, a replay takes no dump, because it reads Mem0 itself."""
_COMMAND = re.compile(r"(?<![\w/.-])spectron-migrate (?:cutover |state )?([a-z-]+)")
_CALLED_AS_MODULE = "__main__.py"

Options = Sequence[tuple[str, str]]
"""Names and values of options, in the order in which they were given."""


def complete_commands(text: str, *, about: Options, options: Options, program: str) -> str:
    """A command line, or a text with some, in which each is completed.

    `about`: `--config` and `--state`, which every command takes. `options`: those of the command that ran. `program`:
    how to call this program here, quoted for a shell.
    """

    def complete(found: re.Match[str]) -> str:
        following = _COMMAND.search(text, found.end())
        rest = text[found.end() : following.start() if following else None]
        taken = TAKES.get(found[1], ())
        given = [
            (name, value)
            for name, value in options
            if name in taken
            and not re.search(rf"{name}\b", rest)
            and not (name == "--dump" and any(word in rest for word in _READS_MEM0))
        ]
        asked = [(name, value) for name, value in about if not re.search(rf"{name}\b", rest) and found[1] != "copy"]
        words = [word for pair in (*asked, *given) for word in pair]
        return " ".join([found[0].replace("spectron-migrate", program, 1), *([shlex.join(words)] if words else [])])

    return _COMMAND.sub(complete, text)


def program_here() -> str:
    """How to call this program in the shell that called it, quoted: by its name, if the shell finds that."""
    name = "spectron-migrate"
    called = Path(sys.argv[0])
    if shutil.which(name):
        return name
    if called.name == name:
        return shlex.quote(str(called))
    if called.name == _CALLED_AS_MODULE and called.parent.name == "spectron_migrate":
        return f"{shlex.quote(sys.executable)} -m spectron_migrate"
    return name


def shown_path(path: str | Path) -> str:
    """A path relative to the working directory, if it is below it, which makes a command line easier to read."""
    whole, here = Path(path).absolute(), Path.cwd()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) and whole != here else str(path)
