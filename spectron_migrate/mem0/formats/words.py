"""Checks whether something that is no memory holds words, so that a text may be lost with it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from spectron_migrate.mem0.times import utc_time

_WORDS = re.compile(r"[^\W\d_]+[^\w\n]*\s+[^\W\d_]+")
_LONG = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]{4}")
"""Scripts that write no spaces between words."""

_DEEPEST = 64
_NOT_WORDS = ("vector", "vectors", "embedding", "embeddings", "values")


def words_in(value: Any, depth: int = 0) -> str:
    """Where two words in a row occur: the name of the field, or `text`; empty if nowhere."""
    if isinstance(value, str):
        is_prose = _WORDS.search(value) is not None or _LONG.search(value) is not None
        return "text" if is_prose and utc_time(value)[0] is None else ""
    if depth > _DEEPEST:
        return ""
    if isinstance(value, Mapping):
        return next(
            (str(name) for name, one in value.items() if name not in _NOT_WORDS and words_in(one, depth + 1)), ""
        )
    if isinstance(value, list):
        return next((found for one in value if (found := words_in(one, depth + 1))), "")
    return ""
