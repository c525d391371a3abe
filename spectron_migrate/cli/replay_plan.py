"""What `replay --dry-run` shows: the plan, its time and cost, and the contradictions to expect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from spectron_migrate.cli.tables import duration, facts, listing, number, plain, with_reasons, without_zeros
from spectron_migrate.records import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.migration.forecast import Forecast
    from spectron_migrate.migration.replay_summary import ReplaySummary

SHOWN = 5
"""The most lines of a list; `--json` has up to a hundred."""
WIDTH = 32
"""The most characters of a memory in a table."""


def draw(summary: ReplaySummary, forecast: Forecast) -> Iterator[RenderableType]:
    """The counts of the plan, then the forecast."""
    rows = [
        ("memories selected", number(summary.planned)),
        ("to be written", f"{number(forecast.memories)} ({number(forecast.full)} with extraction)"),
        ("  late: supersede nothing", number(forecast.late)),
        ("written before", number(summary.already)),
        ("skipped", with_reasons(summary.skipped, summary.skipped_by_reason)),
        ("refused before", number(summary.refused)),
        ("in doubt", number(summary.in_doubt)),
        ("undecidable", number(summary.undecidable)),
        ("will not expire", number(summary.will_not_expire_count)),
        ("scopes, lanes", f"{number(summary.scopes)}, {number(summary.lanes)}"),
        ("sessions, requests", f"{number(forecast.sessions)}, {number(forecast.requests)}"),
        ("guessed times", _guessed_times(forecast)),
        *((f"label left out: {why}", number(count)) for why, count in forecast.labels_left_out.most_common(5)),
        ("users in several scopes", _users_in_several_scopes(forecast)),
    ]
    yield facts(
        f"Plan: {counted(forecast.memories, 'memory')} would be written, nothing was sent",
        without_zeros(rows, keep=("to be written",)),
    )
    if summary.adoption is not None:
        yield plain(str(summary.adoption))
    if forecast.memories:
        yield from _draw_cost(forecast)
        yield from _draw_contradictions(forecast)


def _draw_cost(forecast: Forecast) -> Iterator[RenderableType]:
    pace, (low, high) = forecast.pace, forecast.tokens
    rate = "" if pace.max_rps is None else f", {pace.max_rps:g} per second"
    source = "measured by doctor --probe" if pace.measured else "not measured: doctor --probe does that"
    yield plain("")
    yield facts(
        f"Time: about {duration(forecast.seconds)}, bound by {forecast.bound}; tokens: {number(low)} to {number(high)}",
        [
            (
                "time assumes",
                f"{pace.full_s:g} s per memory with extraction, {pace.none_s:g} s without ({source}),"
                f" {pace.in_flight} in flight{rate}",
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
    yield listing(
        "The largest lanes (texts with extraction are sent one after the other)",
        ["lane", "with extraction", "without"],
        [(lane.lane, number(lane.full), number(lane.none)) for lane in forecast.lanes[:SHOWN]],
    )


def _draw_contradictions(forecast: Forecast) -> Iterator[RenderableType]:
    likeness = forecast.likeness
    rows = [
        (
            "likely to contradict an older one",
            f"{number(likeness.contradicting)} of {number(likeness.compared)} compared",
        ),
        ("repeat an older one", number(likeness.repeated)),
        ("measure", forecast.to_json()["contradictions"]["measure"]),
    ]
    if forecast.updated is not None:
        rows.append(
            (
                "updated in Mem0 itself",
                f"{number(forecast.updated)}, one of them {counted(forecast.longest_chain, 'time')}:"
                " only the last text is written",
            )
        )
    yield facts("Contradictions, guessed from the words; the server decides which fact supersedes which", rows)
    if likeness.pairs:
        shown = [
            (plain(pair.scope_path, width=24), plain(pair.older_text, width=WIDTH), plain(pair.newer_text, width=WIDTH))
            for pair in likeness.pairs[:SHOWN]
        ]
        yield listing("", ["scope", "older", "newer"], shown, unbroken=("scope",))


def _guessed_times(forecast: Forecast) -> str:
    if not forecast.guessed:
        return ""
    minutes = counted(forecast.bulk_minutes, "minute looks", "minutes look")
    bulk = f", {minutes} like a bulk edit" if forecast.bulk_minutes else ""
    return f"{number(forecast.guessed)}, many of them in {counted(forecast.guessed_scopes, 'scope')}{bulk}"


def _users_in_several_scopes(forecast: Forecast) -> str:
    if not forecast.users_in_several_scopes:
        return ""
    return f"{number(forecast.users_in_several_scopes)} (nothing supersedes across scopes)"
