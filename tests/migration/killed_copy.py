"""A `state copy` that is killed at its N-th change or statement, in a process of its own.

`seal+N`: at the N-th after the one that seals the source.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from spectron_migrate.cli.app import run
from spectron_migrate.database.postgres import PostgresDatabase

_CHANGES = ("os.rename", "os.remove", "os.truncate", "os.rmdir", "sqlite3.connect")


def main(at: str, source: str, target: str) -> None:
    """Counts renames, removals, files opened for writing, and statements of Postgres."""
    left = int(at.removeprefix("seal+"))
    begun = not at.startswith("seal+")

    def count(about: object) -> None:
        nonlocal left, begun
        begun = begun or ("sealed.json'" in str(about) and "SELECT" not in str(about))
        left -= begun
        if begun and left < 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and bool(int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        if event in _CHANGES or writes:
            count(arguments)

    execute = PostgresDatabase.execute

    def counted(self: PostgresDatabase, *given: Any) -> Any:
        count(given)
        return execute(self, *given)

    PostgresDatabase.execute = counted  # type: ignore[method-assign]
    sys.addaudithook(audit)
    code = run(["state", "copy", source, target, "-q"])
    sys.stderr.write(f"counted to {left}\n")
    sys.exit(code)
