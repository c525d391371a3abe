"""`routing.json`: which system an application reads from. Applications evaluate it for every read, in any language.

The file is small, contains no ids in clear text, and can be evaluated in ten lines without this package.
docs/routing.md has the rule in Python and TypeScript, configs/routing.schema.json the schema. This module uses the
standard library alone, because applications import it.

The rule, for the id of a read (`user_id`, else `agent_id`, else `run_id`, else `app_id`):

1. `name` is the first 16 hexadecimal digits of SHA-256 over `<migration>:<id>` in UTF-8.
2. The read goes to Mem0 if `name` is in `behind`, if `behind` is null, or if `fresh_until` (seconds since 1970; null:
   never) has passed: not all of this user's memories are known to be in Spectron.
3. Otherwise, if `name` is in `pinned.spectron` or `pinned.mem0`, the read goes there.
4. Otherwise it goes to Spectron if `name`, as a number, modulo 10,000 is less than `percent` * 100; else to Mem0.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from spectron_migrate.files.atomic import replace_file

FILE = "routing.json"
SCHEMA = 1
BUCKETS = 10_000
MOST_BEHIND = 5_000
"""If more users than this are behind, they are not listed: everybody counts as behind."""
MOST_BYTES = 4_000_000
CHECK_EVERY_S = 0.5
"""How often a reader checks the file for changes. A revert must reach readers within a second."""
FETCH_TIMEOUT_S = 5.0

Phase = Literal["mem0", "started", "shift", "closing", "complete"]
PHASES: tuple[Phase, ...] = ("mem0", "started", "shift", "closing", "complete")
CatchUp = Literal["follow", "outbox"]
Route = Literal["mem0", "spectron", "behind"]
"""Where a read goes. `behind` is read from Mem0 as well, because not all of the user's memories are in Spectron yet."""

_log = logging.getLogger("spectron_migrate.routing")


