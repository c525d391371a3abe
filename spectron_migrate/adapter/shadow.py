"""Shadow reads: a sample of the searches that Mem0 answered is sent to Spectron too, in the background.

Nobody waits for them, and few run at once. Their totals help people decide about the cutover: how many were sent and
failed, how long they took, how much of Mem0's answer Spectron found. A process whose guard sent its reads back to Mem0
probes Spectron in the same way.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from spectron_migrate.adapter.spectron_thread import SpectronAnswer

if TYPE_CHECKING:
    from spectron_migrate.adapter.core import AdapterCore, SearchPlan

MOST = 4
"""The most shadow reads that run at once. Further ones are dropped, and counted."""
PAUSE_S = 1.0
"""After a failure no shadow read begins for this long, because a failure in every search would cost time."""

_log = logging.getLogger("spectron_migrate.adapter")


class ShadowReads:
    """One per adapter."""

    def __init__(self, core: AdapterCore, share: float, rng: random.Random) -> None:
        """`share` of the searches, 0 to 1."""
        self.under_way = 0
        self._core = core
        self._share = share
        self._random = rng
        self._not_before = float("-inf")

    def after(self, plan: SearchPlan, mem0_answer: Any) -> None:
        """After Mem0 answered a search: perhaps ask Spectron the same. Never waits, never raises."""
        if plan.asked is None or plan.lens is None or plan.complete:
            return
        if self._core.guard.may_probe():
            self._ask(plan, (), probes=True)
        elif self._share and self._random.random() < self._share:
            ready = self.under_way < MOST and self._core.now() >= self._not_before
            if ready and self._core.is_fair(plan.asked):
                self._ask(plan, _ids_of(mem0_answer), probes=False)
            else:
                self._core.counters.shadow(dropped=1)

    def _ask(self, plan: SearchPlan, mem0_ids: Sequence[str], *, probes: bool) -> None:
        began = self._core.now()
        try:
            future = self._core.query(plan)
        except Exception as error:  # no key, a bad endpoint, …: the application must not see any of these
            self._done(plan, None, error, began, mem0_ids, probes)
            return
        self.under_way += 1

        def done(future: Future[SpectronAnswer]) -> None:
            self.under_way -= 1
            error = future.exception()
            self._done(plan, None if error is not None else future.result(), error, began, mem0_ids, probes)

        future.add_done_callback(done)

    def _done(
        self,
        plan: SearchPlan,
        answer: SpectronAnswer | None,
        error: BaseException | None,
        began: float,
        mem0_ids: Sequence[str],
        probes: bool,
    ) -> None:
        core = self._core
        if probes:
            core.guard.probed(core.now() - began, failed=answer is None)
        if answer is None:
            self._not_before = core.now() + PAUSE_S
            core.counters.shadow(asked=1, failed=1)
            _log.debug("a shadow read failed: %s", type(error).__name__)
            return
        try:
            ours = [row["id"] for row in core.render_hits(plan, answer).rows]
        except Exception as problem:  # nobody would catch it in the loop's thread
            _log.warning("a shadow read could not be compared: %s", problem)
            core.counters.shadow(asked=1, failed=1)
            return
        sums: dict[str, float] = {"asked": 1, "answered": 1, "ms": answer.seconds * 1000}
        if mem0_ids:
            sums["compared"] = 1
            sums["overlap"] = len(set(ours) & set(mem0_ids)) / len(set(mem0_ids))
            sums["first_found"] = float(mem0_ids[0] in ours)
        core.counters.shadow(**sums)


def _ids_of(answer: Any) -> list[str]:
    rows = answer.get("results") if isinstance(answer, Mapping) else answer
    return [str(row["id"]) for row in rows or () if isinstance(row, Mapping) and "id" in row]
