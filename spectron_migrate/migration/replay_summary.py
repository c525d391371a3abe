"""The summary of a replay, from counts of the ledger before and after it, and its exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from spectron_migrate.delivery.run import Counters, Run
from spectron_migrate.errors import ExitCode
from spectron_migrate.ledger import Ledger, merge, sessions
from spectron_migrate.ledger.read import plans
from spectron_migrate.ledger.read.plans import PlanCounts, plan_counts
from spectron_migrate.ledger.runs import LastRun
from spectron_migrate.records import Json
from spectron_migrate.state.uncertain import Uncertainties

if TYPE_CHECKING:
    from spectron_migrate.migration.adopt import AdoptionCost
    from spectron_migrate.migration.adoption_run import Adopted
    from spectron_migrate.migration.forecast import Forecast

_STOP_CODES = {"limit": ExitCode.LIMIT, "key": ExitCode.KEY, "unreachable": ExitCode.UNREACHABLE}


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """What became of the memories of this run.

    `planned = written + already + refused + skipped + in_doubt + undecidable + remaining`.
    """

    migration: str
    planned: int
    written: int
    stored_not_extracted: int
    """Part of `written`: the text is stored, but nothing was extracted from it."""
    late: int
    """Part of `written`: sent after newer facts of its lane, so it superseded nothing."""
    already: int
    refused: int
    skipped: int
    in_doubt: int
    undecidable: int
    """A person has to decide: undecidable and pending memories."""
    pending: int
    """Part of `undecidable`: nothing shows whether Mem0's text or the ledger's is newer."""
    remaining: int
    scopes: int
    lanes: int
    sessions: int
    requests: int
    retries: int
    tokens: int
    """What the writes cost, as the server reports or by the upper estimate; 0 if no limit is set."""
    orphans: int
    """Sessions of all runs whose creation was never answered. If they exist, they are empty and stay."""
    slowed_down: str | None
    """What slowed the run down; None if nothing did."""
    review: str | None
    skipped_by_reason: dict[str, int]
    will_not_expire: list[str]
    """The first memories that expire in Mem0 but will not in Spectron."""
    will_not_expire_count: int
    reasons: list[dict[str, Json]]
    """The first refused and undecidable memories, with the server's messages."""
    stopped: str | None
    dry_run: bool
    exit_code: ExitCode
    forecast: Forecast | None = None
    """The forecast of a dry run; None for a replay."""
    uncertain: Uncertainties | None = None
    """What Spectron is unsure about after the run; None for a dry run, and for one that sent nothing."""
    adoption: Adopted | AdoptionCost | None = None
    """What an adoption found or, in a dry run, would look for; None without an adoption."""

    def to_json(self) -> dict[str, Json]:
        """The fields of the command's JSON."""
        left_out = ("exit_code", "migration", "forecast", "uncertain", "adoption")
        shown = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in left_out}
        if self.forecast is not None:
            shown["forecast"] = self.forecast.to_json()
        shown["uncertain"] = self.uncertain.to_json(texts=False) if self.uncertain is not None else None
        if self.adoption is not None:
            shown["adoption"] = asdict(self.adoption)
        return shown


def summarize(
    ledger: Ledger,
    plan: int,
    *,
    before: PlanCounts,
    run: Run | None = None,
    review: str | None = None,
    max_refused: int = 0,
    interrupted: ExitCode | None = None,
    left_out: Mapping[str, int] | None = None,
    adopted: Adopted | None = None,
) -> ReplaySummary:
    """The summary of a run that delivers the plan; without `run`, of a dry run.

    `before`: the counts when the run began; `review`: where the review list is; `interrupted`: the code of a signal;
    `left_out`: rows with content that the dump does not hold, by reason. They count as skipped;
    `adopted`: what was found on the server before anything was sent.
    """
    after = plan_counts(ledger, plan)
    counts = after.by_state
    replaced = plans.count_replaced(ledger, plan)
    skipped = plans.skipped_by_reason(ledger, plan)
    if replaced:
        skipped[merge.REPLACED] = skipped.get(merge.REPLACED, 0) + replaced
    missing = left_out or {}
    for reason, rows in missing.items():
        skipped[reason] = skipped.get(reason, 0) + rows
    scopes, lanes = plans.scopes_and_lanes(ledger, plan)
    lasting = plans.will_not_expire(ledger, plan)
    migration = ledger.migration()
    undetermined = plans.count_pending(ledger, plan)
    counters = run.counters if run else Counters()
    return ReplaySummary(
        migration=migration.id if migration else "",
        planned=sum(counts.values()) + replaced + undetermined + sum(missing.values()),
        written=after.stored - before.stored,
        stored_not_extracted=after.not_extracted - before.not_extracted,
        late=after.late - before.late,
        already=before.stored,
        refused=counts.get("refused", 0),
        skipped=sum(skipped.values()),
        in_doubt=counts.get("intended", 0),
        undecidable=counts.get("undecidable", 0) + undetermined,
        pending=undetermined,
        remaining=counts.get("planned", 0),
        scopes=scopes,
        lanes=lanes,
        sessions=counters.sessions,
        requests=run.api.wire.requests if run else 0,
        retries=counters.retries,
        tokens=counters.tokens,
        orphans=sessions.count_orphans(ledger),
        slowed_down=run.limiter.summary if run else None,
        review=review,
        skipped_by_reason=skipped,
        will_not_expire=lasting[: plans.LISTED],
        will_not_expire_count=len(lasting),
        reasons=[
            {"id": row.mem0_id, "state": row.state, "reason": row.reason}
            for row in plans.named_facts(ledger, plan, ("refused", "undecidable", "pending"), limit=plans.LISTED)
        ],
        stopped=why_stopped(run) if run else None,
        dry_run=run is None,
        exit_code=_exit_code({**counts, "pending": undetermined}, run, max_refused, interrupted)
        if run
        else ExitCode.DONE,
        adoption=adopted,
    )


def why_stopped(run: Run) -> str | None:
    """Why the run, or the first of its scopes, stopped before its work was done; None if none did."""
    return run.stop.reason if run.stop else next(iter(run.stopped_scopes.values()), None)


def with_result(run: Run, noted: LastRun) -> LastRun:
    """The record of a run, for `status`, completed with its result."""
    return replace(
        noted,
        written=run.counters.written,
        requests=run.api.wire.requests,
        retries=run.counters.retries,
        stopped=why_stopped(run),
        in_flight=run.limiter.limit,
    )


def _exit_code(counts: Mapping[str, int], run: Run, max_refused: int, interrupted: ExitCode | None) -> ExitCode:
    """The exit code of the most urgent problem."""
    if interrupted is not None:
        return interrupted
    if run.stop is not None and run.stop.kind == "key":
        return ExitCode.KEY
    if counts.get("undecidable", 0) or counts["pending"]:
        return ExitCode.REFUSED
    if counts.get("planned", 0) + counts.get("intended", 0):
        if run.stopped_scopes:
            return ExitCode.KEY
        return _STOP_CODES[run.stop.kind] if run.stop is not None else ExitCode.UNREACHABLE
    return ExitCode.REFUSED if counts.get("refused", 0) > max_refused else ExitCode.DONE
