"""Counts, during planning, what the warnings about the times of memories need."""

from __future__ import annotations

from dataclasses import dataclass, field

from spectron_migrate.records import Memory, Selector, counted, has_time
from spectron_migrate.reporter import Reporter

GUESSED_SHARE = 0.05
"""A larger share of guessed times, in a plan or in one of its scopes, causes a warning."""
MOST_SCOPES = 20_000
"""The most scopes in which guessed times are counted, so that memory use stays flat."""


@dataclass
class TimeNotes:
    """Counts for the warnings about times."""

    taken: int = 0
    guessed: int = 0
    chosen: int = 0
    """Memories with a later `updated_at` that was not taken as the time of their text."""
    timeless: int = 0
    unreadable: int = 0
    unread: str = ""
    """The first memory whose time cannot be read."""
    future: int = 0
    expiring: int = 0
    _scopes: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Memories and guessed times of the first scopes, by hash."""

    def add(self, memory: Memory, selector: Selector, now: str) -> None:
        """Count one planned memory; `now` is a time as `format_time` writes it."""
        guessed = memory.text_at_source == "updated_at"
        self.taken += 1
        self.guessed += guessed
        scope = hash(selector)
        if scope in self._scopes or len(self._scopes) < MOST_SCOPES:
            taken_here, guessed_here = self._scopes.get(scope, (0, 0))
            self._scopes[scope] = (taken_here + 1, guessed_here + guessed)
        self.chosen += memory.text_at_source == "created_at" and (memory.updated_at or "") > (memory.created_at or "")
        if not has_time(memory):
            given = (memory.extra.get("as_given") or {}).get("created_at") if memory.created_at is None else None
            self.timeless += given is None
            self.unreadable += given is not None
            if given is not None and not self.unread:
                self.unread = f"memory {memory.id} has {str(given)!r:.60}"
        self.future += memory.text_at is not None and memory.text_at > now
        self.expiring += memory.expiration_date is not None

    def warn(self, reporter: Reporter) -> None:
        """Give one warning for each kind of problem found."""
        scopes = sum(guessed / taken > GUESSED_SHARE for taken, guessed in self._scopes.values())
        if scopes or self.guessed > GUESSED_SHARE * self.taken:
            share = f"more than {GUESSED_SHARE:.0%} of those in {counted(scopes, 'scope')}" if scopes else ""
            reporter.warn(
                f"{self.guessed:,} of {counted(self.taken, 'memory has', 'memories have')} a guessed time"
                f" (`updated_at`, which metadata edits change too){share and f', {share}'}: their order may differ from"
                " the order of the texts; `text_at: created_at` in the mapping takes `created_at` instead"
            )
        if self.chosen:
            reporter.warn(
                f"{counted(self.chosen, 'memory has', 'memories have')} a later `updated_at`, and `created_at` is taken"
                " as the time of the text, because an import wrote them all at once or the mapping says so:"
                " `text_at: updated_at` in the mapping takes the other"
            )
        if self.unreadable:
            which = counted(self.unreadable, "memory has a time that cannot", "memories have a time that cannot")
            reporter.warn(f"{which} be read, and no other: written first, superseding nothing; {self.unread}")
        if self.timeless:
            timeless = counted(self.timeless, "memory has", "memories have")
            reporter.warn(f"{timeless} no time: without one, a text is written first and supersedes nothing")
        if self.future:
            reporter.warn(f"{counted(self.future, 'memory has', 'memories have')} a time in the future")
        if self.expiring:
            reporter.warn(f"{counted(self.expiring, 'memory')} will expire in Mem0 but not in Spectron")
