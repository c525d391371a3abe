"""What all scopes of one adoption share: the server, at the pace of the run, and what was found so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from spectron_migrate.delivery.brake import Brake, Stopping
from spectron_migrate.delivery.limiter import Limiter
from spectron_migrate.errors import ScopeRefused
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import adoption
from spectron_migrate.migration.turn_matching import Leftover
from spectron_migrate.records import Hit, Selector, format_time, parse_time
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import MAX_K, SpectronApi, UnknownSession
from spectron_migrate.spectron.grants import Me
from spectron_migrate.spectron.rows import Turn

T = TypeVar("T")

CLOCKS_AGREE = timedelta(seconds=2)
"""A difference of up to this between our clock and the server's is ignored: its header has whole seconds."""


@dataclass
class Adopted:
    """What an adoption found."""

    adopted: int = 0
    without_turn: int = 0
    """How many of these have only a passage, and no turn."""
    gone: int = 0
    """Facts whose receipt names a turn that is gone from the server. They are planned again, unless overtaken."""
    unknown: int = 0
    """Turns that have the text of no memory, and may be newer than the texts that were read from Mem0."""
    held: int = 0
    """Memories that became undecidable."""
    requests: int = 0
    finished: bool = True
    """False if the time limit was reached before everything was looked for. Then nothing is sent."""


@dataclass(frozen=True, slots=True)
class AdoptionSettings:
    """The settings of an adoption."""

    session_size: int
    read_at: str | None
    """When Mem0 was read for the dump; None for raw files."""
    applications_write: bool
    """After `cutover complete`, nothing that is sent supersedes anything, so nothing has to be held."""
    in_flight: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one query."""

    hits: tuple[Hit, ...]
    cached: bool


class AdoptionRun:
    """One adoption."""

    def __init__(
        self,
        ledger: Ledger,
        api: SpectronApi,
        settings: AdoptionSettings,
        *,
        me: Me,
        scopes: frozenset[str] | None,
        limiter: Limiter,
        brake: Brake,
        reporter: Reporter,
        now: Callable[[], datetime],
    ) -> None:
        """`scopes`: all scopes that are registered on the server; None if the key may not list them."""
        self.ledger = ledger
        self.api = api
        self.settings = settings
        self.me = me
        self.scopes = scopes
        self.reporter = reporter
        self._limiter = limiter
        self._brake = brake
        self._now = now
        self.read_at = self._by_server_clock(settings.read_at)
        """When Mem0 was read, by the server's clock."""
        self.found = Adopted()
        self.unknown: defaultdict[int, list[Leftover]] = defaultdict(list)
        """Turns that may be newer than the texts that were read from Mem0, by lane."""
        self.names_sessions = False
        """Whether any hit named its session. Only some generations of the server do that."""
        self.owners: dict[str, int] = {}
        """The selector of each session that a hit named."""
        self.gone_sessions: set[str] = set()
        """Sessions that hits named and that the server does not list."""

    async def in_slot(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a request at the pace of the run; raises Stopping once the time limit is reached."""
        stop = self._brake.check()
        if stop is not None:
            raise Stopping(stop.reason)
        async with self._limiter.slot() as slot:
            answer = await call()
            self._limiter.note_success(slot)
            return answer

    async def list_turns(self, session: str, selector: int, *, shows: Iterable[str] = ()) -> list[Turn] | None:
        """The turns of a session; None if the server does not know it. `shows`: turns that must be among them."""
        wanted = set(shows)

        def is_whole(turns: list[Turn]) -> bool:
            return wanted <= {turn.id for turn in turns}

        try:
            turns = await self.in_slot(lambda: self.api.turns(session, shows=is_whole))
        except UnknownSession:
            return None
        except ScopeRefused:
            # 403 is the documented answer for an unknown session, if the key may read the scope.
            paths = adoption.selector_paths(self.ledger, selector)
            if self.me.ungranted("memory:read", paths):
                raise
            return None
        return [replace(turn, created_at=_time_of(turn)) for turn in turns]

    async def ask(self, text: str, *, lens: Selector, mode: str) -> Answer:
        """The passages that a query finds."""
        recall = await self.in_slot(
            lambda: self.api.query(text, lens=lens, k=MAX_K, mode=mode, include=("passages",), include_duplicates=True)
        )
        self.names_sessions = self.names_sessions or any(hit.session_id for hit in recall.hits)
        return Answer(recall.hits, cached=recall.tier == "cache")

    def note_unknown(self, lane: int, leftover: Leftover) -> None:
        """Note a turn that may be newer than the texts that were read from Mem0."""
        self.found.unknown += 1
        self.unknown[lane].append(leftover)

    def is_stale(self, turn: Turn) -> bool:
        """Whether a turn with the text of no memory was written before Mem0 was read.

        Then Mem0 no longer has that text.
        """
        return self.read_at is not None and bool(turn.created_at) and turn.created_at <= self.read_at

    def stamp(self) -> str:
        """The present time."""
        return format_time(self._now())

    def _by_server_clock(self, moment: str | None) -> str | None:
        """Convert a time from our clock to the server's."""
        if moment is None or self.me.server_now is None:
            return moment
        ahead = parse_time(self.me.server_now) - self._now()
        return format_time(parse_time(moment) + ahead) if abs(ahead) > CLOCKS_AGREE else moment


def _time_of(turn: Turn) -> str:
    """When the server stored a turn, as `format_time` writes it; empty if it does not say."""
    try:
        moment = datetime.fromisoformat(turn.created_at)
    except ValueError:
        return ""
    return format_time(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
