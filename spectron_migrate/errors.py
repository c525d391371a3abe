"""Every error a user can meet, and the exit code it stands for.

    MigrateError
    |- InputError            2   usage, settings, mapping, dump: refused before anything is written
    |  `- WrongLedger        2   the ledger belongs to another context, source or endpoint
    |- KeyRefused            6   key or permission
    |  `- ScopeRefused       6   the key is good, but not for this scope
    |- Unreachable           7   no answer after retries, or lanes held by doubt
    |- LedgerLocked          9   another live process writes this ledger
    |- NotLegal             10   the step is not legal, or not exact, now
    |  `- NotInSpectron     10   Mem0 could answer this call, Spectron cannot
    |- Incomplete           11   the source could not be read or counted in full
    |- NotConfirmed         12   a question was not answered with yes
    `- Interrupted    130, 143   stopped by a signal; running again goes on

Outcomes that are no failure of the tool (refused rows, a verdict, a limit) are exit codes of a
step's summary, not exceptions. Anything else that escapes is a bug of ours: exit code 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """What a script can rely on. Any other code is a failure (137 = killed; the ledger is intact)."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        """Keep the code and its one-line meaning together, so that the README's table is tested against them."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "done and clean"
    BUG = 1, "a bug of ours (traceback in `log.jsonl`)"
    INPUT = 2, "usage, config, bad input, or a ledger that belongs to another context, source or endpoint"
    REFUSED = 3, "done, but more refused than `max_refused`, or anything undecidable"
    NO_GO = 4, "verdict NO_GO, or a gate not met"
    INCONCLUSIVE = 5, "verdict INCONCLUSIVE"
    KEY = 6, "key or permission"
    UNREACHABLE = 7, "not reachable after retries, or lanes held by doubt (run again)"
    LIMIT = 8, "stopped with a remainder by a limit that was set"
    LOCKED = 9, "ledger locked by a live process"
    NOT_LEGAL = 10, "step not legal, or not exact, now"
    INCOMPLETE = 11, "not complete: the source could not be read or counted in full, or a shard is missing"
    NOT_CONFIRMED = 12, "not confirmed"
    SIGINT = 130, "interrupted (SIGINT), run again"
    SIGTERM = 143, "interrupted (SIGTERM), run again"


class MigrateError(Exception):
    """One sentence for the user: what, which, where. `hint` says what to do about it."""

    exit_code: ExitCode = ExitCode.BUG
    kind: str = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep the sentence and its hint apart, so that JSON can carry both."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(MigrateError):
    """Usage, settings or input that is refused before anything is written."""

    exit_code = ExitCode.INPUT
    kind = "input"

    @classmethod
    def of_all(cls, problems: Sequence[str], *, hint: str | None = None) -> InputError:
        """Name all problems at once: nobody should mend a file line by line against the tool."""
        if len(problems) == 1:
            return cls(problems[0], hint=hint)
        listed = "\n".join(f"  - {problem}" for problem in problems)
        return cls(f"{len(problems)} problems:\n{listed}", hint=hint)


class WrongLedger(InputError):
    """The ledger in the state directory belongs to another context, source or endpoint."""

    kind = "wrong_ledger"


class KeyRefused(MigrateError):
    """The key is missing, wrong, or lacks a grant."""

    exit_code = ExitCode.KEY
    kind = "key"


class ScopeRefused(KeyRefused):
    """The key is good, but its grants do not reach this scope: other scopes go on."""

    kind = "scope"


class Unreachable(MigrateError):
    """A system gave no usable answer after retries."""

    exit_code = ExitCode.UNREACHABLE
    kind = "unreachable"


class LedgerLocked(MigrateError):
    """Another live process writes this ledger."""

    exit_code = ExitCode.LOCKED
    kind = "locked"


class NotLegal(MigrateError):
    """The step is not legal, or not exact, now."""

    exit_code = ExitCode.NOT_LEGAL
    kind = "not_legal"


class NotInSpectron(NotLegal):
    """Mem0 could answer this call and Spectron cannot; the hint says what to use instead."""

    kind = "not_in_spectron"


class Incomplete(MigrateError):
    """The source could not be read or counted in full."""

    exit_code = ExitCode.INCOMPLETE
    kind = "incomplete"


class NotConfirmed(MigrateError):
    """A question was not answered with yes."""

    exit_code = ExitCode.NOT_CONFIRMED
    kind = "not_confirmed"


class Interrupted(MigrateError):
    """A signal stopped the step; running it again goes on."""

    exit_code = ExitCode.SIGINT
    kind = "interrupted"

    def __init__(self, message: str, *, hint: str | None = None, sigterm: bool = False) -> None:
        """SIGTERM and SIGINT differ in their exit code alone."""
        super().__init__(message, hint=hint)
        if sigterm:
            self.exit_code = ExitCode.SIGTERM
