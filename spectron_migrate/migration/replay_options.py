"""The options of one replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from spectron_migrate.delivery.preflight import SCOPES_AHEAD
from spectron_migrate.errors import InputError
from spectron_migrate.ledger import Ledger, batches
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.records import Filters, Json, counted


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """Options of one run; they do not change what is in Spectron once everything is delivered."""

    filters: Filters = field(default_factory=Filters)
    limit: int | None = None
    retry_failed: bool = False
    resolve: Mapping[str, Literal["present", "absent"]] = field(default_factory=dict)
    """Decisions of a person about undecidable memories, by Mem0 id, or `ID@VERSION` where one has several."""
    choices: Mapping[str, Literal["newer", "older"]] = field(default_factory=dict)
    """Decisions of a person about the text of pending memories, by Mem0 id."""
    into_existing: bool = False
    adopt: bool = False
    """Look for every fact on the server before it is written, because the ledger or the server was lost or restored."""
    supersede: bool = True
    """False once applications write to Spectron: everything sent from then on is late and supersedes nothing."""
    max_in_flight: int = 64
    max_rps: float | None = None
    max_seconds: float | None = None
    max_tokens: int | None = None
    max_refused: int = 0
    called_with: tuple[tuple[str, str], ...] = ()
    """Command-line options that the next command needs too; kept for `status`."""
    accept_expiry: bool = False
    """Accept that `write: batch` with extraction loses known times and categories."""

    @property
    def scopes_ahead(self) -> int:
        """How many scopes may be registered while the server is marked."""
        return 0 if self.max_rps else min(SCOPES_AHEAD, self.max_in_flight - 1, self.limit or SCOPES_AHEAD)

    @property
    def terms(self) -> dict[str, Json]:
        """What must be the same in all processes that deliver together."""
        return {
            "limit": self.limit,
            "max_rps": self.max_rps,
            "max_tokens": self.max_tokens,
            "retry_failed": self.retry_failed,
            "resolve": dict(self.resolve),
            "choices": dict(self.choices),
            "into_existing": self.into_existing,
            "adopt": self.adopt,
            "accept_expiry": self.accept_expiry,
            "supersede": self.supersede,
        }


def refuse_expiry(ledger: Ledger, plan: int, mapping: ScopeMapping, options: ReplayOptions) -> None:
    """Refuse extraction in batches: a batch carries neither category nor time, so its facts may expire in a week."""
    if mapping.write != "batch" or options.accept_expiry:
        return
    if full := batches.count_full(ledger, plan):
        raise InputError(
            f"the mapping says `write: batch`, and {counted(full, 'memory is', 'memories are')} to be extracted"
            " (`infer: full`): the facts would lose time and category, and may expire after 7 days",
            hint="use `write: facts`, or `infer: none` there, or accept it with --accept-expiry",
        )
