"""The result of a check, and of all checks together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from spectron_migrate.errors import ExitCode, MigrateError
from spectron_migrate.records import Json

Status = Literal["ok", "warn", "fail", "unknown"]


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check; `unknown` if it could not be made, or not yet."""

    name: str
    status: Status
    finding: str
    """What was found, in a sentence. Never the text of a memory, never a key."""
    hint: str = ""
    """How to fix it."""
    exit_code: ExitCode = ExitCode.INPUT
    """If it failed: the exit code of the command that would fail because of it."""

    def to_json(self) -> dict[str, Json]:
        """As the command's JSON carries it."""
        return {"name": self.name, "status": self.status, "said": self.finding, "hint": self.hint or None}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks, in the order in which a migration depends on them."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the first failed check; 0 if none failed, whatever the warnings."""
        return next((check.exit_code for check in self.checks if check.status == "fail"), ExitCode.DONE)

    def to_json(self) -> dict[str, Json]:
        """The fields of the command's JSON."""
        count = {status: sum(check.status == status for check in self.checks) for status in ("ok", "warn", "fail")}
        return {**count, "checks": [check.to_json() for check in self.checks]}


def failed(name: str, error: MigrateError) -> Check:
    """A failed check with the message, hint and exit code of an error, on one line."""
    first, *rest = (line.strip().removeprefix("- ") for line in error.message.splitlines())
    return Check(name, "fail", f"{first} {'; '.join(rest)}".rstrip(), error.hint or "", error.exit_code)


def first_of(items: Iterable[str], *, most: int = 3) -> str:
    """The first few items and how many more there are: `a, b, c and 4 more`."""
    known = list(items)
    rest = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + rest
