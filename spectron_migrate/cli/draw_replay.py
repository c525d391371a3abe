"""The end of a replay, and of a dry run, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from spectron_migrate.cli.draw import facts, listing, number, plain
from spectron_migrate.errors import ExitCode
from spectron_migrate.records import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.migration.forecast import Forecast
    from spectron_migrate.migration.replay import ReplaySummary

SHOWN = 5
"""Lines of a list on one screen; `--json` has a hundred."""
WIDTH = 32
"""Letters of a memory in a table."""
NOT_EXTRACTED = "stored, not extracted: these texts can be recalled, but Spectron made no facts of them"
ALL_NOT_EXTRACTED = (
    f"{NOT_EXTRACTED}, so nothing superseded anything; is extraction on in this Context? It is off by default"
)


def draw(summary: ReplaySummary) -> Iterator[RenderableType]:
    """What is shown, part by part."""
    if summary.dry_run and summary.forecast is not None:
        yield from _draw_plan(summary, summary.forecast)
    else:
        yield _draw_run(summary)
        if summary.stored_not_extracted:
            yield plain(ALL_NOT_EXTRACTED if summary.stored_not_extracted == summary.written else NOT_EXTRACTED)
    if summary.reasons:
        shown = [(row["id"], row["state"], row["reason"]) for row in summary.reasons[:10]]
        yield listing("For a person to look at", ["memory", "state", "reason"], shown)
        if summary.review:
            yield plain(f"all of them, with the memories: {summary.review}")


def _draw_run(summary: ReplaySummary) -> RenderableType:
    if not summary.planned:
        title = "Replay: the options chose no memory of the dump, nothing was sent"
    elif summary.exit_code == ExitCode.DONE:
        title = f"Replay: {number(summary.written)} written, {number(summary.already)} there already, nothing left"
    elif summary.remaining or summary.in_doubt:
        title = f"Replay stopped: {summary.stopped or 'see below'}"
    else:
        title = f"Replay: {number(summary.written)} written, and some that a person has to look at"
    rows: list[tuple[str, str]] = [
        ("memories this is about", number(summary.planned)),
        ("written now", number(summary.written)),
        ("  stored, not extracted", number(summary.stored_not_extracted)),
        ("  late: superseded nothing", number(summary.late)),
        ("there already", number(summary.already)),
        ("remaining", number(summary.remaining)),
        ("skipped", _reasons(summary.skipped, summary.skipped_by_reason)),
        ("refused", number(summary.refused)),
        ("in doubt", number(summary.in_doubt)),
        ("undecidable", number(summary.undecidable)),
        ("will not expire", number(summary.will_not_expire_count)),
        ("scopes, lanes", f"{number(summary.scopes)}, {number(summary.lanes)}"),
        ("sessions, requests, retries", f"{summary.sessions:,}, {summary.requests:,}, {summary.retries:,}"),
        ("sessions lost on the way", f"{number(summary.orphans)}, empty if they exist" if summary.orphans else ""),
        ("tokens, at most", number(summary.tokens)),
        ("slowed down by", summary.slowed_down or ""),
    ]
    return facts(title, _said(rows, always=("written now", "remaining")))


def _draw_plan(summary: ReplaySummary, forecast: Forecast) -> Iterator[RenderableType]:
    rows = [
        ("memories this is about", number(summary.planned)),
        ("to be written", f"{number(forecast.memories)} ({number(forecast.full)} with extraction)"),
        ("  late: supersede nothing", number(forecast.late)),
        ("there already", number(summary.already)),
        ("skipped", _reasons(summary.skipped, summary.skipped_by_reason)),
        ("refused before", number(summary.refused)),
        ("in doubt", number(summary.in_doubt)),
        ("undecidable", number(summary.undecidable)),
        ("will not expire", number(summary.will_not_expire_count)),
        ("scopes, lanes", f"{number(summary.scopes)}, {number(summary.lanes)}"),
        ("sessions, requests", f"{number(forecast.sessions)}, {number(forecast.requests)}"),
        ("guessed times", _guessed(forecast)),
        ("users in several scopes", _several(forecast)),
    ]
    yield facts(
        f"Plan: {counted(forecast.memories, 'memory')} would be written, nothing was sent",
        _said(rows, always=("to be written",)),
    )
    if forecast.memories:
        yield from _draw_cost(forecast)
        yield from _draw_contradictions(forecast)


def _draw_cost(forecast: Forecast) -> Iterator[RenderableType]:
    pace, (low, high) = forecast.pace, forecast.tokens
    yield plain("")
    yield facts(
        f"Time: about {spoken(forecast.seconds)}, bound by {forecast.bound}; tokens: {number(low)} to {number(high)}",
        [
            (
                "time assumes",
                f"{pace.full_s:g} s a memory with extraction, {pace.none_s:g} s without"
                f" ({'measured by doctor --probe' if pace.measured else 'not measured: doctor --probe does'}),"
                f" {pace.in_flight} in flight{'' if pace.max_rps is None else f', {pace.max_rps:g} a second'}",
            ),
            (
                "tokens assume",
                "200-800 for extraction, 500-2,000 more where its second stage runs, 100 for the embedding;"
                " long texts by their length",
            ),
        ],
    )
    if len(forecast.rules) > 1:
        yield listing(
            "",
            ["rule", "memories", "tokens"],
            [
                (rule.scope, number(rule.memories), f"{number(rule.tokens_low)} - {number(rule.tokens_high)}")
                for rule in forecast.rules
            ],
        )
    shown = [(lane.lane, number(lane.full), number(lane.none)) for lane in forecast.lanes[:SHOWN]]
    yield listing("The largest lanes (facts with extraction go one after the other)", _LANES, shown)


_LANES = ["lane", "with extraction", "without"]


def _draw_contradictions(forecast: Forecast) -> Iterator[RenderableType]:
    found = forecast.likeness
    told = forecast.to_json()["contradictions"]
    rows = [
        ("likely to contradict an older one", f"{number(found.contradicting)} of {number(found.compared)} compared"),
        ("say the same as an older one", number(found.repeated)),
        ("measure", told["measure"]),
    ]
    if forecast.updated is not None:
        rows.append(
            (
                "updated in Mem0 itself",
                f"{number(forecast.updated)}, one {forecast.longest_chain} times: only the last text is written",
            )
        )
    yield facts("Contradictions: this is a guess by the words, the server decides what supersedes what", rows)
    if found.pairs:
        shown = [
            (plain(pair.scope_path, width=24), _cut(pair.older_text), _cut(pair.newer_text))
            for pair in found.pairs[:SHOWN]
        ]
        yield listing("", ["scope", "older", "newer"], shown)


def _said(rows: list[tuple[str, str]], *, always: tuple[str, ...]) -> list[tuple[str, str]]:
    """Rows that say something: a zero says so only where it matters."""
    return [row for row in rows if row[1] not in ("0", "") or row[0] in always]


def _cut(text: str) -> object:
    return plain(text, width=WIDTH)


def _guessed(forecast: Forecast) -> str:
    if not forecast.guessed:
        return ""
    minutes = counted(forecast.bulk_minutes, "minute looks", "minutes look")
    bulk = f", {minutes} like a bulk edit" if forecast.bulk_minutes else ""
    return f"{number(forecast.guessed)}, many of them in {counted(forecast.guessed_scopes, 'scope')}{bulk}"


def _several(forecast: Forecast) -> str:
    if not forecast.users_in_several_scopes:
        return ""
    return f"{number(forecast.users_in_several_scopes)} (nothing supersedes across scopes)"


def _reasons(count: int, by_reason: dict[str, int]) -> str:
    if not by_reason:
        return str(count)
    return f"{count:,} ({', '.join(f'{reason} {n:,}' for reason, n in by_reason.items())})"


def spoken(seconds: float) -> str:
    """A time as people say it: two units, the smaller one only where it tells something."""
    whole = max(1, round(seconds))
    for size, name, smaller, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {small_name}" if rest and whole < 10 * size else "")
    return f"{whole} s"
