"""What both adapters share: where searches go, how Spectron's answers are rendered, and what is noted about writes.

Before `complete`, Mem0 is authoritative and Spectron is optional. A failure on Spectron's side never becomes an error
of the application: it is counted, and Mem0 answers.
"""

from __future__ import annotations

import logging
import os
import random
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from spectron_migrate.adapter.added_memories import AddedMemories
from spectron_migrate.adapter.call_results import messages_of, results_of
from spectron_migrate.adapter.catalogue import Catalogue, NoCatalogue
from spectron_migrate.adapter.counters import ProcessCounters
from spectron_migrate.adapter.guard import Guard
from spectron_migrate.adapter.heartbeat import Heartbeat, as_of_seconds
from spectron_migrate.adapter.mapping_check import MappingCheck
from spectron_migrate.adapter.mem0_calls import ENTITIES, Mem0Calls, SearchRequest
from spectron_migrate.adapter.opening import (
    access_of,
    routing_reader,
    settings_of,
    use_if_possible,
    warn_of_unused_mappings,
)
from spectron_migrate.adapter.readiness import Readiness
from spectron_migrate.adapter.search_results import (
    HIDDEN,
    RenderedHits,
    SearchResults,
    TooManyHidden,
    ranked,
    render_hits,
)
from spectron_migrate.adapter.shadow import ShadowReads
from spectron_migrate.adapter.spectron_thread import SpectronAnswer, SpectronThread
from spectron_migrate.adapter.writes import WriteTracker, is_captured
from spectron_migrate.errors import NotLegal
from spectron_migrate.mapping import Lens, NotServable, load_mapping
from spectron_migrate.records import Memory, counted
from spectron_migrate.state.routing import Routing, name_of, subject_of
from spectron_migrate.state.store import store_at

MAX_K = 50
"""How many hits to ask Spectron for, the same as in verification: some are not memories, or are old texts."""
PATIENCE = 2.5
"""How long a search waits for Spectron, as a multiple of the p95 budget. After that Mem0 answers."""
ALONE_S = 30.0
"""How long a search waits after `complete`, when Mem0 can no longer answer."""
TRIES_ALONE = 3
"""How often Spectron is asked then, so that one cut connection does not cost the application its answer."""

_log = logging.getLogger("spectron_migrate.adapter")


