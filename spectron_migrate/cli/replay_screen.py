"""What `spectron-migrate replay` shows at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from spectron_migrate.cli import replay_adopt, replay_plan
from spectron_migrate.cli.tables import facts, listing, number, plain, with_reasons, without_zeros
from spectron_migrate.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.migration.replay_summary import ReplaySummary
    from spectron_migrate.records import Json

NOT_EXTRACTED = "stored, not extracted: these texts can be recalled, but Spectron made no facts of them"
NONE_EXTRACTED = (
    f"{NOT_EXTRACTED}, so nothing superseded anything; is extraction (llm_extraction_enabled) on in this context? it is"
    " off by default"
)


def draw(summary: ReplaySummary) -> Iterator[RenderableType]:
    """The counts of a run or of a plan, then the memories that need a person."""
    if summary.dry_run and summary.forecast is not None:
        yield from replay_plan.draw(summary, summary.forecast)
    else:
        yield facts(_headline(summary), _rows(summary))
        if summary.stored_not_extracted:
            yield plain(NONE_EXTRACTED if summary.stored_not_extracted == summary.written else NOT_EXTRACTED)
        if summary.uncertain is not None and summary.uncertain.first is not None:
            yield from draw_uncertain(summary.uncertain.first)
    if summary.reasons:
        shown = [(row["id"], row["state"], row["reason"]) for row in summary.reasons[:10]]
        yield listing("For a person to look at", ["memory", "state", "reason"], shown)
        if summary.review:
            yield plain(f"all of them, with the memories: {summary.review}")


def draw_uncertain(first: Mapping[str, Json]) -> Iterator[RenderableType]:
    """The newest uncertainty, with both texts. A person has to say in Spectron which one is right."""
    rows = [
        (first["memory"], first["text"]),
        *((row["memory"] or "?", row["text"] or row["value"]) for row in first["others"]),
    ]
    yield listing(f"Spectron is unsure about {first['about']}: {first['reason']}", ["memory", "text"], rows)


def _headline(summary: ReplaySummary) -> str:
    if not summary.planned:
        return "Replay: the options select no memory of the dump, nothing was sent"
    if summary.exit_code == ExitCode.DONE:
        return f"Replay: {number(summary.written)} written, {number(summary.already)} written before, nothing remains"
    if summary.remaining or summary.in_doubt:
        return f"Replay stopped: {summary.stopped or 'see below'}"
    return f"Replay: {number(summary.written)} written, and some that need a person"


def _rows(summary: ReplaySummary) -> list[tuple[str, str]]:
    rows = [
        ("memories selected", number(summary.planned)),
        ("written now", number(summary.written)),
        ("  stored, not extracted", number(summary.stored_not_extracted)),
        ("  late: superseded nothing", number(summary.late)),
        ("written before", number(summary.already)),
        *replay_adopt.adoption_rows(summary),
        ("remaining", number(summary.remaining)),
        ("skipped", with_reasons(summary.skipped, summary.skipped_by_reason)),
        ("refused", number(summary.refused)),
        ("in doubt", number(summary.in_doubt)),
        ("undecidable", number(summary.undecidable)),
        ("  pending: which text is newer?", number(summary.pending)),
        ("will not expire", number(summary.will_not_expire_count)),
        ("scopes, lanes", f"{number(summary.scopes)}, {number(summary.lanes)}"),
        ("sessions, requests, retries", f"{summary.sessions:,}, {summary.requests:,}, {summary.retries:,}"),
        ("sessions without an answer", f"{number(summary.orphans)}, empty if they exist" if summary.orphans else ""),
        ("tokens, at most", number(summary.tokens)),
        ("Spectron is unsure about", summary.uncertain.sentence() if summary.uncertain is not None else ""),
        ("slowed down by", (summary.slowed_down or "").removeprefix("slowed down by ")),
    ]
    return without_zeros(rows, keep=("written now", "remaining"))
