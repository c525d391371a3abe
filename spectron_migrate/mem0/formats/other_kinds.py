"""Recognises files that are no JSON by their first bytes, and says what to give instead."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

from spectron_migrate.errors import InputError

_HEAD = 1024
_TAR_MARK = slice(257, 262)
_STORE = "name the store: `--mem0-config FILE`"
_ROWS = "give its rows as JSON, each with `id` and `payload`"
_SQL = re.compile(rb"\s*(--|/\*|PRAGMA |BEGIN|CREATE |INSERT |COPY |SET |DROP )", re.IGNORECASE)
_CSV = re.compile(rb'"?[\w .-]{1,60}"?([,;\t]"?[\w .-]{0,60}"?)+\r?\n')
_MARKDOWN = re.compile(rb"\s*(#{1,6} |---\r?\n|[*-] (?!\d))")


def refuse_other_kinds(path: Path, file: BinaryIO) -> None:
    """Raise InputError for a file of another kind; the position of `file` is not kept."""
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    known = _kind(head)
    if known is not None:
        raise InputError(f"{path} is {known[0]}, not JSON", hint=known[1])


def _kind(head: bytes) -> tuple[str, str] | None:
    if head.startswith(b"SQLite format 3\0"):
        return "a SQLite database", (
            f"{_STORE}; for that of Mem0 for TypeScript with "
            '`{"vectorStore": {"provider": "memory", "config": {"dbPath": "vector_store.db"}}}`; or '
            '`sqlite3 -json FILE "select id, payload from vectors"`'
        )
    if head[_TAR_MARK] == b"ustar":
        return "a tar archive", "unpack it, and name the store or the JSON files in it"
    if head.startswith((b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"(\xb5/\xfd", b"Rar!")):
        return "a compressed file of a kind that is not read", "unpack it; gzip and zip are read as they are"
    if head.startswith(b"PAR1"):
        return "a Parquet file", _ROWS
    if head.startswith(b"PGDMP"):
        return "a dump of PostgreSQL", f"restore it and {_STORE}"
    if head.startswith(b"%PDF"):
        return "a PDF", _ROWS
    text = head.removeprefix(b"\xef\xbb\xbf")
    if text.lstrip()[:1] in (b"{", b"[", b""):
        return None
    if _SQL.match(text):
        return "SQL", f"restore it and {_STORE}; or {_ROWS}"
    if _MARKDOWN.match(text):
        return "Markdown", f"Markdown has no ids and no times: {_STORE}; or {_ROWS}"
    if text.lstrip().startswith(b"<"):
        return "HTML or XML", _ROWS
    if _CSV.match(text):
        return "CSV", f"CSV does not say what is text, number or object: {_STORE}; or {_ROWS}"
    return None
