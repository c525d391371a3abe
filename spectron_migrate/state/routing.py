"""`routing.json`: from where an application reads, decided again for every read, in any language.

One small file is all that an application has to know: nobody is named in it, nothing is computed with it that
ten lines cannot compute, and a reader needs no clock of ours but its own. `configs/routing.schema.json` is its
published form. Standard library alone, because applications import this.

The rule, for the id that a read is about (`user_id`, else `agent_id`, else `run_id`, else `app_id`):

1. `name` = the first 16 hexadecimal digits of SHA-256 over `<migration>:<id>`, in UTF-8;
2. not caught up is whoever stands in `behind` (null: everybody), and everybody once `fresh_until` has passed
   (seconds since 1970; null: never): such a read goes to Mem0;
3. who stands in `pinned.spectron` or `pinned.mem0` goes there;
4. everybody else goes to Spectron if `name`, read as a number, modulo 10,000 is below `percent` * 100.
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
"""More users than this are not listed one by one: then everybody is behind."""
MOST_BYTES = 4_000_000
CHECK_EVERY_S = 0.5
"""How often a reader looks whether the file changed: well below the second in which a revert has to work."""
FETCH_TIMEOUT_S = 5.0

Phase = Literal["mem0", "started", "shift", "closing", "complete"]
PHASES: tuple[Phase, ...] = ("mem0", "started", "shift", "closing", "complete")
CatchUp = Literal["follow", "outbox"]
Route = Literal["mem0", "spectron", "behind"]
"""Where a read goes; `behind` is Mem0 too, because what Mem0 holds is not all in Spectron yet."""

_log = logging.getLogger("spectron_migrate.routing")


@dataclass(frozen=True, slots=True)
class Routing:
    """What `routing.json` says. Without any file, everything is read from Mem0."""

    migration: str = ""
    phase: Phase = "mem0"
    percent: float = 0
    """0 to 100, at most two decimals: the share of users that is to be read from Spectron."""
    pinned_to_spectron: frozenset[str] = frozenset()
    """Names (`name_of`) of users that are pinned to Spectron."""
    pinned_to_mem0: frozenset[str] = frozenset()
    epoch: int = 0
    """Rises with every step of the cutover."""
    catch_up: CatchUp = "follow"
    fence: str | None = None
    """Since when the cutover is under way, RFC 3339."""
    as_of: str | None = None
    """All that Mem0 held at this moment is in Spectron, or its user stands in `behind`. RFC 3339."""
    fresh_until: float | None = 0.0
    """Seconds since 1970 until which `as_of` and `behind` may be relied on; None: for good."""
    behind: frozenset[str] | None = None
    """Names of users with changes on their way to Spectron; None: everybody."""
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
        """Whether a user's changes are all in Spectron, as far as is known at `now`."""
        if self.behind is None or name in self.behind:
            return False
        return self.fresh_until is None or now <= self.fresh_until

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        told = asdict(self)
        pinned = {"spectron": sorted(told.pop("pinned_to_spectron")), "mem0": sorted(told.pop("pinned_to_mem0"))}
        behind = None if self.behind is None else sorted(self.behind)
        return {**told, "pinned": pinned, "behind": behind}

    @classmethod
    def from_json(cls, value: Any) -> Routing:
        """The inverse of `to_json`; raises ValueError for anything else, fields it does not know aside."""
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
            raise ValueError(f"no routing: {error}") from None
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
    """What stands for an id in the file: 16 hexadecimal digits, another in every migration."""
    return hashlib.sha256(f"{migration}:{subject}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def bucket_of(name: str) -> int:
    """0 to 9,999: a user keeps it, so that a rising percentage only ever adds users."""
    return int(name, 16) % BUCKETS


def read_routing(path: Path) -> Routing | None:
    """What the file says, None where there is none; raises ValueError for a broken one."""
    try:
        with path.open("rb") as file:
            return _parse(file.read(MOST_BYTES + 1))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None


def write_routing(path: Path, routing: Routing) -> None:
    """Put it in place as a whole, durably: a reader sees the old file or the new one.

    It names nobody, so everybody who can enter the directory may read it: an application often runs as another
    user than the migration.
    """
    data = (json.dumps(routing.to_json(), indent=1, allow_nan=False) + "\n").encode()
    replace_file(path, data, durable=True, mode=0o644)


@dataclass
class _LastRead:
    """What a source gave last."""

    routing: Routing = field(default_factory=Routing)
    problem: str | None = "not read yet"
    stamp: Any = None
    """What tells that a file or an answer is the same as before."""
    runs_out: float = math.inf
    """When it may no longer be relied on, by the reader's own clock."""


class RoutingReader:
    """The newest routing of a file or an https address, for an application that asks at every read.

    `current` costs a look at the clock, and a `stat` of the file twice a second. An address is fetched by a thread
    of its own, so that no read ever waits for a network. What is broken or missing leaves the last good routing in
    force and is told: in `problem`, and once in the log. A routing that is not renewed runs out by itself
    (`fresh_until`), so that whoever lost its source ends up reading from Mem0; a wall clock that is put back, or is
    behind, does not make it last longer than it was meant to.
    """

    def __init__(
        self,
        source: Path | str,
        *,
        check_every_s: float = CHECK_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`source`: the file, the state directory it lies in, or an address.

        Raises ValueError for an address that is neither https nor on this machine. `clock` in seconds, monotonic;
        `now` in seconds since 1970.
        """
        text = str(source)
        self._url = text if "://" in text else None
        if self._url is not None and not _may_be_fetched(self._url):
            raise ValueError("the address of a routing must be https, or on this machine")
        path = Path(text)
        self._path = path if path.suffix == ".json" else path / FILE
        self._seen = _LastRead()
        self._every_s = check_every_s
        self._clock = clock
        self._now = now
        self._look_at = float("-inf")
        self._fetcher: threading.Thread | None = None
        self._pid = 0
        self._closed = threading.Event()

    @property
    def problem(self) -> str | None:
        """Why what `current` gives may be out of date; None while the source is read."""
        return self._seen.problem

    def current(self) -> Routing:
        """The newest good routing. Never raises, never waits for a network."""
        now = self._clock()
        if self._url is not None:
            self._keep_fetching()
        elif now >= self._look_at:
            self._look_at = now + self._every_s
            self._look()
        seen = self._seen
        if now >= seen.runs_out:
            seen.routing, seen.runs_out = replace(seen.routing, fresh_until=0.0), math.inf
        return seen.routing

    def close(self) -> None:
        """End the thread, where there is one."""
        self._closed.set()

    def _look(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            if stamp == self._seen.stamp and self._seen.problem is None:
                return
            with self._path.open("rb") as file:
                routing = _parse(file.read(MOST_BYTES + 1))
        except (OSError, ValueError) as error:
            self._keep_the_last(f"{self._path}: {getattr(error, 'strerror', None) or error}")
            return
        self._take(routing, stamp)

    def _keep_fetching(self) -> None:
        if self._fetcher is not None and self._pid == os.getpid():  # a forked process has no thread of its parent's
            return
        self._pid = os.getpid()
        self._fetcher = threading.Thread(target=self._fetch_for_ever, name="spectron-routing", daemon=True)
        self._fetcher.start()

    def _fetch_for_ever(self) -> None:
        while not self._closed.is_set():
            self.fetch()
            self._closed.wait(self._every_s)

    def fetch(self) -> None:
        """Fetch the address once, now; an application needs it only where its first read must not be Mem0's."""
        from urllib.error import HTTPError
        from urllib.request import HTTPRedirectHandler, Request, build_opener

        class NoRedirect(HTTPRedirectHandler):
            """Where the routing is fetched from is decided by whoever runs the application."""

            def redirect_request(self, *_: Any, **__: Any) -> None:
                return None

        headers = {"Accept": "application/json", "User-Agent": "spectron-migrate"}
        if self._seen.stamp is not None:
            headers["If-None-Match"] = self._seen.stamp
        try:
            request = Request(self._url or "", headers=headers)  # noqa: S310 - the scheme was checked
            with build_opener(NoRedirect).open(request, timeout=FETCH_TIMEOUT_S) as answer:
                self._take(_parse(answer.read(MOST_BYTES + 1)), answer.headers.get("ETag"))
        except HTTPError as error:
            error.close()
            if error.code == 304:
                self._seen.problem = None
            else:
                self._keep_the_last(f"{self._url}: answered {error.code}")
        except Exception as error:  # whatever a network can do: an application's read never fails for it
            self._keep_the_last(f"{self._url}: {getattr(error, 'reason', None) or error}")

    def _take(self, routing: Routing, stamp: Any) -> None:
        if self._seen.routing.epoch > routing.epoch and self._seen.routing.migration == routing.migration:
            self._keep_the_last(f"{self._url or self._path}: older than what was read before")
            return
        if self._seen.problem not in (None, "not read yet"):
            _log.warning("routing: read again, epoch %d, %s", routing.epoch, routing.phase)
        self._seen = _LastRead(routing, None, stamp, self._clock() + _lasts_s(routing, self._now()))

    def _keep_the_last(self, problem: str) -> None:
        if problem != self._seen.problem:
            _log.warning("routing: the last good one stays in force: %s", problem)
            self._seen.problem = problem


def _lasts_s(routing: Routing, now: float) -> float:
    """For how long it may be relied on from now on: as the wall clock says, but no longer than it was written for."""
    if routing.fresh_until is None:
        return math.inf
    lasts_s = routing.fresh_until - now
    with suppress(ValueError, TypeError):
        lasts_s = min(lasts_s, routing.fresh_until - datetime.fromisoformat(routing.as_of or "").timestamp())
    return max(0.0, lasts_s)


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
        raise ValueError("no routing") from None


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError("a list of names is none")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is none")
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number(value: Any, most: float = 1e15) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise TypeError("a number is none, or out of its range")
    return value


def _word(value: Any, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise TypeError(f"{known[0]!r} and its like are known")
    return value
