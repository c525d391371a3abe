"""Chooses which of a memory's times says when its text came to be, by the mapping's `text_at`. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from spectron_migrate.records import Memory, TextAtSource, is_time

TextAt = Literal["auto", "history", "updated_at", "created_at"]
TEXT_AT: tuple[TextAt, ...] = ("auto", "history", "updated_at", "created_at")


def with_text_at(memory: Memory, setting: TextAt, *, imported: bool) -> Memory:
    """The memory with the time that the setting names, or with the other time if it has none of that name.

    `auto` takes the history's time, else a later `updated_at`, but `created_at` if all memories were `imported` at
    once. `history` takes the history's time, or `created_at` if the history does not know the text.
    """
    from_history = memory.text_at_source == "history"
    if setting == "auto":
        return _at(memory, "created_at") if imported and memory.text_at_source == "updated_at" else memory
    if setting == "history":
        return memory if from_history else _at(memory, "created_at")
    return _at(memory, setting)


def _at(memory: Memory, name: Literal["created_at", "updated_at"]) -> Memory:
    other: Literal["created_at", "updated_at"] = "created_at" if name == "updated_at" else "updated_at"
    for source in (name, other):
        time = getattr(memory, source)
        if time is not None and is_time(time):
            chosen: TextAtSource = source
            return replace(memory, text_at=time, text_at_source=chosen, history_row=None)
    return memory
