"""Of a file that is no JSON its first bytes tell what it is, and the message says what to give instead."""

from __future__ import annotations

import gzip
import io
import json
import os
import sqlite3
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.formats.files import FILE_LEFT_OUT, FilesReader
from spectron_migrate.mem0.formats.other_kinds import refuse_other_kinds
from spectron_migrate.records import Memory, Skipped
from tests.mem0.conftest import NOW
from tests.support.examples import examples

pytestmark = pytest.mark.slow

ROW = {"id": "m1", "memory": "likes tea", "user_id": "alice"}
ID = "5c1f0a51-0001-4000-8000-000000000001"


def read(path: Path) -> list[Memory | Skipped]:
    with FilesReader([path], now=NOW) as reader:
        return list(reader.rows())


def sqlite_file() -> bytes:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE t (a)")
    return db.serialize()


def tar_file() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.json"), io.BytesIO())
    return held.getvalue()


KINDS: list[tuple[bytes | str, str, str]] = [
    (sqlite_file(), "a SQLite database", "sqlite3 -json FILE"),
    (tar_file(), "a tar archive", "unpack it"),
    (b"PAR1\0\0", "a Parquet file", "`id` and `payload`"),
    (b"PGDMP\x01\x0e", "a dump of PostgreSQL", "restore it"),
    (b"REDIS0011\xfa", "a snapshot of Redis", "--mem0-config"),
    (b"(\xb5/\xfd\x04", "a compressed file of a kind that is not read", "gzip and zip are read"),
    (b"BZh91AY", "a compressed file of a kind that is not read", "unpack it"),
    (b"\x93NUMPY\x01\0", "a file of a data library", "`id` and `payload`"),
    (b"%PDF-1.7", "a PDF", "`id` and `payload`"),
    (b"\x16\0\0\0\x02a\0\x02\0\0\0b\0\0", "a binary file", "--mem0-config"),
    (f'id,payload\n{ID},"{{""data"": ""x""}}"\n', "CSV or another table of columns", "json_build_object"),
    (f'{ID}\t{{"data": "x"}}\n', "CSV or another table of columns", "json_build_object"),
    (f'{ID}|{{"data": "x"}}\n', "CSV or another table of columns", "psql -At"),
    ("id;payload\n1;2\n", "CSV or another table of columns", "--mem0-config"),
    (" json_agg \n----------\n [{}]\n(1 row)\n", "a table that psql printed", "psql -At"),
    ("-[ RECORD 1 ]---\nid | 1\n", "a table that psql printed", "psql -At"),
    ("+----+----+\n| id | payload |\n", "a table that a database's client printed", "`id` and `payload`"),
    ("--\n-- PostgreSQL database dump\n--\n", "SQL", "restore it"),
    ("/*!40101 SET NAMES utf8 */;\nDROP TABLE x;", "SQL", "restore it"),
    ("INSERT INTO mem0 VALUES (1);", "SQL", "restore it"),
    ("# Memories\n\n- likes tea\n", "Markdown", "no ids and no times"),
    ("- likes tea\n- has a cat\n", "Markdown", "no ids and no times"),
    ("- id: m1\n  memory: likes tea\n", "YAML", "`id` and `payload`"),
    ("memories:\n  - id: m1\n", "YAML", "`id` and `payload`"),
    ("\n<!DOCTYPE html><html>", "HTML or XML", "`id` and `payload`"),
    ("HTTP/2 200\r\ncontent-type: application/json\r\n\r\n{}", "an HTTP response with its headers", "without `-i`"),
    ("[{'id': 'm1'}]", "a list as Python or JavaScript print it", "json.dumps"),
    ("[Document(page_content='x')]", "a list as Python or JavaScript print it", "json.dumps"),
    ("[\n  {\n    _id: ObjectId('a')\n  }\n]", "an object as JavaScript", "mongoexport --jsonArray"),
    ("module.exports = []", "an object as JavaScript", "JSON.stringify"),
    (json.dumps(json.dumps([ROW])), "JSON written as a text within JSON", "jq -r ."),
    (b"\x40\0\0\0\x02_id\0\x03\0\0\0m1\0", "BSON as mongodump writes it", "bsondump"),
    ('event: message\ndata: {"result": {}}\n\n', "a stream of events", "after `data:` alone"),
    ("```json\n[]\n```\n", "Markdown", "no ids and no times"),
    ("Alice likes tea.\nShe has a cat.\n", "plain text", "`id` and `payload`"),
    ("┏━━━━┳━━━━━━━┓\n┃ ID ┃ Memory ┃\n", "a table for the screen", "mem0 list -o json"),
    ("    Memories for alice\n╭────┬────╮\n│ m1 │ likes tea │\n", "a table for the screen", "mem0 list -o json"),
    ("Found 2 memories:\n\n  1. likes tea\n     ID: m1\n", "a list for the screen", "mem0 list -o json"),
    ('1) "memory_id"\n2) "m1"\n', "what redis-cli prints", "--mem0-config"),
    ("<<<<<<< HEAD\n[]\n=======\n[]\n>>>>>>> other\n", "a file with conflicts of git", "resolve them"),
    ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a pointer of Git LFS", "git lfs pull"),
    ("-----BEGIN PGP MESSAGE-----\n\nhQEM\n", "an encrypted file", "decrypt it"),
    ('// exported today\n[{"id": "m1"}]', "JSON with comments", "take them out"),
    ('/* exported today */ {"results": []}', "JSON with comments", "take them out"),
    ('# exported today\n{"id": "m1"}\n', "JSON with comments", "take them out"),
    ('2025-03-01 10:00:00 INFO {"id": "m1"}\n', "a log with JSON in its lines", "sed"),
    ('mem0-1  | {"id": "m1"}\nmem0-1  | {"id": "m2"}\n', "a log with JSON in its lines", "sed"),
    ('"likes green tea"\n"has a black cat"\n', "a list of texts", "keeps the whole rows"),
    ('\u00a0[{"id": "m1"}]', "text that was copied from a page", "save the file"),
]


