"""Rows out of JSON of any size, one at a time: the file never comes into memory as a whole."""

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
_CUT_WITHIN = 16
"""An error this near to the end of what was read so far may only mean that more has to be read."""


@dataclass(frozen=True, slots=True)
class Event:
    """A row, a relation beside the rows, or the end of an envelope that held rows."""

    kind: Literal["row", "relation", "envelope"]
    value: Json
    line: int
    head: dict[str, Json] | None = None
    """What stood beside the rows in their envelope, as far as it was read."""


def events(stream: BinaryIO, name: str) -> Iterator[Event]:
    """Everything in a JSON or JSON Lines stream, in order, any mixture of shapes after one another.

    Raises InputError with name and line where the stream is cut off, is no JSON, or holds something that can
    be no row.
    """
    scanner = _Scanner(stream, name)
    if not scanner.peek():
        raise InputError(f"{name} is empty: nothing was written to it")
    while letter := scanner.peek():
        if letter == "[":
            yield from _array(scanner, "row", None)
        elif letter == "{":
            yield from _object(scanner)
        else:
            scanner.value()  # a cut or broken file is told first
            raise scanner.error("is JSON, but no dump of Mem0")


def _array(scanner: _Scanner, kind: Literal["row", "relation"], head: dict[str, Json] | None) -> Iterator[Event]:
    scanner.take("[")
    if scanner.peek() == "]":
        scanner.take("]")
        return
    while True:
        scanner.peek()
        line = scanner.line
        yield Event(kind, scanner.value(), line, head)
        if scanner.peek() == ",":
            scanner.take(",")
        else:
            scanner.take("]")
            return


def _object(scanner: _Scanner) -> Iterator[Event]:
    """An object is a row, unless it holds a list of rows: then it is their envelope."""
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
    yield Event("envelope" if is_envelope else "row", fields, line)


def _decoded(whole: dict[str, Json], line: int) -> Iterator[Event]:
    lists = [name for name in _LISTS_OF_ROWS if isinstance(whole.get(name), list)]
    if not lists:
        yield Event("row", whole, line)
        return
    head = {name: value for name, value in whole.items() if name not in lists and name != "relations"}
    for name in lists:
        for row in whole[name]:
            yield Event("row", row, line, head)
    relations = whole.get("relations")
    if isinstance(relations, list):
        for relation in relations:
            yield Event("relation", relation, line)
    yield Event("envelope", head, line)


class _Scanner:
    """A window over the text that grows only while one value does not fit."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._name = name
        self._stream = stream
        self._letters = codecs.getincrementaldecoder(_encoding(stream))("surrogatepass")
        self._decoder = json.JSONDecoder(strict=False)
        self._window = ""
        self._at = 0
        self._ended = False
        self._counted = 0
        self._lines = 1

    @property
    def line(self) -> int:
        """The line of the next letter, from 1."""
        if self._at > self._counted:
            self._lines += self._window.count("\n", self._counted, self._at)
            self._counted = self._at
        return self._lines

    def error(self, what: str, *, hint: str | None = None) -> InputError:
        """An InputError that names stream and line."""
        return InputError(f"{self._name}, line {self.line} {what}", hint=hint)

    def peek(self) -> str:
        """The next letter that is no space, or nothing at the end."""
        while True:
            while self._at < len(self._window):
                letter = self._window[self._at]
                if letter not in _SPACE:
                    return letter
                self._at += 1
            if not self._more():
                return ""

    def take(self, letter: str) -> None:
        """Step over the letter that has to stand here."""
        found = self.peek()
        if not found:
            raise self.error("is cut off", hint="the file was not written to its end")
        if found != letter:
            raise self.error(f"is no JSON: {letter!r} expected, {found!r} found")
        self._at += 1

    def name(self) -> str:
        """The name of a field, and the colon after it."""
        if self.peek() != '"':
            self.take('"')
        name = self.value()
        self.take(":")
        return str(name)

    def small_value(self) -> Any:
        """The next value if it lies in the window already, else None and nothing is stepped over."""
        try:
            value, end = self._decoder.raw_decode(self._window, self._at)
        except (ValueError, RecursionError):
            return None
        self._at = end
        return value

    def value(self) -> Any:
        """The next value, however much has to be read for it."""
        while True:
            self.peek()
            try:
                value, end = self._decoder.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                if self._ended or not self._may_be_cut(error):
                    raise self._broken(error) from error
                self._more(at_least=len(self._window) - self._at)
                continue
            except (ValueError, RecursionError) as error:
                raise self.error(f"holds a value that cannot be read: {error}") from error
            if isinstance(value, int | float) and end > len(self._window) - 3 and self._more():
                continue  # a number may go on in what was not read yet, after a point or an exponent too
            self._at = end
            return value

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        return error.pos >= len(self._window) - _CUT_WITHIN or error.msg.startswith("Unterminated string")

    def _broken(self, error: json.JSONDecodeError) -> InputError:
        rest = self._window[error.pos :]
        cut = error.msg.startswith("Unterminated string") or any(word.startswith(rest) for word in _WORDS)
        self._at = min(max(error.pos, self._at), len(self._window))
        if cut:
            return self.error("is cut off", hint="the file was not written to its end")
        return self.error(f"is no JSON: {error.msg}")

    def _more(self, at_least: int = 0) -> bool:
        """Read on, dropping what was stepped over; False at the end of the stream."""
        if self._ended:
            return False
        line = self.line
        try:
            data = self._stream.read(max(_CHUNK, at_least))
            chunk = self._letters.decode(data, final=not data)
        except UnicodeError as error:
            raise InputError(f"{self._name}, after line {line} is no text: {error}") from error
        if not data:
            self._ended = True
            return False
        self._window = self._window[self._at :] + chunk
        self._at = self._counted = 0
        return True


def _encoding(stream: BinaryIO) -> str:
    """UTF-8 with or without a mark at its beginning; UTF-16 where its mark says so (a shell's redirection)."""
    head = stream.read(2)
    stream.seek(0)
    return "utf-16" if head in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