@dataclass(frozen=True, slots=True)
class Routing:
    """The contents of `routing.json`. The defaults, for a missing file, send every read to Mem0."""

    migration: str = ""
    phase: Phase = "mem0"
    percent: float = 0
    """Share of users to read from Spectron: 0 to 100, at most two decimals."""
    pinned_to_spectron: frozenset[str] = frozenset()
    """Names (`name_of`) of users that are read from Spectron whatever `percent` is."""
    pinned_to_mem0: frozenset[str] = frozenset()
    """Names of users that are read from Mem0 whatever `percent` is."""
    epoch: int = 0
    """Rises with every step of the cutover."""
    catch_up: CatchUp = "follow"
    fence: str | None = None
    """When the cutover began; RFC 3339."""
    as_of: str | None = None
    """What Mem0 held at this time is in Spectron, except for users in `behind`; RFC 3339."""
    fresh_until: float | None = 0.0
    """Until when `as_of` and `behind` are valid, in seconds since 1970; None: forever."""
    behind: frozenset[str] | None = None
    """Names of users with changes that are not in Spectron yet; None: everybody."""
    updated_at: str = ""
    schema: int = SCHEMA

    def route(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        app_id: str | None = None,
        now: float | None = None,
    ) -> Route:
        """Where a read by these ids goes; `now` in seconds since 1970. Without any id it goes to Mem0."""
        if self.phase == "complete":
            return "spectron"
        subject = subject_of(user_id=user_id, agent_id=agent_id, run_id=run_id, app_id=app_id)
        if subject is None:
            return "mem0"
        name = name_of(self.migration, subject)
        if name in self.pinned_to_mem0 or (
            name not in self.pinned_to_spectron and bucket_of(name) >= self.percent * 100
        ):
            return "mem0"
        return "spectron" if self.is_caught_up(name, time.time() if now is None else now) else "behind"

    def is_caught_up(self, name: str, now: float) -> bool:
        """Whether all of a user's changes are known at `now` to be in Spectron."""
        if self.behind is None or name in self.behind:
            return False
        return self.fresh_until is None or now <= self.fresh_until

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        fields = asdict(self)
        pinned = {"spectron": sorted(fields.pop("pinned_to_spectron")), "mem0": sorted(fields.pop("pinned_to_mem0"))}
        behind = None if self.behind is None else sorted(self.behind)
        return {**fields, "pinned": pinned, "behind": behind}

    @classmethod
    def from_json(cls, value: Any) -> Routing:
        """The inverse of `to_json`. Ignores unknown fields, raises ValueError for anything else."""
        try:
            pinned, behind = value["pinned"], value["behind"]
            routing = cls(
                migration=_text(value["migration"]),
                phase=_word(value["phase"], PHASES),
                percent=_number(value["percent"], most=100),
                pinned_to_spectron=frozenset(_names(pinned["spectron"])),
                pinned_to_mem0=frozenset(_names(pinned["mem0"])),
                epoch=int(_number(value["epoch"])),
                catch_up=_word(value["catch_up"], ("follow", "outbox")),
                fence=_text_or_none(value["fence"]),
                as_of=_text_or_none(value["as_of"]),
                fresh_until=None if value["fresh_until"] is None else _number(value["fresh_until"]),
                behind=None if behind is None else frozenset(_names(behind)),
                updated_at=_text(value["updated_at"]),
                schema=int(_number(value["schema"])),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a routing: {error}") from None
        if routing.schema != SCHEMA:
            raise ValueError(f"schema {routing.schema}, this version reads schema {SCHEMA}")
        return routing


def subject_of(
    *,
    user_id: str | None = None,
    agent_id: str | None = None,
    run_id: str | None = None,
    app_id: str | None = None,
) -> str | None:
    """The id that a read is about."""
    return next((each for each in (user_id, agent_id, run_id, app_id) if each is not None), None)


def name_of(migration: str, subject: str) -> str:
    """The name of an id in the file: 16 hexadecimal digits, different in every migration."""
    return hashlib.sha256(f"{migration}:{subject}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def bucket_of(name: str) -> int:
    """0 to 9,999. A user keeps the same bucket, so raising the percentage only adds users."""
    return int(name, 16) % BUCKETS


def read_routing(path: Path) -> Routing | None:
    """The routing in a file; None if there is none. Raises ValueError if it cannot be read or is not a routing."""
    try:
        with path.open("rb") as file:
            return _parse(file.read(MOST_BYTES + 1))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None


def write_routing(path: Path, routing: Routing) -> None:
    """Replace the file atomically and durably.

    It is readable by everybody who can enter the directory, because an application often runs as a different user
    than the migration; it contains no ids in clear text. Raises OSError.
    """
    data = (json.dumps(routing.to_json(), indent=1, allow_nan=False) + "\n").encode()
    replace_file(path, data, durable=True, mode=0o644)


@dataclass
class _LastRead:
    """What a reader last got from its source."""

    routing: Routing = field(default_factory=Routing)
    problem: str | None = "not read yet"
    stamp: Any = None
    """Changes with the source: inode, size and time of a file, ETag of an address."""
    expires: float = math.inf
    """When `fresh_until` passes, by the reader's monotonic clock."""


class RoutingReader:
    """The newest routing from a file or an https address, for an application that asks at every read.

    `current` reads a clock, and calls `stat` on the file twice a second. An address is fetched by a background thread,
    so no read ever waits for the network. If the source is broken or missing, the last good routing stays in force,
    `problem` says why, and one line is logged. A routing that is not renewed expires (`fresh_until`): a reader that
    lost its source reads from Mem0 in the end. A wall clock that is behind, or was set back, does not prolong it.
    """

    def __init__(
        self,
        source: Path | str,
        *,
        check_every_s: float = CHECK_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`source`: the file, its state directory, or an address.

        `clock`: monotonic seconds; `now`: seconds since 1970. Raises ValueError for an address that is neither https
        nor on this machine.
        """
        text = str(source)
        self._url = text if "://" in text else None
        if self._url is not None and not _may_be_fetched(self._url):
            raise ValueError("the address of a routing must be https, or on this machine")
        path = Path(text)
        self._path = path if path.suffix == ".json" else path / FILE
        self._last = _LastRead()
        self._every_s = check_every_s
        self._clock = clock
        self._now = now
        self._next_look = float("-inf")
        self._fetcher: threading.Thread | None = None
        self._pid = 0
        self._closed = threading.Event()

    @property
    def problem(self) -> str | None:
        """Why `current` may be out of date; None if the source was read at the last attempt."""
        return self._last.problem

    def current(self) -> Routing:
        """The newest good routing. Never raises and never waits for the network."""
        now = self._clock()
        if self._url is not None:
            self._keep_fetching()
        elif now >= self._next_look:
            self._next_look = now + self._every_s
            self._read_file()
        last = self._last
        if now >= last.expires:
            last.routing, last.expires = replace(last.routing, fresh_until=0.0), math.inf
        return last.routing

    def close(self) -> None:
        """Stop the background thread, if there is one."""
        self._closed.set()

    def _read_file(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            if stamp == self._last.stamp and self._last.problem is None:
                return
            with self._path.open("rb") as file:
                routing = _parse(file.read(MOST_BYTES + 1))
        except (OSError, ValueError) as error:
            self._keep_the_last(f"{self._path}: {getattr(error, 'strerror', None) or error}")
            return
        self._take(routing, stamp)

    def _keep_fetching(self) -> None:
        if self._fetcher is not None and self._pid == os.getpid():  # threads do not survive a fork
            return
        self._pid = os.getpid()
        self._fetcher = threading.Thread(target=self._fetch_forever, name="spectron-routing", daemon=True)
        self._fetcher.start()

    def _fetch_forever(self) -> None:
        while not self._closed.is_set():
            self.fetch()
            self._closed.wait(self._every_s)

    def fetch(self) -> None:
        """Fetch the address now. An application calls this only if its very first read must not go to Mem0."""
        from urllib.error import HTTPError
        from urllib.request import HTTPRedirectHandler, Request, build_opener

        class NoRedirect(HTTPRedirectHandler):
            """A redirect is an error: only the application's configuration decides where the routing comes from."""

            def redirect_request(self, *_: Any, **__: Any) -> None:
                return None

        headers = {"Accept": "application/json", "User-Agent": "spectron-migrate"}
        if self._last.stamp is not None:
            headers["If-None-Match"] = self._last.stamp
        try:
            request = Request(self._url or "", headers=headers)  # noqa: S310 - the scheme was checked
            with build_opener(NoRedirect).open(request, timeout=FETCH_TIMEOUT_S) as answer:
                self._take(_parse(answer.read(MOST_BYTES + 1)), answer.headers.get("ETag"))
        except HTTPError as error:
            error.close()
            if error.code == 304:
                self._last.problem = None
            else:
                self._keep_the_last(f"{self._url}: answered {error.code}")
        except Exception as error:  # nothing that a network does may fail an application's read
            self._keep_the_last(f"{self._url}: {getattr(error, 'reason', None) or error}")

    def _take(self, routing: Routing, stamp: Any) -> None:
        if self._last.routing.epoch > routing.epoch and self._last.routing.migration == routing.migration:
            self._keep_the_last(f"{self._url or self._path}: older than the last one read")
            return
        if self._last.problem not in (None, "not read yet"):
            _log.warning("routing: can be read again, epoch %d, %s", routing.epoch, routing.phase)
        self._last = _LastRead(routing, None, stamp, self._clock() + _expires_in_s(routing, self._now()))

    def _keep_the_last(self, problem: str) -> None:
        if problem != self._last.problem:
            _log.warning("routing: the last good one stays in force: %s", problem)
            self._last.problem = problem


def _expires_in_s(routing: Routing, now: float) -> float:
    """Seconds until it expires: by the wall clock, but at most the period it was written for."""
    if routing.fresh_until is None:
        return math.inf
    remaining_s = routing.fresh_until - now
    with suppress(ValueError, TypeError):
        remaining_s = min(remaining_s, routing.fresh_until - datetime.fromisoformat(routing.as_of or "").timestamp())
    return max(0.0, remaining_s)


def _may_be_fetched(url: str) -> bool:
    with suppress(ValueError):
        parts = urlsplit(url)
        host = parts.hostname or ""
        return parts.scheme == "https" or (parts.scheme == "http" and host in ("localhost", "127.0.0.1", "::1"))
    return False


def _parse(data: bytes) -> Routing:
    if len(data) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES:,} bytes")
    try:
        return Routing.from_json(json.loads(data))
    except RecursionError:
        raise ValueError("not a routing: nested too deeply") from None


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError("not a list of names")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number(value: Any, most: float = 1e15) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise TypeError("not a number, or out of range")
    return value


def _word(value: Any, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise TypeError(f"{str(value)[:40]!r} is none of {', '.join(known)}")
    return value