Added = Callable[[Sequence[str]], Mapping[str, Memory]]
"""For ids of Spectron's rows: the memories added after `complete` that they were made from."""


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Where one search goes, and how it is asked there."""

    asked: SearchRequest | None
    lens: Lens | None
    to_spectron: bool
    complete: bool
    """Whether the cutover is complete, so that only Spectron answers."""
    why_not: str = ""
    """Why Spectron cannot answer it; empty if it can."""


class AdapterCore:
    """One per adapter; safe to use from several threads, and in processes that fork."""

    def __init__(
        self,
        client: Any,
        spectron_client: Any | None,
        *,
        config: str | Path | None,
        state: str | Path | None,
        mapping: str | Path | None,
        routing: str | Path | None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Read settings and mapping; writes no file and sends no request. Raises InputError if they are invalid."""
        self.settings = settings_of(config, state=state, mapping=mapping)
        use_if_possible(self.settings.state)
        self.state = store_at(self.settings.state)
        self.mapping = load_mapping(self.settings.mapping)
        warn_of_unused_mappings(self.settings, self.mapping)
        self.calls = Mem0Calls(client)
        self.counters = ProcessCounters()
        self.guard = Guard(self.settings.cutover.guard, clock=clock)
        self.catalogue = Catalogue(self.state, clock=clock)
        self.catalogue.connect()
        self.routing = routing_reader(routing, self.state, self.settings, self.catalogue.lost_journal)
        self.routing.fetch()  # even the very first write must know where it belongs
        self.routing.current()
        self.added = AddedMemories(self.state)
        self.mapping_check = MappingCheck(self.mapping, self.catalogue, self.added, self.routing.current, clock=clock)
        self.access = access_of(self.settings, spectron_client)
        self.spectron_thread = SpectronThread(self.access)
        self.heartbeat = Heartbeat(self.state, self.routing, self.counters, self.guard, self.catalogue.connect)
        self.process_calls = self.heartbeat.calls
        self.lens = lru_cache(maxsize=4096)(self._lens)
        self._clock = clock
        self.readiness = Readiness(self.catalogue, self.mapping.digest, self.access, clock=clock)
        self.shadow = ShadowReads(self, self.settings.cutover.shadow, rng or random.Random())
        self._logged: set[str] = set()
        self._closed = False
        self._writes = WriteTracker(
            self.calls,
            self.process_calls,
            self.catalogue,
            routing=self.routing.for_write,
            moment=self._moment,
            results_of=messages_of if self.settings.cutover.capture == "messages" else results_of,
        )
        if is_captured(self.routing.current()):
            self.process_calls.refuse_other_host()
            self.process_calls.connect()
        self._as_of: tuple[str | None, float] = (None, float("-inf"))
        _CORES.add(self)

    # -- searches -----------------------------------------------------------------------------------------

    def plan(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, wanted: bool = False) -> SearchPlan:
        """Decide where one search goes. `wanted`: the application itself asks for Spectron (`use_spectron`)."""
        self.heartbeat.begin()
        routing = self.routing.current()
        asked = self.calls.read(args, kwargs)
        if asked is None:
            return SearchPlan(
                None, None, False, routing.phase == "complete", "the call does not match Mem0's signature"
            )
        lens, why_not = self._servable(asked)
        if routing.phase == "complete":
            return SearchPlan(asked, lens, lens is not None, True, why_not)
        if why_not:
            self.counters.call("search", asked.beyond or ("scope",))
        where = "unreadable" if self._cannot_read_routing() else self._where(routing, asked, wanted)
        if where == "spectron":
            where = "beyond" if lens is None else self._held_back() or "spectron"
        if where != "spectron":
            self.counters.read(where)
        return SearchPlan(asked, lens, where == "spectron", False, why_not)

    def ask(self, plan: SearchPlan) -> Future[SpectronAnswer] | None:
        """Query Spectron; None if no query could be sent. Raises MigrateError after `complete`."""
        try:
            return self.query(plan)
        except Exception as error:
            if plan.complete:
                raise
            self.failed(error, 0.0)
            return None

    def query(self, plan: SearchPlan) -> Future[SpectronAnswer]:
        """Query Spectron; raises if the query cannot be sent."""
        assert plan.asked is not None and plan.lens is not None  # noqa: S101, PT018 - planned so
        patience_s, tries = (ALONE_S, TRIES_ALONE) if plan.complete else (self.patience_s, 1)
        query, lens = plan.asked.query, plan.lens.selector
        return self.spectron_thread.query(query, lens, k=MAX_K, timeout_s=patience_s, tries=tries)

    @property
    def patience_s(self) -> float:
        """How long a search waits for Spectron while Mem0 can answer it too."""
        return PATIENCE * self.settings.cutover.guard.p95_s

    def found(self, plan: SearchPlan, answer: SpectronAnswer, added: Added | None = None) -> SearchResults:
        """Spectron's answer in the form of Mem0's results; `added` finds memories added after `complete`.

        Before `complete`, raises NoCatalogue, because without a catalogue old and deleted memories could not be hidden,
        and TooManyHidden if hidden hits took the places of hits that Spectron did not return.
        """
        rendered = self.render_hits(plan, answer, added)
        hidden = sum(rendered.left_out.get(why, 0) for why in HIDDEN)
        assert plan.asked is not None  # noqa: S101 - planned so
        if hidden and not plan.complete and len(answer.rows) >= MAX_K and len(rendered.rows) < plan.asked.top_k:
            raise TooManyHidden(
                f"{hidden} of {counted(len(answer.rows), 'hit')} are not to be shown, and there may be more"
            )
        self.counters.read("spectron")
        self.counters.reads(rendered.left_out)
        rows = ranked(rendered.rows) if self.settings.adapter.score == "rank" else list(rendered.rows)
        return SearchResults(results=rows)

    def render_hits(self, plan: SearchPlan, answer: SpectronAnswer, added: Added | None = None) -> RenderedHits:
        """Like `found`, but counts nothing; for comparisons."""
        assert plan.asked is not None and plan.lens is not None  # noqa: S101, PT018 - planned so
        return render_hits(
            answer.rows,
            plan.lens,
            None if plan.complete and self._no_catalogue() else self.catalogue,
            query=plan.asked.query,
            ids=plan.asked.ids,
            top_k=plan.asked.top_k,
            today=datetime.now(UTC).date().isoformat(),
            added=added,
            owners=plan.asked.ids if plan.complete else None,
        )

    def answered(self, plan: SearchPlan, answer: Any) -> None:
        """Note that Mem0 answered a search. Spectron may be asked the same in the background."""
        self.calls.learn(answer)
        self.shadow.after(plan, answer)

    def succeeded(self, seconds: float) -> None:
        """Note that Spectron answered a search."""
        self.guard.note(seconds, failed=False)

    def failed(self, error: BaseException, seconds: float) -> None:
        """Note that Spectron could not answer a search, and log each kind of error once. Mem0 answers instead."""
        if isinstance(error, NoCatalogue | TooManyHidden):
            self.counters.read("crowded" if isinstance(error, TooManyHidden) else "no catalogue")
        else:
            self.counters.read("failed")
            self.guard.note(seconds, failed=True)
        description = f"{type(error).__name__}: {getattr(error, 'message', None) or error}"[:300]
        if type(error).__name__ not in self._logged:
            self._logged.add(type(error).__name__)
            _log.warning("a search was answered by Mem0 instead of Spectron: %s", description)

    def is_fair(self, asked: SearchRequest) -> bool:
        """Whether Spectron should have everything that Mem0 has of these owners, so that answers can be compared."""
        return self._is_caught_up(self.routing.current(), asked) and self.readiness.is_given()

    # -- writes -------------------------------------------------------------------------------------------

    def writing(
        self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AbstractContextManager[Callable[[Any], None]]:
        """A context around a call that changes Mem0. It yields a function, to be called with Mem0's answer.

        Raises NotLegal if the adapter is closed, and RoutingUnreadable if it is not known whether Mem0 may be written
        to.
        """
        self.refuse_if_closed()
        self.heartbeat.begin()
        return self._writes.around(method, args, kwargs)

    # -- state --------------------------------------------------------------------------------------------

    @property
    def is_remote(self) -> bool:
        """Whether calls are noted in a database, so that every query takes a moment."""
        return self.state.folder is None

    def is_complete(self) -> bool:
        """Whether the cutover is complete."""
        return self.routing.current().phase == "complete"

    def now(self) -> float:
        """Seconds, monotonic."""
        return self._clock()

    def refuse_if_closed(self) -> None:
        """Raise NotLegal once the adapter is closed: nothing would note what is written, or learn of `complete`."""
        if self._closed:
            raise NotLegal(
                "nothing was written: the adapter is closed", hint="close it after the last call, or make a new one"
            )

    def close(self) -> None:
        """Write the last status and close threads, files and connections; the wrapped client stays open."""
        self._closed = True
        self.heartbeat.close()
        self.process_calls.close()
        self.routing.close()
        self.spectron_thread.close()
        self.catalogue.close()
        self.added.close()
        self.state.close()

    def after_fork(self) -> None:
        """In a child process: leave the parent's files, connections and threads alone, and use new ones."""
        self.spectron_thread.forget_after_fork()
        self.catalogue.forget_after_fork()
        for part in (self.counters, self.guard, self.heartbeat, self.process_calls, self.mapping_check):
            part.forget_after_fork()
        self.shadow.under_way = 0

    def _lens(self, ids: tuple[tuple[str, str], ...]) -> Lens | str:
        try:
            return self.mapping.lens(**dict(ids))
        except NotServable as error:
            return error.message

    def _servable(self, asked: SearchRequest) -> tuple[Lens | None, str]:
        if asked.beyond:
            return None, f"Spectron cannot answer: {', '.join(asked.beyond)}"
        lens = self.lens(tuple(sorted(asked.ids.items())))
        return (None, lens) if isinstance(lens, str) else (lens, "")

    def _where(self, routing: Routing, asked: SearchRequest, wanted: bool) -> str:
        if not asked.ids or routing.phase == "mem0":
            return "mem0"
        ids = {name: asked.ids.get(name) for name in ENTITIES}
        where = routing.route(
            user_id=ids["user_id"], agent_id=ids["agent_id"], run_id=ids["run_id"], app_id=ids["app_id"]
        )
        if where == "mem0" and not (wanted and self._may_want(routing, asked)):
            return "mem0"
        return "spectron" if self._is_caught_up(routing, asked) else "behind"

    def _may_want(self, routing: Routing, asked: SearchRequest) -> bool:
        """Whether the application itself may ask for Spectron: while reads are shifted, except for pinned users."""
        subject = subject_of(**asked.ids)
        pinned = subject is not None and name_of(routing.migration, subject) in routing.pinned_to_mem0
        return routing.phase in ("shift", "closing") and not pinned

    def _is_caught_up(self, routing: Routing, asked: SearchRequest) -> bool:
        """Whether everything that a search by these ids can find is in Spectron, including this host's last writes."""
        subject = subject_of(**asked.ids)
        if subject is None or not routing.is_caught_up(name_of(routing.migration, subject), time.time()):
            return False
        return not self.process_calls.must_wait(subject, self._moment(routing.as_of))

    def _moment(self, as_of: str | None) -> float:
        known, moment = self._as_of
        if as_of != known:
            moment = as_of_seconds(as_of)
            self._as_of = (as_of, moment)
        return moment

    def _cannot_read_routing(self) -> bool:
        problem = self.routing.unreadable
        if problem is not None and problem not in self._logged:
            self._logged.add(problem)
            _log.warning("searches are answered by Mem0, and writes are refused: %s", problem)
        return problem is not None

    def _held_back(self) -> str:
        """Why no search goes to Spectron at the moment; empty if searches may."""
        if self.guard.state != "closed":
            return "guarded"
        return "" if self.readiness.is_given() else "no catalogue"

    def _no_catalogue(self) -> bool:
        try:
            self.catalogue.migration()
        except NoCatalogue:
            return True
        return False


_CORES: weakref.WeakSet[AdapterCore] = weakref.WeakSet()


def _after_fork() -> None:
    for core in list(_CORES):
        core.after_fork()


os.register_at_fork(after_in_child=_after_fork)
