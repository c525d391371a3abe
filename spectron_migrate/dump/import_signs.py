"""Recognises an import by the times of all memories. Then `updated_at` says when it ran, not when a text changed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from spectron_migrate.records import is_time, parse_time

_RAN_WITHIN = timedelta(hours=1)
_CREATED_OVER = timedelta(days=30)
_MOST = 0.9
"""The share of memories whose `updated_at` must be from the import. Memories added later have one of their own."""


class ImportSigns:
    """The spans of `created_at` and of later `updated_at` over all memories of a dump."""

    def __init__(self) -> None:
        self._dated = self._late = 0
        self._created: tuple[str, str] | None = None
        self._updated: tuple[str, str] | None = None

    def add(self, times: Iterable[tuple[str | None, str | None]]) -> None:
        """Add `created_at` and `updated_at` of these memories."""
        for created_at, updated_at in times:
            if created_at is None or not is_time(created_at):
                continue
            self._dated += 1
            if updated_at is not None and updated_at > created_at:
                self._late += 1
                self._created = _widened(self._created, created_at)
                self._updated = _widened(self._updated, updated_at)

    @property
    def is_import(self) -> bool:
        """Whether the memories were created over a month or more, and written within an hour long after."""
        if self._created is None or self._updated is None or self._late < _MOST * self._dated:
            return False
        return _span(self._updated) <= _RAN_WITHIN and _span(self._created) >= _CREATED_OVER


def _widened(span: tuple[str, str] | None, time: str) -> tuple[str, str]:
    return (time, time) if span is None else (min(span[0], time), max(span[1], time))


def _span(span: tuple[str, str]) -> timedelta:
    return parse_time(span[1]) - parse_time(span[0])
