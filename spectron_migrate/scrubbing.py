"""Removes a key from what a server says: some servers repeat the Authorization header in their errors."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from urllib.parse import quote

from spectron_migrate.records import Json

SHORTEST_KEY = 6
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
"""As `html.escape`; importing that loads the names of two thousand letters."""
_LIKE_ASCII = "\u0130\u0131\u017f\u212a"
"""Letters that equal an ASCII letter (i, s, k) if case is ignored, but whose lower case is another letter."""
SCRUBBED = "***"
"""Replaces the API key if a server repeats it."""
_ESCAPED_IN_JSON = re.compile(r"\\(?:u00([2-7][0-9a-fA-F])|/)")
"""An ASCII character that needs no escape, but that some servers escape nevertheless."""


class Scrubber:
    """Removes the API key from what a server says: some repeat the Authorization header in their errors.

    Texts of memories in a successful response stay as they are, because they are compared letter by letter.
    """

    def __init__(self, api_key: str) -> None:
        """A key shorter than `SHORTEST_KEY` is not removed: it is no secret, and part of ordinary words."""
        spellings = {api_key, quote(api_key, safe=""), api_key.translate(_HTML), json.dumps(api_key)[1:-1]}
        spellings |= {api_key.encode().hex(), *_in_base64(api_key.encode())}
        words = sorted(filter(None, spellings), key=len, reverse=True)
        is_secret = len(api_key) >= SHORTEST_KEY
        self._words = [word.lower() for word in words]
        self._key = re.compile("|".join(map(re.escape, words)), re.IGNORECASE) if is_secret else None
        self._any_spelling = re.compile(_any_spelling(api_key), re.IGNORECASE) if is_secret else None

    def text(self, text: str, *, is_error: bool = True) -> str:
        """Remove the key from a text. `is_error`: an error is short, so it is searched for the key letter by letter."""
        key = self._any_spelling if is_error else self._key if self._may_be_in(text) else None
        return key.sub(SCRUBBED, text) if key is not None else text

    def _may_be_in(self, text: str) -> bool:
        """Whether the pattern for successful responses may match.

        For a large body this takes a twentieth of the time.
        """
        lower = text.lower()
        if any(word in lower or not word.isascii() for word in self._words):
            return True
        return not text.isascii() and any(letter in text for letter in _LIKE_ASCII)

    def is_in(self, error: BaseException | None) -> bool:
        """Whether an error, or one that it comes from, shows the key: an application may log all of them."""
        while error is not None:
            if self.text(str(error)) != str(error):
                return True
            error = error.__cause__ or error.__context__
        return False

    def raw(self, raw: bytes, *, is_error: bool) -> bytes:
        text = raw.decode("utf-8", "replace")
        if not is_error and (r"\u00" in text or r"\/" in text):
            text = _ESCAPED_IN_JSON.sub(lambda found: chr(int(found[1], 16)) if found[1] else "/", text)
        scrubbed = self.text(text, is_error=is_error)
        return raw if scrubbed == text else scrubbed.encode()

    def json(self, value: Json, *, keep: frozenset[str]) -> Json:
        """Remove the key from every string of a body, except those of the fields in `keep`."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.json(each, keep=keep) for each in value]
        if isinstance(value, dict):
            return {
                self.text(name): each if name in keep else self.json(each, keep=keep) for name, each in value.items()
            }
        return value


def _any_spelling(key: str) -> str:
    """A pattern of the key with each letter as it is or escaped, wrapped anywhere, and of its hex and base64 forms."""
    letters = (rf"\\*(?:{re.escape(letter)}|{'|'.join(_escapes(letter))})" for letter in key)
    encoded = sorted({key.encode().hex(), *_in_base64(key.encode())}, key=len, reverse=True)
    return "|".join([r"\s*".join(letters), *(r"[\s:-]*".join(map(re.escape, word)) for word in encoded)])


def _escapes(letter: str) -> Iterator[str]:
    """The escapes of a letter in URLs (also escaped twice), HTML, JSON, Python and mail."""
    number = ord(letter)
    yield "".join(f"%(?:25)*{byte:02x}" for byte in letter.encode())
    yield "".join(f"={byte:02x}" for byte in letter.encode())
    yield f"&#0*{number};"
    yield f"&#x0*{number:x};"
    yield f"u{number:04x}"
    yield f"x{number:02x}"
    if ord(letter) in _HTML:
        yield re.escape(letter.translate(_HTML))


def _in_base64(key: bytes) -> Iterator[str]:
    """What the key looks like in the base64 of any text that contains it, such as a whole Authorization header.

    Three bytes become four characters, so that depends on where the key begins. Characters that also encode its
    neighbours are left out.
    """
    for before in range(3):
        for encoded in (b64encode(bytes(before) + key), urlsafe_b64encode(bytes(before) + key)):
            yield encoded.decode()[-(-before * 8 // 6) : (before + len(key)) * 8 // 6]
