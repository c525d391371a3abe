"""Every error that a user can see, and the exit code that it stands for: one class per exit code.

    MigrateError
    |- InputError            2   usage, settings, mapping, dump: refused before anything is written
    |  |- NotServable        2   the mapping has no lens for a filter (mapping.lens)
    |  `- WrongLedger        2   the ledger belongs to another context, source or endpoint
    |- KeyRefused            6   key or permission
    |  `- ScopeRefused       6   the key is good, but not for this scope
    |- Unreachable           7   no answer after retries, or lanes held by a text in doubt
    |- LedgerLocked          9   another live process writes this ledger
    |- NotLegal             10   the step is not legal, or not exact, now
    |  `- NotInSpectron     10   Mem0 could answer this call, Spectron cannot
    |- Incomplete           11   the source could not be read or counted in full
    |- NotConfirmed         12   a question was not answered with yes
    `- Interrupted    130, 143   stopped by a signal; running again continues

A subclass has the exit code of its parent; modules define some for their own use. Results that are not failures of the
tool (refused memories, a verdict, a limit) are exit codes of a step's summary, not exceptions. Any other exception that
reaches the command line is a bug: exit code 1.

A message is one sentence that says what is wrong, with which thing, and where; it begins in lower case and has no full
stop. What to do about it is in the hint. The command line prints both:

    error: mapping.yaml:4: unknown field `usr_id` in `scope`, did you mean `user_id`?
    hint: add `user_id: "*"` to the rule's `when`
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes. Any other code is a failure too (137: killed; the ledger is intact)."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        """Make a code with its meaning. Tests compare the tables in the documents with it."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "done and clean"
    BUG = 1, "a bug in spectron-migrate (traceback in `log.jsonl`)"
    INPUT = 2, "usage, config, bad input, or a ledger that belongs to another context, source or endpoint"
    REFUSED = 3, "done, but more refused than `max_refused`, or anything undecidable"
    NO_GO = 4, "verdict NO_GO, or a gate not met"
    INCONCLUSIVE = 5, "verdict INCONCLUSIVE"
    KEY = 6, "key or permission"
    UNREACHABLE = 7, "not reachable after retries, or lanes held by a text in doubt (run again)"
    LIMIT = 8, "stopped with a remainder by a limit that was set"
    LOCKED = 9, "ledger locked by a live process"
    NOT_LEGAL = 10, "step not legal, or not exact, now"
    INCOMPLETE = 11, "not complete: the source could not be read or counted in full"
    NOT_CONFIRMED = 12, "not confirmed"
    SIGINT = 130, "interrupted (SIGINT), run again"
    SIGTERM = 143, "interrupted (SIGTERM), run again"


class MigrateError(Exception):
    """Base of all errors: `message` says what, which and where in one sentence, `hint` what to do about it."""

    exit_code: ExitCode = ExitCode.BUG
    kind: str = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Message and hint, for an application's log."""
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class InputError(MigrateError):
    """Usage, settings or input that was refused before anything was written."""

    exit_code = ExitCode.INPUT
    kind = "input"

    @classmethod
    def of_all(cls, problems: Sequence[str], *, hint: str | None = None) -> InputError:
        """One error for all problems, so that a user can fix a file in one go."""
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
    """The key is good, but its grants do not include this scope; other scopes continue."""

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
    """A signal stopped the step; running it again continues."""

    exit_code = ExitCode.SIGINT
    kind = "interrupted"

    def __init__(self, message: str, *, hint: str | None = None, sigterm: bool = False) -> None:
        """`sigterm`: SIGTERM, rather than SIGINT; they differ only in the exit code."""
        super().__init__(message, hint=hint)
        if sigterm:
            self.exit_code = ExitCode.SIGTERM
