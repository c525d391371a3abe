"""A check and what it says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from spectron_migrate.errors import ExitCode, MigrateError
from spectron_migrate.records import Json

Status = Literal["ok", "warn", "fail", "unknown"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `unknown` where it could not be, or not yet."""

    name: str
    status: Status
    said: str
    """What was found; never the text of a memory, never a key."""
    hint: str = ""
    """How to mend it."""
    code: ExitCode = ExitCode.INPUT
    """Where it fails: the exit code that the step which needs it would end with."""

    def to_json(self) -> dict[str, Json]:
        """As the command's JSON carries it."""
        return {"name": self.name, "status": self.status, "said": self.said, "hint": self.hint or None}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks, in the order in which a migration needs them."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> ExitCode:
        """0 where nothing fails, warnings or not; else what the first failing check stands for."""
        return next((check.code for check in self.checks if check.status == "fail"), ExitCode.DONE)

    def to_json(self) -> dict[str, Json]:
        """The fields of the command's JSON."""
        count = {status: sum(check.status == status for check in self.checks) for status in ("ok", "warn", "fail")}
        return {**count, "checks": [check.to_json() for check in self.checks]}


def failed(name: str, error: MigrateError) -> Check:
    """A check that an error of the user's world ended."""
    first, *rest = (line.strip().removeprefix("- ") for line in error.message.splitlines())
    return Check(name, "fail", f"{first} {'; '.join(rest)}".rstrip(), error.hint or "", error.exit_code)


def some(items: Iterable[str], *, most: int = 3) -> str:
    """A few of many, by name."""
    known = list(items)
    rest = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + rest
