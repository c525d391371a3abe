"""Yields rows from JSON of any size one at a time, without loading the whole file into memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from spectron_migrate.errors import InputError
from spectron_migrate.records import Json

_CHUNK = 1 << 18
_SPACE = " \t\n\r"
_LISTS_OF_ROWS = ("results", "memories", "records")
_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_NEAR_END = 16
"""A decoding error this close to the end of the window may only mean that more has to be read."""


@dataclass(frozen=True, slots=True)
class JsonItem:
    """A row, a relation beside the rows, or the end of an envelope (an object that holds a list of rows)."""

    kind: Literal["row", "relation", "envelope"]
    value: Json
    line: int
    head: dict[str, Json] | None = None
    """The other fields of the envelope, as far as they were read."""


def read_items(stream: BinaryIO, name: str) -> Iterator[JsonItem]:
    """Everything in a JSON or JSON Lines stream, in order, in any mixture of formats.

    Raises InputError with name and line if the stream is truncated, is not JSON, or holds a value that is not a row.
    """
    scanner = _Scanner(stream, name)
    if not scanner.peek():
        raise InputError(f"{name} is empty: nothing was written to it")
    while character := scanner.peek():
        if character == "[":
            yield from _array(scanner, "row", None)
        elif character == "{":
            yield from _object(scanner)
        else:
            scanner.value()  # raises for a truncated or broken file
            raise scanner.error("is JSON, but not a dump of Mem0")


def _array(scanner: _Scanner, kind: Literal["row", "relation"], head: dict[str, Json] | None) -> Iterator[JsonItem]:
    scanner.take("[")
    if scanner.peek() == "]":
        scanner.take("]")
        return
    while True:
        scanner.peek()
        line = scanner.line
        yield JsonItem(kind, scanner.value(), line, head)
        if scanner.peek() == ",":
            scanner.take(",")
        else:
            scanner.take("]")
            return


def _object(scanner: _Scanner) -> Iterator[JsonItem]:
    """A row, or an envelope if the object holds a list of rows."""
    line = scanner.line
    whole = scanner.small_value()
    if whole is not None:
        yield from _decoded(whole, line)
        return
    fields: dict[str, Json] = {}
    is_envelope = False
    scanner.take("{")
    while scanner.peek() != "}":
        name = scanner.name()
        if name in _LISTS_OF_ROWS and scanner.peek() == "[":
            is_envelope = True
            yield from _array(scanner, "row", fields)
        elif name == "relations" and scanner.peek() == "[":
            yield from _array(scanner, "relation", None)
        else:
            fields[name] = scanner.value()
        if scanner.peek() == ",":
            scanner.take(",")
        elif scanner.peek() != "}":
            break
    scanner.take("}")
    yield JsonItem("envelope" if is_envelope else "row", fields, line)


def _decoded(whole: dict[str, Json], line: int) -> Iterator[JsonItem]:
    lists = [name for name in _LISTS_OF_ROWS if isinstance(whole.get(name), list)]
    if not lists:
        yield JsonItem("row", whole, line)
        return
    head = {name: value for name, value in whole.items() if name not in lists and name != "relations"}
    for name in lists:
        for row in whole[name]:
            yield JsonItem("row", row, line, head)
    relations = whole.get("relations")
    if isinstance(relations, list):
        for relation in relations:
            yield JsonItem("relation", relation, line)
    yield JsonItem("envelope", head, line)


class _Scanner:
    """Decodes a stream through a window that grows only while one value does not fit into it."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._name = name
        self._stream = stream
        self._text_decoder = codecs.getincrementaldecoder(_encoding(stream))("surrogatepass")
        self._decoder = json.JSONDecoder(strict=False)
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
            raise self.error(f"is not JSON: {character!r} expected, {found!r} found")
        self._at += 1

    def name(self) -> str:
        """The name of a field, and the colon after it."""
        if self.peek() != '"':
            self.take('"')
        name = self.value()
        self.take(":")
        return str(name)

    def small_value(self) -> Any:
        """The next value if it is completely in the window; otherwise None, and the position stays."""
        try:
            value, end = self._decoder.raw_decode(self._window, self._at)
        except (ValueError, RecursionError):
            return None
        self._at = end
        return value

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
            self._at = end
            return value

    def _may_be_incomplete(self, error: json.JSONDecodeError) -> bool:
        return error.pos >= len(self._window) - _NEAR_END or error.msg.startswith("Unterminated string")

    def _broken(self, error: json.JSONDecodeError) -> InputError:
        rest = self._window[error.pos :]
        truncated = error.msg.startswith("Unterminated string") or any(word.startswith(rest) for word in _WORDS)
        self._at = min(max(error.pos, self._at), len(self._window))
        if truncated:
            return self.error("is truncated", hint="the file was not written to its end")
        return self.error(f"is not JSON: {error.msg}")

    def _more(self, at_least: int = 0) -> bool:
        """Read more and drop what was stepped over; False at the end of the stream."""
        if self._ended:
            return False
        line = self.line
        try:
            data = self._stream.read(max(_CHUNK, at_least))
            chunk = self._text_decoder.decode(data, final=not data)
        except UnicodeError as error:
            raise InputError(f"{self._name}, after line {line} is not text: {error}") from error
        if not data:
            self._ended = True
            return False
        self._window = self._window[self._at :] + chunk
        self._at = self._lines_counted_to = 0
        return True


def _encoding(stream: BinaryIO) -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 with one (as written by a shell's redirection)."""
    head = stream.read(2)
    stream.seek(0)
    return "utf-16" if head in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
