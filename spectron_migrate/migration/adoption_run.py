"""What all scopes of one adoption share: the server at the pace of the run, and what was found."""

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
from spectron_migrate.records import Hit, Reporter, Selector, format_time, parse_time
from spectron_migrate.spectron.api import MAX_K, SpectronApi, UnknownSession
from spectron_migrate.spectron.grants import Me
from spectron_migrate.spectron.rows import Turn

T = TypeVar("T")

CLOCKS_AGREE = timedelta(seconds=2)
"""A difference up to this between our clock and the server's is none: its header has whole seconds."""


@dataclass
class Adopted:
    """What an adoption found."""

    adopted: int = 0
    without_turn: int = 0
    """Those of them of which only a passage is known."""
    gone: int = 0
    """Facts with a receipt whose turn the server no longer has; they are planned again, or overtaken."""
    unknown: int = 0
    """Turns that have the text of no memory, and that may be newer than what Mem0 had."""
    held: int = 0
    """Memories that became undecidable."""
    requests: int = 0
    finished: bool = True
    """False where the time was over before everything was looked for: then nothing is sent."""


@dataclass(frozen=True, slots=True)
class AdoptionSettings:
    """What an adoption is told."""

    session_size: int
    read_at: str | None
    """When Mem0 was read for the dump; None for raw files."""
    applications_write: bool
    """After `cutover complete`: nothing supersedes any more, so nothing has to be held."""
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
        """`scopes`: all that the server has registered; None where the key may not list them."""
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
        """Turns that may be newer than what Mem0 had, by lane."""
        self.names_sessions = False
        """Whether any hit named its session: then the server is of a generation that does."""
        self.owners: dict[str, int] = {}
        """The selector of each session that a hit named."""
        self.gone_sessions: set[str] = set()
        """Sessions that hits name and the server does not list."""

    async def in_slot(self, call: Callable[[], Awaitable[T]]) -> T:
        """A request, at the pace of the run; raises Stopping once the time is over."""
        stop = self._brake.check()
        if stop is not None:
            raise Stopping(stop.reason)
        async with self._limiter.slot() as slot:
            answer = await call()
            self._limiter.note_success(slot)
            return answer

    async def list_turns(self, session: str, selector: int, *, shows: Iterable[str] = ()) -> list[Turn] | None:
        """The turns of a session; None where the server does not know it. `shows`: turns that it should show."""
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
        """Note a turn that may be newer than what Mem0 had."""
        self.found.unknown += 1
        self.unknown[lane].append(leftover)

    def is_stale(self, turn: Turn) -> bool:
        """Whether a turn that has the text of no memory was written before Mem0 was read: Mem0 no longer has it."""
        return self.read_at is not None and bool(turn.created_at) and turn.created_at <= self.read_at

    def stamp(self) -> str:
        """The present time."""
        return format_time(self._now())

    def _by_server_clock(self, moment: str | None) -> str | None:
        """A time of our clock by the server's."""
        if moment is None or self.me.server_now is None:
            return moment
        ahead = parse_time(self.me.server_now) - self._now()
        return format_time(parse_time(moment) + ahead) if abs(ahead) > CLOCKS_AGREE else moment


def _time_of(turn: Turn) -> str:
    """When the server stored a turn, in our spelling; empty where it does not say."""
    try:
        moment = datetime.fromisoformat(turn.created_at)
    except ValueError:
        return ""
    return format_time(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
