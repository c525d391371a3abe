"""The routing that is in force, for an application that asks at every call.

It is read from `routing.json`, or from an https address that serves it, and from the journal beside it
(`state/journal.py`), which is authoritative; or from a state that several hosts share. Mem0 may only be written to
while one of them can be read and does not say `complete`. This module uses the standard library alone, because
applications import it.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from spectron_migrate.clocks import seconds_with_sleep
from spectron_migrate.errors import InputError, NotLegal
from spectron_migrate.files.locks import is_held
from spectron_migrate.state import journal
from spectron_migrate.state.cutover_state import CutoverState
from spectron_migrate.state.routing import FILE, MOST_BYTES, Routing, parse_routing, read_routing
from spectron_migrate.state.seal import MARK, SEAL
from spectron_migrate.state.state_beside import LostJournal, StateBeside
from spectron_migrate.state.store import StateStore, store_at

CHECK_EVERY_S = 0.5
"""How often a reader checks the files for changes. A revert must reach readers within a second."""
FETCH_TIMEOUT_S = 5.0
STEP_S = 2.0
"""How long a write waits for the first step of a cutover, which is one line to append durably."""
TRUSTED_S = 45.0
"""How long the answer of an address or a database counts, from the moment when it was asked for.

A process that is cut off must stop relying on it while the others still count it as live, which they do for 60 s after
its last status. It writes one every 5 s.
"""
TRACES = (journal.FILE, journal.LOCK_FILE, "since.db")
"""Files that a cutover leaves in the state directory. If one of them is there, a cutover has begun."""

_log = logging.getLogger("spectron_migrate.routing")


class RoutingUnreadable(NotLegal):
    """Nobody can say whether the cutover is complete: neither the routing nor the journal can be read."""

    kind = "routing_unreadable"


@dataclass
class _LastRead:
    """What a reader last read from its source."""

    routing: Routing = field(default_factory=Routing)
    problem: str | None = "not read yet"
    stamp: Any = None
    """Changes with the source: inode, size and time of the files, ETag of an address, versions of rows."""
    expires: float = math.inf
    """When `fresh_until` passes, by the reader's monotonic clock."""


