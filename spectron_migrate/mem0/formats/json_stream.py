"""Yields rows from JSON of any size one at a time, without loading the whole file into memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import count
from typing import Any, BinaryIO

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.formats.envelopes import (
    DEEPEST,
    IDS,
    RELATIONS,
    ROWS,
    TEXTS,
    JsonItem,
    fields_left_out,
    has_text,
    head_below,
    head_of,
    is_envelope,
    is_row,
    is_row_table,
    row_fields,
    rows_in,
    walk,
)
from spectron_migrate.mem0.formats.unwrap import plain
from spectron_migrate.records import ENTITY_IDS, Json

_CHUNK = 1 << 18
_SMALL = 4
"""An object that fits into this many reads is decoded as a whole."""

_MOST_SKETCHED = 10_000
"""The most elements of a list without rows, such as OpenMemory's categories, that are kept beside the rows."""

_SPACE = " \t\n\r\ufeff\x1e"
"""What may stand between values: also a byte order mark, if files were joined, and the separator of RFC 7464."""

_COMMAS = "take out the comma at the end of each line (`sed 's/,[[:space:]]*$//' FILE`), or the one before a bracket"
_REWRITE = "write the file again with a library for JSON, or with `jq`"
_HINTS = (
    (("None", "True", "False", "'"), "Python printed it: write it with `json.dumps`"),
    (("undefined",), "JavaScript printed it: write it with `JSON.stringify`"),
    (("//", "/*", "#"), "take out the comments: JSON has none"),
    (("<<<<<<<", "=======", ">>>>>>>"), "git left conflicts in it: resolve them, each side may have its memories"),
    (("\0",), "zero bytes follow: the file was not written to its end"),
    (("\x1a",), "an end-of-file mark of DOS follows: `tr -d '\\032' < FILE`"),
)
"""How text begins that is not JSON, and what to do about it."""

_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_ONCE = frozenset((*TEXTS, *IDS, *ROWS, *ENTITY_IDS, "payload", "metadata", "userId", "agentId", "runId", "hash"))
"""Fields that must not occur twice, because a decoder would drop one of them."""

_NEAR_END = 16
"""An error this close to the end of the window may only mean that more has to be read."""


def read_items(open_stream: Callable[[], BinaryIO], name: str) -> Iterator[JsonItem]:
    """Everything in a JSON or JSON Lines stream, in order, in any mixture of formats.

    `open_stream` opens it from the start. It is called a second time for an object that is too large to be decoded as a
    whole. Raises InputError with name and line if the stream is truncated, is not JSON, or holds a value that is not a
    row.
    """
    with closing(open_stream()) as stream, closing(_sketches(open_stream, name)) as sketches:
        scanner = _Scanner(stream, name)
        numbers = count(1)
        if not scanner.peek():
            raise InputError(f"{name} is empty: nothing was written to it")
        while character := scanner.peek():
            if character == "[":
                yield from _array(scanner, {}, numbers, "")
            elif character == "{":
                line = scanner.line
                whole = scanner.small_value()
                if whole is not None:
                    yield from walk(whole, line, numbers)
                else:
                    yield from _object(scanner, next(sketches), None, numbers, "")
            else:
                scanner.value()  # raises for a truncated or broken file
                raise scanner.error(
                    "is JSON, but not a dump of Mem0: a value that is no object and no list",
                    hint="take it out; `curl -w` for example writes a number behind the JSON",
                )


def _array(scanner: _Scanner, head: dict[str, Json], numbers: Iterator[int], name: str) -> Iterator[JsonItem]:
    number, line = next(numbers), scanner.line
    has_rows = has_elements = False
    for value, line in _elements(scanner):
        has_elements = True
        if is_envelope(value):
            yield from walk(value, line, numbers, head, listing=number, name=name if isinstance(value, list) else "")
        else:
            has_rows = True
            yield JsonItem("row", value, line, head, number)
    if has_rows or not has_elements:
        yield JsonItem("envelope", head, line, None, number)