@pytest.mark.parametrize(("content", "kind", "hint"), KINDS, ids=[each[1] for each in KINDS])
@pytest.mark.parametrize("packed", ["plain", "gzip", "zip", "utf-16"])
def test_a_file_of_another_kind_is_named_with_what_to_give_instead(
    tmp_path: Path, content: bytes | str, kind: str, hint: str, packed: str
) -> None:
    path = tmp_path / "memories"
    data = content if isinstance(content, bytes) else content.encode("utf-16" if packed == "utf-16" else "utf-8")
    if packed == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("memories.json", data)
    else:
        path.write_bytes(gzip.compress(data) if packed == "gzip" else data)

    with pytest.raises(InputError) as refused:
        read(path)

    assert f" is {kind}" in refused.value.message
    assert str(path) in refused.value.message
    assert hint in (refused.value.hint or "")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=examples(500), deadline=None)
@given(
    st.lists(VALUES, max_size=4) | st.dictionaries(st.text(), VALUES, max_size=4),
    st.sampled_from([None, 0, 1, 4, "\t"]),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]),
    st.sampled_from(["", "\n", "  \r\n"]),
)
def test_no_json_is_taken_for_another_kind(
    value: Any, indent: int | str | None, is_ascii: bool, encoding: str, before: str
) -> None:
    text = before + json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    file = io.BytesIO(text.encode(encoding, "surrogatepass"))
    refuse_other_kinds("file", file)
    assert 0 == file.tell()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_is_read_in_every_encoding_of_unicode(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_bytes(json.dumps([{**ROW, "memory": "mag Tee, 茶 🍵"}]).encode(encoding))

    [found] = read(tmp_path / "a.json")

    assert isinstance(found, Memory)
    assert "mag Tee, 茶 🍵" == found.memory


def test_files_that_were_joined_are_read_with_their_byte_order_marks(tmp_path: Path) -> None:
    lines = [json.dumps({**ROW, "id": f"m{number}"}).encode("utf-8-sig") for number in range(3)]
    (tmp_path / "a.json").write_bytes(b"\n".join(lines))
    (tmp_path / "b.json").write_bytes(b"".join(b"\x1e" + line + b"\n" for line in lines))

    assert ["m0", "m1", "m2"] == [row.id for row in read(tmp_path / "a.json")]
    assert ["m0", "m1", "m2"] == [row.id for row in read(tmp_path / "b.json")]


BROKEN: list[tuple[bytes, str]] = [
    (b'[{"id": "m1", "memory": "likes tea", "metadata": None}]', "json.dumps"),
    (b'[{"id": "m1", "memory": "likes tea", "metadata": undefined}]', "JSON.stringify"),
    (b'[\n// the first\n{"id": "m1", "memory": "likes tea"}]', "take out the comments"),
    (b'[{"id": "m1"},\n<<<<<<< HEAD\n{"id": "m2"}]', "git left conflicts"),
    (json.dumps([ROW]).encode() + b"\0\0\0", "zero bytes"),
    (json.dumps([ROW]).encode() + b"\r\n\x1a", "end-of-file mark"),
    (json.dumps([ROW]).encode() + b"200", "curl -w"),
    (b'{"id": "m1", "memory": "has "a" cat"}', "jq"),
    ("[{'id': 'm1', 'memory': 'K\u00e4se'}]".replace("'", '"').encode("latin-1"), "iconv -f WINDOWS-1252"),
    ('[{"id": "m1", "memory": "\u201ctea\u201d"}]'.encode("cp1252"), "iconv -f WINDOWS-1252"),
]


@pytest.mark.parametrize(("content", "hint"), BROKEN, ids=[hint for _, hint in BROKEN])
def test_json_that_is_broken_is_named_by_its_line_with_what_to_do(tmp_path: Path, content: bytes, hint: str) -> None:
    (tmp_path / "a.json").write_bytes(content)

    with pytest.raises(InputError, match=r"line \d") as refused:
        read(tmp_path / "a.json")

    assert hint in (refused.value.hint or "")


def test_a_pipe_is_refused_with_what_to_do(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path / "pipe", Path("-")):
        with pytest.raises(InputError, match=r"is no file but a pipe.*write it into a file"):
            FilesReader([path], now=NOW)
    with pytest.raises(InputError, match=r"is a folder.*--mem0-config"):
        FilesReader([tmp_path], now=NOW)


def test_a_file_that_was_compressed_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(gzip.compress(b"[]")))

    with pytest.raises(InputError, match="a compressed file") as refused:
        read(tmp_path / "rows.json.gz")

    assert "unpack it" in (refused.value.hint or "")


