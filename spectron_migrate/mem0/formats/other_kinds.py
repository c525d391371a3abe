"""Recognises files that are not JSON by their first bytes, and says what to provide instead."""

from __future__ import annotations

import json
import re
from typing import BinaryIO

from spectron_migrate.errors import InputError

_HEAD = 1024
_TAR_MARK = slice(257, 262)
_STORE = "name the store: `--mem0-config FILE`"
_ROWS = "give its rows as JSON, each with `id` and `payload`"
_PSQL = "`psql -At -c \"select json_build_object('id', id, 'payload', payload) from mem0\"`"
_BINARY: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    ((b"PAR1",), "a Parquet file", _ROWS),
    ((b"PGDMP",), "a dump of PostgreSQL", f"restore it and {_STORE}"),
    ((b"%PDF",), "a PDF", _ROWS),
    ((b"REDIS0",), "a snapshot of Redis", _STORE),
    ((b"Obj\x01", b"ARROW1", b"\x93NUMPY", b"\x80\x03", b"\x80\x04", b"\x80\x05"), "a file of a data library", _ROWS),
    (
        (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"(\xb5/\xfd", b"Rar!", b"\x04\x22M\x18"),
        "a compressed file of a kind that is not read",
        "unpack it; gzip and zip are read as they are",
    ),
)
"""First bytes, what the file is, and what to do."""

_TEXTS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"(?![\s\ufeff]*[\[{])[^\[{]{0,600}?[┏┌╭╔│┃║]"),
        "a table for the screen",
        f"let the tool print JSON: `mem0 list -o json`; or {_STORE}",
    ),
    (re.compile(r"\s*(Found )?\d+ memor(y|ies)\b"), "a list for the screen", f"`mem0 list -o json`; or {_STORE}"),
    (re.compile(r'\s*1\) "'), "what redis-cli prints", _STORE),
    (re.compile(r"<{7} "), "a file with conflicts of git in it", "resolve them: each side may have its memories"),
    (re.compile(r"version https://git-lfs"), "a pointer of Git LFS", "fetch the file itself: `git lfs pull`"),
    (re.compile(r"-----BEGIN |age-encryption\.org/"), "an encrypted file", "decrypt it first"),
    (
        re.compile(r'\s*((//|#)[^\n]*\n\s*|/\*.*?\*/\s*)+[\[{]\s*["{}\[\]]', re.DOTALL),
        "JSON with comments",
        "take them out: JSON has none",
    ),
    (
        re.compile(r'(\[?\d{4}-\d\d-\d\d[T ][^\[{\n]*|[\w.-]+ +\| )[\[{]\s*"'),
        "a log with JSON in its lines",
        "take the JSON out: `sed 's/^[^{]*//' FILE`",
    ),
    (
        re.compile(r'\s*"(?![{\[])(\\.|[^"\\\n])*"\r?\n\s*"(?!id\b)'),
        "a list of texts",
        "memories without ids cannot be told apart: `jq -c '.results[]' FILE` keeps the whole rows",
    ),
    (
        re.compile(r"[\u00a0\u200b\u2060]"),
        "text that was copied from a page: it begins with a space that JSON does not know",
        "save the file instead of copying it",
    ),
    (re.compile(r"HTTP/[\d.]+ \d{3}"), "an HTTP response with its headers", "save the body alone: `curl` without `-i`"),
    (
        re.compile(r"\s*(--[ \r\n]|/\*|PRAGMA |BEGIN|CREATE |INSERT |COPY |SET |DROP |USE )", re.IGNORECASE),
        "SQL",
        f"restore it and {_STORE}; or {_ROWS}",
    ),
    (
        re.compile(r" [^\n]*\n-{3,}[-+]*\r?\n|-\[ RECORD 1"),
        "a table that psql printed",
        f"let it print JSON: {_PSQL}; or {_STORE}",
    ),
    (re.compile(r"\+-[-+]+\+\r?\n"), "a table that a database's client printed", f"{_STORE}; or {_ROWS}"),
    (
        re.compile(r"[\[{(]\s*\{?\s*'|\[\s*\w+\("),
        "a list as Python or JavaScript print it",
        "write it with `json.dumps` or `JSON.stringify`",
    ),
    (
        re.compile(r"[\[{][\s\[{]*\w+: |\s*(module\.exports|export default|const |let |var )"),
        "an object as JavaScript or the shell of MongoDB print it",
        "write it with `JSON.stringify` or `mongoexport --jsonArray`",
    ),
    (
        re.compile(r"(event: ?[\w/-]+\r?\n)?data: ?[\[{]"),
        "a stream of events",
        "save the JSON after `data:` alone: `sed -n 's/^data: *//p' FILE`",
    ),
    (re.compile(r"\s*<"), "HTML or XML", _ROWS),
    (re.compile(r"\s*(---\r?\n)?\s*(- )?[A-Za-z_][\w -]*:(\s|$)"), "YAML", _ROWS),
    (
        re.compile(r"\s*(#{1,6} |```|---\r?\n|[*-] (?!\d))"),
        "Markdown",
        f"Markdown has no ids and no times: {_STORE}; or {_ROWS}",
    ),
    (
        re.compile(r'"?[\w .-]{1,60}"?([,;\t|]"?[^\n,;\t|]{0,200}"?)*[,;\t|]'),
        "CSV or another table of columns",
        f"it does not say what is text, number or object: {_STORE}; or let the database print JSON, as {_PSQL} does",
    ),
    (re.compile(r'"(\\.|[^"\\])*"?\s*$|"\s*[\[{]'), "JSON written as a text within JSON", "unwrap it: `jq -r . FILE`"),
)
"""How a text begins, what it is, and what to do. They are tried in this order."""

_SCALAR = re.compile(r"null|true|false|-?\d+(\.\d+)?")


def refuse_other_kinds(name: str, file: BinaryIO) -> None:
    """Raise InputError for a file of another kind; `file` is at its start afterwards."""
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    known = _kind(head)
    if known is not None:
        raise InputError(f"{name} is {known[0]}, not JSON", hint=known[1])


def _kind(head: bytes) -> tuple[str, str] | None:
    if head.startswith(b"SQLite format 3\0"):
        return "a SQLite database", (
            f"{_STORE}; for that of Mem0 for TypeScript with "
            '`{"vectorStore": {"provider": "memory", "config": {"dbPath": "vector_store.db"}}}`; or '
            '`sqlite3 -json FILE "select id, payload from vectors"`'
        )
    if head[5:9] == b"_id\0" and head[3:4] == b"\0":
        return "BSON as mongodump writes it", f"`bsondump FILE > rows.json`; or {_STORE}"
    if head[_TAR_MARK] == b"ustar":
        return "a tar archive", "unpack it, and name the store or the JSON files in it"
    for marks, what, hint in _BINARY:
        if head.startswith(marks):
            return what, hint
    encoding = json.detect_encoding(head[:4])
    text = head.decode(encoding, "replace").lstrip("\ufeff\x1e")
    if not text.strip() or _SCALAR.fullmatch(text.strip()):
        return None
    found = next(((what, hint) for begins, what, hint in _TEXTS if begins.match(text)), None)
    if found is not None:
        return found
    if text.lstrip()[0] in "{[":
        return None
    if "\0" in text or text.count("\ufffd") > 1:
        return "a binary file", f"{_STORE}; or {_ROWS}"
    return "plain text", _ROWS
