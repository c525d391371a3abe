"""What planning counts for its warnings about the times of memories."""

from __future__ import annotations

from dataclasses import dataclass

from spectron_migrate.records import Memory, Reporter, counted, has_time

GUESSED_SHARE = 0.05
"""A larger share of guessed times gives a warning."""


@dataclass
class TimeNotes:
    """What planning counts for its warnings about times."""

    taken: int = 0
    guessed: int = 0
    chosen: int = 0
    """Memories whose later `updated_at` was not taken for the time of their text."""
    timeless: int = 0
    unreadable: int = 0
    unread: str = ""
    """The first memory whose time cannot be read."""
    future: int = 0
    expiring: int = 0

    def add(self, memory: Memory, now: str) -> None:
        """Count one planned memory; `now` is a time as `format_time` writes it."""
        self.taken += 1
        self.guessed += memory.text_at_source == "updated_at"
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
        """One warning for each kind that there is."""
        if self.taken and self.guessed / self.taken > GUESSED_SHARE:
            reporter.warn(
                f"{self.guessed:,} of {counted(self.taken, 'memory has', 'memories have')} a guessed time"
                " (`updated_at`, which metadata edits change too): their order may differ from the order of the texts;"
                " `text_at: created_at` in the mapping takes `created_at` instead"
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