def zipped(path: Path, **members: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in members.items():
            archive.writestr(name, value if isinstance(value, bytes | str) else json.dumps(value))
    return path


def test_an_archive_names_each_file_that_may_hold_memories_and_is_not_read(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "a.zip", **{"a.JSON": [ROW], "b.csv": "id,memory\n", "readme.txt": "hello", "c/d.db": b"x"}
    )

    found = read(path)

    assert [f"{path}:b.csv", f"{path}:c/d.db"] == [row.id for row in found if isinstance(row, Skipped)]
    assert {FILE_LEFT_OUT} == {row.reason for row in found if isinstance(row, Skipped)}
    assert all(row.has_content for row in found if isinstance(row, Skipped))


def test_an_archive_of_several_backups_gives_the_memories_of_all(tmp_path: Path) -> None:
    members = {f"{user}/memories.json": [{**ROW, "id": user, "user_id": user}] for user in ("alice", "bob")}

    assert ["alice", "bob"] == [row.id for row in read(zipped(tmp_path / "a.zip", **members))]


def test_a_backup_whose_lines_hold_more_than_its_json_is_not_complete(tmp_path: Path) -> None:
    lines = gzip.compress("\n".join(json.dumps({"id": f"m{n}", "content": f"note {n}"}) for n in (1, 2)).encode())
    backup = {"user": {"id": "u", "user_id": "alice"}, "memories": [{"id": "m1", "user_id": "u", "content": "note 1"}]}

    found = read(zipped(tmp_path / "a.zip", **{"memories.jsonl.gz": lines, "memories.json": backup}))

    assert ["m1"] == [row.id for row in found if isinstance(row, Memory)]
    [lost] = [row for row in found if isinstance(row, Skipped)]
    assert "m2" == lost.id
    assert lost.has_content
