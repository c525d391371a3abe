"""Reads a listing page by page, in any published format, and always comes to an end.

Three formats are published: a bare list and `{name: […]}`, both asked for by offset, and a page with a cursor. A
server may ignore the limit, the offset, or both; it may cut a bare list without saying so; it may give a cursor
beside `hasMore: false`, or the same cursor for ever.
"""

from __future__ import annotations

from typing import Any

from spectron_migrate.records import Json

PAGE = 500
PAGES_WITHOUT_ROWS = 20
"""After this many pages in succession with new cursors and nothing else new, the listing counts as broken."""


class NotAListing(Exception):
    """The server answered something other than a listing, or a listing without an end."""


class Paging:
    """The state of one listing; `params` are those of the next request, None at the end."""

    def __init__(self, name: str, key: str) -> None:
        """`name`: the field of the rows; `key`: the field that tells them apart."""
        self.params: dict[str, str] | None = {"limit": str(PAGE)}
        self.total: int | None = None
        """How many rows the server counts, if it was asked (`count=true`)."""
        self._name = name
        self._key = key
        self._seen: set[str] = set()
        self._cursors: set[str] = set()
        self._without_rows = 0
        self._limited = True

    def read(self, body: Any) -> list[dict[str, Json]]:
        """The rows of a page that no earlier page had; raises NotAListing."""
        rows = body if isinstance(body, list) else body.get(self._name) if isinstance(body, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and self._key in row for row in rows):
            raise NotAListing("with something else")
        new = []
        for row in rows:
            key = str(row[self._key])
            if key not in self._seen:
                self._seen.add(key)
                new.append(row)
        page = _page_of(body)
        if isinstance(page, dict) and isinstance(page.get("totalSize"), int):
            self.total = max(self.total or 0, page["totalSize"])
        self.params = self._after_cursor(page, new) if isinstance(page, dict) else self._after_offset(rows, new)
        return new

    def _after_cursor(self, page: dict[str, Json], new: list[dict[str, Json]]) -> dict[str, str] | None:
        """A short page is not the last one: only a missing cursor, or `hasMore: false`, ends the listing.

        If there is more but no cursor, the rest is asked for by offset.
        """
        has_more, cursor = _flag(page.get("hasMore")), _cursor(page.get("nextCursor"))
        if has_more is True and not cursor:
            if not new:
                raise NotAListing("without a cursor, and with more rows that it does not show")
            return {"limit": str(PAGE), "offset": str(len(self._seen))}
        if not cursor or has_more is False:
            return None
        if cursor in self._cursors:
            if has_more is True:
                raise NotAListing("with the same cursor twice, and with more rows that it does not show")
            return None
        self._cursors.add(cursor)
        self._without_rows = 0 if new else self._without_rows + 1
        if self._without_rows >= PAGES_WITHOUT_ROWS:
            raise NotAListing(f"with {PAGES_WITHOUT_ROWS} pages in a row that have nothing new, and no end")
        return {"limit": str(PAGE), "cursor": cursor}

    def _after_offset(self, rows: list[Any], new: list[dict[str, Json]]) -> dict[str, str] | None:
        """Go on by offset until nothing new comes.

        If the server ignores the offset, a list that is exactly as long as the limit is asked for without a limit.
        """
        if not self._limited or len(rows) > PAGE or not rows:
            return None
        if new:
            return {"limit": str(PAGE), "offset": str(len(self._seen))}
        if len(rows) < PAGE:
            return None
        self._limited = False
        return {}


def _page_of(body: Any) -> Any:
    """The part of a body that says whether there is more. Some servers have it beside the rows."""
    if not isinstance(body, dict) or isinstance(body.get("page"), dict):
        return body.get("page") if isinstance(body, dict) else None
    return body if "nextCursor" in body or "hasMore" in body else None


def _flag(value: Json) -> bool | None:
    """True or false, also as numbers and as words; None for anything else."""
    word = str(value).lower() if isinstance(value, bool | int | str) else ""
    return True if word in ("true", "1") else (False if word in ("false", "0") else None)


def _cursor(value: Json) -> str:
    """A cursor as it is sent back, empty if there is none; raises NotAListing for one that cannot be sent back."""
    if isinstance(value, dict | list):
        raise NotAListing("with a cursor that is no text")
    return str(value) if value or (value == 0 and not isinstance(value, bool)) else ""