def _object(
    scanner: _Scanner, sketch: dict[str, Json], around: dict[str, Json] | None, numbers: Iterator[int], name: str
) -> Iterator[JsonItem]:
    """The items of a large object, whose structure is known from its sketch."""
    line = scanner.line
    if is_row_table(sketch):
        yield from walk(scanner.value(), line, numbers, around, name=name)
        return
    taken = row_fields(sketch)
    if not taken or has_text(sketch):
        yield JsonItem("row", sketch if taken else scanner.value(), line, around)
    if not taken:
        return
    head = head_of(sketch, taken, around)
    for field in _fields(scanner):
        below = head_below(name, head, field)
        if field in taken and scanner.peek() == "[":
            yield from _array(scanner, below, numbers, field)
        elif field in taken:
            yield from _object(scanner, sketch[field], below, numbers, field)
        elif field == RELATIONS and scanner.peek() == "[":
            for relation, at in _elements(scanner):
                yield JsonItem("relation", relation, at)
        else:
            _sketch(scanner)
    for left in fields_left_out(sketch, taken):
        yield JsonItem("left_out", left, line)


def _elements(scanner: _Scanner) -> Iterator[tuple[Any, int]]:
    """The elements of a list, each with its line."""
    scanner.take("[")
    if scanner.peek() == "]":
        scanner.take("]")
        return
    while True:
        scanner.peek()
        line = scanner.line
        yield scanner.value(), line
        if scanner.peek() != ",":
            scanner.take("]")
            return
        scanner.take(",")


def _fields(scanner: _Scanner) -> Iterator[str]:
    """The names of the fields of an object. The caller has to step over the value before it asks for the next one."""
    scanner.take("{")
    while scanner.peek() != "}":
        yield scanner.name()
        if scanner.peek() == ",":
            scanner.take(",")
        elif scanner.peek() != "}":
            break
    scanner.take("}")


def _sketches(open_stream: Callable[[], BinaryIO], name: str) -> Generator[dict[str, Json]]:
    """The sketch of each object in the stream that is too large to be decoded as a whole, in order."""
    with closing(open_stream()) as stream:
        scanner = _Scanner(stream, name)
        while character := scanner.peek():
            if character == "[":
                for _ in _elements(scanner):
                    pass
            elif character != "{":
                scanner.value()
            elif scanner.small_value() is None:
                yield _sketch(scanner)


def _sketch(scanner: _Scanner, depth: int = 0) -> Any:
    """The next value with its lists cut after their first row: only what comes before and after the rows."""
    if scanner.peek() == "[":
        kept: list[Any] = []
        has_row = False
        for value, _ in _elements(scanner):
            if not has_row and len(kept) < _MOST_SKETCHED:
                kept.append(value)
                has_row = is_row(value) or rows_in([value])
        return kept
    if scanner.peek() != "{" or depth > DEEPEST:
        return scanner.value()
    return {name: _sketch(scanner, depth + 1) for name in _fields(scanner)}


