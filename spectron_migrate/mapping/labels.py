"""Labels of a mapping: which `key=value` each memory is written with (pure).

From API 0.3.0 on Spectron stamps them on every row that a write makes, so that `mem0_id: "{id}"` tells later which
memory an attribute or a relation is from. It accepts few labels, and publishes neither how many nor how long they may
be. So both are limited here, and labels that do not fit are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spectron_migrate.mapping.segments import scalar_text
from spectron_migrate.records import is_unicode

MOST_LABELS = 3
"""The most labels of one memory.

A label with the memory's id is always among them, wherever it stands in the mapping.
"""
MOST_LETTERS = 256
"""The most characters of the value of one label."""
ID = "id"


@dataclass(frozen=True, slots=True)
class LabelTemplate:
    """One label: a plain text, or the value of one field of the memory."""

    key: str
    text: str | None
    field: str | None = None

    def __str__(self) -> str:
        return f"{self.key}={self.text if self.field is None else f'{{{self.field}}}'}"


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one memory, and why others were left out."""

    labels: tuple[str, ...]
    left_out: tuple[str, ...] = ()


NO_LABELS = Labels(())


def fill_labels(templates: Sequence[LabelTemplate], values: Iterable[object], *, together: bool) -> Labels:
    """The labels of a memory; `values` are those of the templates' fields, in their order.

    `together`: the memory shares its request with others, which carries one set of labels for all.
    """
    filled: list[tuple[bool, str]] = []
    left_out: list[str] = []
    for template, value in zip(templates, values, strict=True):
        text = template.text if template.field is None else scalar_text(value)
        if template.field is not None and together:
            left_out.append(f"{template.key}: a batch has one set of labels for all its memories")
        elif not text:
            left_out.append(f"{template.key}: no value")
        elif len(text) > MOST_LETTERS or not text.isprintable() or not is_unicode(text):
            left_out.append(f"{template.key}: not one line of at most {MOST_LETTERS} letters")
        else:
            filled.append((template.field == ID, f"{template.key}={text}"))
    if len(filled) <= MOST_LABELS:
        return Labels(tuple(label for _, label in filled), tuple(left_out))
    first = sorted(filled, key=lambda each: not each[0])[:MOST_LABELS]
    kept = [each for each in filled if each in first]
    over = [label for each in filled if each not in first for label in [each[1]]]
    left_out += [f"{label.partition('=')[0]}: more than {MOST_LABELS} labels" for label in over]
    return Labels(tuple(label for _, label in kept), tuple(left_out))


def id_of(labels: Iterable[str], key: str) -> list[str]:
    """The memory ids that labels of a row name."""
    return [label.removeprefix(f"{key}=") for label in labels if label.startswith(f"{key}=")]
