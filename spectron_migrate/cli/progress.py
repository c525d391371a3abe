"""How far a stage is, how fast, and how long it will take. Bars, lines and `status --watch` use the same words."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from spectron_migrate.records import Json
from spectron_migrate.reporter import Gauges

WINDOW_S = 60.0
"""The rate is measured over this many seconds, so that a stage that has slowed down does not promise too much."""
SAMPLE_EVERY_S = 1.0
FALLBACK_COLUMNS = 80
"""The width of a terminal that does not report it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage at one moment."""

    stage: str
    done: int
    """How many items are done, including those of earlier runs."""
    total: int | None = None
    rate: float | None = None
    """Items per second in the last minute; None before a second has passed."""
    gauges: Gauges | None = None

    @property
    def share(self) -> float | None:
        """Between 0 and 1; None if the total is not known."""
        return None if self.total is None else 1.0 if self.total == 0 else min(1.0, self.done / self.total)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the end at this rate; None if that is not known."""
        if self.total is None or not self.rate:
            return None
        return max(0, self.total - self.done) / self.rate

    @property
    def counts(self) -> str:
        """Such as `1,204/3,000 40% 88/s ETA 20s in flight 64 doubt 0`; empty for a stage that counts nothing."""
        if not self.done and not self.total:
            return ""
        parts = [f"{self.done:,}" if self.total is None else f"{min(self.done, self.total):,}/{self.total:,}"]
        if self.share is not None:
            parts.append(f"{int(100 * self.share)}%")
        if self.rate is not None:
            parts.append(per_second(self.rate))
        if self.total is not None and self.done < self.total:
            parts.append(f"ETA {span(self.eta_s)}")
        if self.gauges is not None:
            parts.append(f"in flight {self.gauges.in_flight:,} doubt {self.gauges.in_doubt:,}")
        return " ".join(parts)

    @property
    def line(self) -> str:
        """Everything on one line, as in a log."""
        slowed = f" ({self.gauges.slowed})" if self.gauges is not None and self.gauges.slowed else ""
        return f"{self.stage} {self.counts}{slowed}".rstrip()

    def to_json(self) -> dict[str, Json]:
        """For `log.jsonl`, and for `status --watch`."""
        gauges = self.gauges
        return {
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "a_second": None if self.rate is None else round(self.rate, 2),
            "eta_s": None if self.eta_s is None else round(self.eta_s),
            "in_flight": gauges.in_flight if gauges else None,
            "in_doubt": gauges.in_doubt if gauges else None,
            "slowed": gauges.slowed or None if gauges else None,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Json]) -> Progress:
        """Raises KeyError, TypeError or ValueError for anything that `to_json` did not make."""
        gauges = None
        if fields["in_flight"] is not None:
            gauges = Gauges(int(fields["in_flight"]), int(fields["in_doubt"]), str(fields["slowed"] or ""))
        total, rate = fields["total"], fields["a_second"]
        return cls(
            str(fields["stage"]),
            int(fields["done"]),
            None if total is None else int(total),
            None if rate is None else float(rate),
            gauges,
        )


class StageProgress:
    """Counts a running stage and measures its rate, at a cost that does not depend on the size of the stage."""

    def __init__(
        self,
        name: str,
        total: int | None = None,
        *,
        done: int = 0,
        gauges: Callable[[], Gauges] | None = None,
        now: float,
    ) -> None:
        """`done`: what earlier runs did, which does not count for the rate. `now` in seconds, monotonic."""
        self.name = name
        self.done = done
        self.total = total
        self.began = now
        self._gauges = gauges
        self._samples: deque[tuple[float, int]] = deque([(now, done)])

    @property
    def is_over(self) -> bool:
        """Whether the stage is finished."""
        return self.total is not None and self.done >= self.total

    def at(self, now: float) -> Progress:
        """The progress at this moment."""
        samples = self._samples
        if now - samples[-1][0] >= SAMPLE_EVERY_S:
            samples.append((now, self.done))
        while len(samples) > 2 and samples[1][0] <= now - WINDOW_S:
            samples.popleft()
        seconds = now - samples[0][0]
        rate = (self.done - samples[0][1]) / seconds if seconds >= SAMPLE_EVERY_S else None
        return Progress(self.name, self.done, self.total, rate, self._gauges() if self._gauges else None)


def per_second(rate: float) -> str:
    """Such as `88/s`, with decimals only if they mean something."""
    return f"{rate:,.0f}/s" if rate >= 9.95 or rate == 0 else f"{rate:.1f}/s" if rate >= 0.1 else f"{60 * rate:.1f}/min"


def span(seconds: float | None) -> str:
    """A duration in a few letters: `20s`, `5m 20s`, `2h 05m`, `3d 4h`; `?` for None."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"