class _Scanner:
    """Decodes a stream through a window that grows only if a value does not fit into it."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._name = name
        self._stream = stream
        self._text_decoder = codecs.getincrementaldecoder(_encoding(stream))("surrogatepass")
        self._decoder = json.JSONDecoder(strict=False, object_pairs_hook=_object_of)
        self._window = ""
        self._at = 0
        self._ended = False
        self._lines_counted_to = 0
        self._line = 1

    @property
    def line(self) -> int:
        """Line of the next character, from 1."""
        if self._at > self._lines_counted_to:
            self._line += self._window.count("\n", self._lines_counted_to, self._at)
            self._lines_counted_to = self._at
        return self._line

    def error(self, what: str, *, hint: str | None = None) -> InputError:
        """An InputError with the stream's name and the line."""
        return InputError(f"{self._name}, line {self.line} {what}", hint=hint)

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._at < len(self._window):
                character = self._window[self._at]
                if character not in _SPACE:
                    return character
                self._at += 1
            if not self._more():
                return ""

    def take(self, character: str) -> None:
        """Step over this character; raises InputError if the next one is another."""
        found = self.peek()
        if not found:
            raise self.error("is truncated", hint="the file was not written to its end")
        if found != character:
            raise self.error(f"is not JSON: {character!r} expected, {found!r} found", hint=_REWRITE)
        self._at += 1

    def name(self) -> str:
        """The name of a field, and the colon after it."""
        if self.peek() != '"':
            self.take('"')
        name = self.value()
        self.take(":")
        return str(name)

    def small_value(self) -> Any:
        """The next value if it is no longer than `_SMALL` reads. Otherwise None, and the position stays."""
        longest = _SMALL * _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                missing = longest - (len(self._window) - self._at)
                if missing > 0 and self._may_be_incomplete(error) and self._more():
                    continue
                return None
            except (ValueError, RecursionError):
                return None
            if end - self._at > longest:
                return None
            return self._taken(value, end)

    def value(self) -> Any:
        """The next value; reads as much as it needs."""
        while True:
            self.peek()
            try:
                value, end = self._decoder.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                if self._ended or not self._may_be_incomplete(error):
                    raise self._broken(error) from error
                self._more(at_least=len(self._window) - self._at)
                continue
            except (ValueError, RecursionError) as error:
                raise self.error(f"holds a value that cannot be read: {error}") from error
            if isinstance(value, int | float) and end > len(self._window) - 3 and self._more():
                continue  # more digits, a fraction or an exponent may follow
            return self._taken(value, end)

    def _taken(self, value: Any, end: int) -> Any:
        """Step over a value, and take the wrappers of Extended JSON off it."""
        is_extended = self._window.find('"$', self._at, end) >= 0
        self._at = end
        return plain(value) if is_extended else value

    def _may_be_incomplete(self, error: json.JSONDecodeError) -> bool:
        return error.pos >= len(self._window) - _NEAR_END or error.msg.startswith("Unterminated string")

    def _broken(self, error: json.JSONDecodeError) -> InputError:
        rest = self._window[error.pos :]
        truncated = error.msg.startswith("Unterminated string") or any(word.startswith(rest) for word in _WORDS)
        self._at = min(max(error.pos, self._at), len(self._window))
        if truncated:
            return self.error("is truncated", hint="the file was not written to its end")
        before = self._window[: self._at].rstrip()
        is_comma = self._window[self._at : self._at + 1] in (",", "]", "}") and (rest[:1] == "," or before[-1:] == ",")
        if is_comma:
            return self.error("is not JSON: a comma with nothing after it", hint=_COMMAS)
        hint = next((hint for begins, hint in _HINTS if rest.startswith(begins)), _REWRITE)
        return self.error(f"is not JSON: {error.msg}", hint=hint)

    def _more(self, at_least: int = 0) -> bool:
        """Read more, and drop what was stepped over. False at the end of the stream."""
        if self._ended:
            return False
        line = self.line
        try:
            data = self._stream.read(max(_CHUNK, at_least))
            chunk = self._text_decoder.decode(data, final=not data)
        except UnicodeError as error:
            raise InputError(
                f"{self._name}, after line {line} is not text: {error}",
                hint="save it as UTF-8; from Windows: `iconv -f WINDOWS-1252 -t UTF-8 FILE`",
            ) from error
        if not data:
            self._ended = True
            return False
        self._window = self._window[self._at :] + chunk
        self._at = self._lines_counted_to = 0
        return True


def _object_of(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object.

    Raises ValueError if a field occurs twice, because a decoder keeps only the last one. This applies to fields of a
    memory, and to lists and objects, which may contain memories.
    """
    value = dict(fields)
    if len(value) != len(fields):
        for name, one in fields:
            if (name in _ONCE or (isinstance(one, list | dict) and one)) and value[name] != one:
                raise ValueError(f"it has {name!r} twice, with different values")
    return value


def _encoding(stream: BinaryIO) -> str:
    """UTF-8, UTF-16 or UTF-32, with or without a byte order mark: the first letter of JSON is ASCII."""
    head = stream.read(4)
    stream.seek(0)
    found = json.detect_encoding(head)
    return "utf-8-sig" if found == "utf-8" else found