class RoutingReader:
    """The newest routing from a state directory, a file, an https address or a state in a database.

    `current` reads a clock, and calls `stat` on the files twice a second. An address or a database is asked by a
    background thread, so no read ever waits for the network. If the source is broken or missing, the journal decides;
    without it the last good routing stays in force for reads, `problem` says why, and one line is logged. A routing
    that is not renewed expires (`fresh_until`), so a reader that lost its source eventually reads from Mem0. A wall
    clock that is behind, or was set back, does not delay this.

    Once `complete` was read it stays in force, whatever the source says or loses later.
    """

    def __init__(
        self,
        source: Path | str | StateStore,
        *,
        state: Path | StateStore | None = None,
        named: bool = True,
        lost_journal: LostJournal = lambda knows_of_one, changed_at: None,
        check_every_s: float = CHECK_EVERY_S,
        clock: Callable[[], float] = seconds_with_sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`source`: the file, its state directory, an address, or a state that is read over the network.

        A relative path is resolved once, here. `state`: the state, if the source is another file or an address. Its
        journal and its ledger count as well; a database has to answer before Mem0 may be written to.
        `named`: somebody chose the source. A default counts as chosen once its directory exists.
        `lost_journal`: describes what the ledger knows of a cutover and the routing does not; None if there is nothing.
        It gets two arguments: whether the routing knows of a cutover, and when the last step of the journal was
        recorded (None if there is no journal).
        `clock`: monotonic seconds, with those in which the host slept; `now`: seconds since 1970. Raises ValueError for
        an address that is neither https nor on this machine.
        """
        self._store = None if isinstance(source, Path | str) else source
        text = str(source) if self._store is None else ""
        self._url = text if "://" in text else None
        self._is_remote = self._url is not None or self._store is not None
        if self._url is not None and not _may_be_fetched(self._url):
            raise ValueError("the address of a routing must be https, or on this machine")
        path = Path(text).absolute()
        self._path = path if path.suffix == ".json" else path / FILE
        beside = [] if self._is_remote else [self._path.parent]
        folder = state if isinstance(state, Path) or state is None else state.folder
        self._beside = StateBeside(store_at(state)) if state is not None and folder is None else None
        self._folders = dict.fromkeys([*beside, *([folder.absolute()] if folder is not None else [])])
        """Directories that may hold the journal."""
        self._named = named
        self._lost_journal = lost_journal
        self._lost: str | None = None
        """Why the routing in force cannot be trusted: the ledger knows of a later step, and there is no journal."""
        self._last = _LastRead()
        self._every_s = check_every_s
        self._clock = clock
        self._now = now
        self._next_look = float("-inf")
        self._known_until = float("-inf")
        """The monotonic time until which it is known whether the cutover is complete."""
        self._journals: dict[Path, tuple[Any, CutoverState]] = {}
        self._fetcher: threading.Thread | None = None
        self._pid = 0
        self._closed = threading.Event()

    @property
    def problem(self) -> str | None:
        """Why `current` may be out of date; None if the source was read at the last attempt."""
        return self._lost or self._last.problem or (self._beside.problem if self._beside is not None else None)

    @property
    def unreadable(self) -> str | None:
        """Why it is not known whether the cutover is complete; None if it is known, or if no source was ever named."""
        if self._last.routing.phase == "complete" or not self._is_named():
            return None
        if self._lost is not None or self._clock() > self._known_until:
            return self._lost or self._last.problem or f"{self._where}: not read"
        if self._beside is not None and self._clock() > self._beside.known_until:
            return self._beside.problem or "the state in the database was not asked for too long"
        return None

    def current(self) -> Routing:
        """The newest good routing. Never raises and never waits for the network."""
        now = self._clock()
        if self._is_remote or self._beside is not None:
            self._keep_fetching()
        if now >= self._next_look:
            self._next_look = now + self._every_s
            self.look()
        last = self._last
        if now >= last.expires:
            last.routing, last.expires = replace(last.routing, fresh_until=0.0), math.inf
        return last.routing

    def for_write(self) -> Routing:
        """The routing for a write to Mem0; raises RoutingUnreadable if it is not known whether Mem0 may be written."""
        routing = self.current()
        problem = self.unreadable
        if problem is not None:
            self._wait_for_step()
            self.look()  # the source may be readable again
            routing, problem = self._last.routing, self.unreadable
        if problem is not None:
            raise RoutingUnreadable(
                f"nothing was written: it cannot be read whether to write to Mem0 or to Spectron ({problem})",
                hint="give this process the migration's state directory (its volume, an absolute path), or restore"
                " routing.json or cutover.jsonl in it",
            )
        return routing

    def _wait_for_step(self) -> None:
        """Wait briefly for a process that takes a step. Before the first step is written, only its lock shows it."""
        deadline = time.monotonic() + STEP_S
        while any(is_held(folder / journal.LOCK_FILE) for folder in self._folders) and time.monotonic() < deadline:
            time.sleep(0.01)

    def close(self) -> None:
        """Stop the background thread, if there is one."""
        self._closed.set()

    def look(self) -> None:
        """Read the files now, if they have changed."""
        if self._last.routing.phase == "complete":
            return
        self._named = self._is_named()
        state, journal_stamp = self._read_journal()
        if not self._is_remote:
            self._look_at_files(state, journal_stamp)
        elif state is not None and state.phase == "complete":
            self._take(journal.routing_of(state), journal_stamp, None)
        last, lost = self._last.routing, None
        if state is None and (self._folders or self._beside is not None) and last.phase != "complete":
            lost = self._lost_journal(last.epoch > 0, None) if self._beside is None else self._beside.lost
        elif state is not None and state.phase != "complete" and self._beside is None:
            lost = self._lost_journal(True, state.changed_at)
        if lost is not None and lost != self._lost:
            _log.warning("routing: %s", lost)
        self._lost = lost

    def _look_at_files(self, state: CutoverState | None, journal_stamp: Any) -> None:
        """Read the routing file, if it or the journal has changed. `state`: what the journal says."""
        left = self._sign_of_a_move()
        if left is not None and (state is None or state.phase != "complete"):
            # The state was moved: the cutover goes on elsewhere, and may be complete there.
            self._known_until = float("-inf")
            self._keep_the_last(left)
            return
        routing, problem = None, None
        stamp: tuple[Any, ...] = (journal_stamp,)
        try:
            status = _status_of_file(self._path)
            stamp = (journal_stamp, status.st_ino, status.st_size, status.st_mtime_ns)
            if stamp == self._last.stamp and self._last.problem is None:
                return
            with self._path.open("rb") as file:
                routing = parse_routing(file.read(MOST_BYTES + 1))
        except (OSError, ValueError) as error:
            problem = f"{self._path}: {getattr(error, 'strerror', None) or error}"
        if state is not None and (routing is None or state.epoch > routing.epoch):
            routing = journal.routing_of(state, routing or self._last.routing)
        if routing is not None:
            self._take(routing, stamp, problem)
        else:
            self._known_until = math.inf if self._never_began() else float("-inf")
            self._keep_the_last(problem or "")

    def _read_journal(self) -> tuple[CutoverState | None, Any]:
        """The journal's state, and a stamp that changes with the journal; None if it is missing, broken or empty."""
        newest: tuple[CutoverState | None, Any] = (None, None)
        for folder in self._folders:
            with suppress(OSError, InputError):
                status = _status_of_file(folder / journal.FILE)
                stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
                if folder not in self._journals or stamp != self._journals[folder][0]:
                    self._journals[folder] = (stamp, journal.read_journal(folder).state)
                state = self._journals[folder][1]
                if state.epoch > (newest[0].epoch if newest[0] is not None else 0):
                    newest = (state, stamp)
        there = self._beside.journal if self._beside is not None else None
        if there is not None and there.epoch > (newest[0].epoch if newest[0] is not None else 0):
            newest = (there, (newest[1], there.epoch))
        return newest

    def _sign_of_a_move(self) -> str | None:
        """The seal or mark of `state copy` in one of the folders, which says that the state is not there, or not yet.

        If that cannot be checked, the reason.
        """
        for sign in (folder / name for folder in self._folders for name in (SEAL, MARK)):
            try:
                sign.stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                return f"{sign}: {error.strerror or error}"
            return f"{sign}: the state is in another place"
        return None

    def _is_named(self) -> bool:
        return self._named or any(_may_be(folder, stat.S_ISDIR) for folder in self._folders)

    def _never_began(self) -> bool:
        """Whether the source is a state directory in which no cutover has begun yet."""
        if self._last.routing.epoch or any(_may_be(folder / name) for folder in self._folders for name in TRACES):
            return False
        with suppress(OSError):
            return any(store_at(folder).has_begun() for folder in self._folders)
        return False

    def _keep_fetching(self) -> None:
        if self._fetcher is not None and self._pid == os.getpid():  # a thread does not survive a fork
            return
        self._pid = os.getpid()
        self._fetcher = threading.Thread(target=self._fetch_forever, name="spectron-routing", daemon=True)
        self._fetcher.start()

    def _fetch_forever(self) -> None:
        while not self._closed.is_set():
            self.fetch()
            self._closed.wait(self._every_s)

    def fetch(self) -> None:
        """Ask the address or the database now. Only if an application's very first call must know already."""
        if self._beside is not None:
            asked = self._clock()
            self._beside.ask(self._lost_journal, knows_of_one=self._last.routing.epoch > 0, until=asked + TRUSTED_S)
        if self._store is not None:
            self._ask(self._store)
        elif self._url is not None:
            self._fetch(self._url)

    def _ask(self, store: StateStore) -> None:
        """Read the journal and the routing of a state, if they have changed."""
        asked = self._clock()  # before the request, because the process may be suspended before it reads the answer
        try:
            stamp = (store.version(journal.FILE), store.version(FILE))
            if stamp == self._last.stamp and self._last.problem is None:
                self._known_until = asked + TRUSTED_S
                return
            if stamp == (None, None) and not store.has_begun():
                self._known_until = float("-inf")
                self._keep_the_last(f"{self._where}: no migration has begun there")
                return
            state, routing = journal.read_journal(store).state, None
            lost = self._lost_journal(False, None) if not state.epoch else None
            if lost is not None:
                self._known_until = float("-inf")
                self._keep_the_last(f"{self._where}: {lost}")
                return
            with suppress(ValueError):
                routing = read_routing(store)
            if routing is None or state.epoch > routing.epoch:
                routing = journal.routing_of(state, routing or self._last.routing)
            self._take(routing, stamp, None, asked=asked)
        except Exception as error:  # no network error may fail an application's read
            self._keep_the_last(f"{self._where}: {error}")

    def _fetch(self, url: str) -> None:
        from urllib.error import HTTPError
        from urllib.request import HTTPRedirectHandler, Request, build_opener

        class NoRedirect(HTTPRedirectHandler):
            """Makes redirects errors: only the application's configuration decides where the routing comes from."""

            def redirect_request(self, *_: Any, **__: Any) -> None:
                return None

        headers = {"Accept": "application/json", "User-Agent": "spectron-migrate"}
        if self._last.stamp is not None:
            headers["If-None-Match"] = self._last.stamp
        asked = self._clock()
        try:
            request = Request(url, headers=headers)  # noqa: S310 - the scheme was checked
            with build_opener(NoRedirect).open(request, timeout=FETCH_TIMEOUT_S) as answer:
                routing = parse_routing(answer.read(MOST_BYTES + 1))
                self._take(routing, answer.headers.get("ETag"), None, asked=asked)
        except HTTPError as error:
            error.close()
            if error.code == 304:
                self._last.problem = None
                self._known_until = asked + TRUSTED_S
            else:
                self._keep_the_last(f"{url}: answered {error.code}")
        except Exception as error:  # nothing that a network does may fail an application's read
            self._keep_the_last(f"{url}: {getattr(error, 'reason', None) or error}")

    def _take(self, routing: Routing, stamp: Any, problem: str | None, *, asked: float | None = None) -> None:
        """Put a routing in force.

        `problem`: why only the journal could tell; `asked`: when it was asked for, over a network.
        """
        last = self._last.routing
        older = last.epoch > routing.epoch and last.migration == routing.migration
        if last.phase == "complete" or older:
            if self._url is None:
                self._known_until = float("-inf")
            self._keep_the_last(f"{self._where}: older than the last one read")
            return
        if problem is None and self._last.problem not in (None, "not read yet"):
            _log.warning("routing: can be read again, epoch %d, %s", routing.epoch, routing.phase)
        if problem is not None and problem != self._last.problem:
            _log.warning("routing: the journal says %s, epoch %d: %s", routing.phase, routing.epoch, problem)
        self._known_until = math.inf if asked is None else asked + TRUSTED_S
        self._last = _LastRead(routing, problem, stamp, self._clock() + _expires_in_s(routing, self._now()))

    @property
    def _where(self) -> str:
        if self._store is not None:
            return self._store.describe(FILE)
        return self._url or str(self._path)

    def _keep_the_last(self, problem: str) -> None:
        if problem != self._last.problem:
            _log.warning("routing: the last good one stays in force: %s", problem)
            self._last.problem = problem


def _status_of_file(path: Path) -> os.stat_result:
    """The stat of a file. Raises OSError for anything else, because reading a pipe would never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is no file")
    return status


def _may_be(path: Path, is_kind: Callable[[int], bool] = lambda mode: True) -> bool:
    """Whether the file is there, or cannot be looked for: a disk error does not show that it is not there."""
    try:
        return is_kind(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _expires_in_s(routing: Routing, now: float) -> float:
    """Seconds until the routing expires, by the wall clock, but at most the period that it was written for."""
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
