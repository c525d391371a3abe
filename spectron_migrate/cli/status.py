"""`spectron-migrate status`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli.migration_state import (
    STATES,
    State,
    carry_last_replay,
    counts_by_state,
    headline,
    phase_text,
    read_state,
)
from spectron_migrate.cli.options import GlobalOptions, with_global_options
from spectron_migrate.cli.replay_adopt import ADOPT
from spectron_migrate.cli.runner import CommandResult, Invocation, run_command
from spectron_migrate.cli.tables import duration, facts, listing, number, with_reasons
from spectron_migrate.errors import ExitCode, InputError, WrongLedger
from spectron_migrate.records import Json, counted, parse_time

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.ledger.read.status import MigrationStatus
    from spectron_migrate.ledger.runs import LastRun
    from spectron_migrate.state.store import StateStore

JOURNAL, TRACES = "cutover.jsonl", ("routing.json", "follow.json")
"""Files that a cutover and following leave in a state.

They are named here again, because importing the modules that read them takes 20 ms.
"""


@with_global_options
def command(
    options: GlobalOptions,
    watch: Annotated[bool, typer.Option("--watch", help="Show it live, until Ctrl-C.")] = False,
) -> int:
    """Show the state of the migration and what to run next.

    \b
    Example: spectron-migrate status
             spectron-migrate status --watch
    """
    return run_command("status", options, run_watching if watch else run)


def run_watching(invocation: Invocation) -> CommandResult:
    """Watch until Ctrl-C, then show the final state; raises InputError if stdout is no terminal."""
    if invocation.options.as_json or not invocation.console.is_terminal:
        raise InputError("--watch needs a terminal", hint="spectron-migrate status --json, as often as you like")
    from spectron_migrate.cli.watch import watch

    watch(invocation, invocation.settings())
    return run(invocation)


def run(invocation: Invocation) -> CommandResult:
    """Read the state. Writes nothing and asks no server."""
    from spectron_migrate.ledger import Ledger

    settings = invocation.settings()
    store = invocation.state
    cutover = _cutover(store)
    if cutover is not None and not Ledger.exists(store):
        return _cutover_before_any_replay(str(store), cutover)
    state = read_state(store, cutover, dump=settings.dump)
    if state.half_erased:
        invocation.reporter.warn(f"an erase was begun and not finished: {', '.join(state.half_erased)}")
    carry_last_replay(invocation, state.ledger.runs)
    return CommandResult(
        ExitCode.DONE,
        _body(state),
        draw(state),
        migration=state.ledger.migration.id if state.ledger.migration else None,
        next=next_command(state),
        choices=choices(state),
    )


def _cutover(store: StateStore) -> dict[str, Json] | None:
    """What there is to show of a cutover. If none ever began, the modules that read one are not even imported."""
    if not store.has_journal(JOURNAL) and all(store.read(name, most=1) is None for name in TRACES):
        return None
    from spectron_migrate.cutover.status import cutover_status

    return cutover_status(store, now=datetime.now(UTC))


def _cutover_before_any_replay(where: str, cutover: dict[str, Json]) -> CommandResult:
    body: dict[str, Json] = {
        "ledger": where,
        "endpoint": None,
        "context": None,
        "source": None,
        "states": {},
        "reasons": [],
        "uncertain": [],
        "cutover": cutover,
    }
    return CommandResult(
        ExitCode.DONE, body, _draw_cutover(cutover), migration=cutover["migration"], next=cutover["next"]
    )


def _body(state: State) -> dict[str, Json]:
    ledger, migration = state.ledger, state.ledger.migration
    return {
        "ledger": state.where,
        "endpoint": migration.endpoint if migration else None,
        "context": migration.context if migration else None,
        "source": migration.source if migration else None,
        "states": ledger.states,
        "not_planned": state.unplanned.missing if state.unplanned is not None else None,
        "skipped_by_reason": ledger.skipped,
        "late": ledger.late,
        "scopes": ledger.scopes,
        "sessions": ledger.sessions,
        "lanes_left": ledger.lanes_left,
        "largest_lanes": [asdict(lane) for lane in ledger.lanes],
        "reasons": [{"id": row.mem0_id, "state": row.state, "reason": row.reason} for row in ledger.named],
        "reasons_count": ledger.states.get("refused", 0) + ledger.states.get("undecidable", 0) + ledger.pending,
        "runs": [_run_to_json(run, state) for run in ledger.runs],
        "refused_run": asdict(ledger.refused_run) if ledger.refused_run is not None else None,
        "probe": [asdict(row) for row in ledger.probe],
        "erased": dict(list(ledger.erased.items())[-100:]),
        "cutover": state.cutover,
        "uncertain": [state.uncertain.to_json(texts=False)] if state.uncertain is not None else [],
    }


def _run_to_json(run: LastRun, state: State) -> dict[str, Json]:
    fields = asdict(run)
    del fields["called_with"], fields["folder"]
    return {**fields, "at_work": run in state.ledger.at_work, "a_second": _rate(run, state)}


def _rate(run: LastRun, state: State) -> float | None:
    """Memories per second: for a run that has ended, over its time; for a running one, as it reports itself."""
    if run.ended is None:
        return state.rates.get((run.host, run.process))
    seconds = (parse_time(run.ended) - parse_time(run.began)).total_seconds()
    return round(run.written / seconds, 1) if seconds > 0 else None


def choices(state: State) -> dict[str, str]:
    """Commands, one of which a person has to choose, for the first memory that nothing else decides."""

    def resolve(kind: str, answers: dict[str, str]) -> dict[str, str]:
        first = next((row.mem0_id for row in state.ledger.named if row.state == kind), None)
        if first is None:
            return {}
        return {f"spectron-migrate replay --resolve {quote(f'{first}={word}')}": why for word, why in answers.items()}

    if state.half_erased or _must_adopt(state):
        return {}
    refused = state.ledger.refused_run
    if refused is not None and ADOPT in refused.hint:
        return {
            ADOPT: "a lost ledger wrote there: each memory is looked for first",
            "spectron-migrate replay --into-existing": "others write there too",
        }
    return resolve("undecidable", {"present": "it is in Spectron", "absent": "it is not"}) or resolve(
        "pending", {"newer": "Mem0's text is the newer one", "older": "Spectron's is"}
    )


def next_command(state: State) -> str | None:
    """The command to run next, which can be pasted; None if nothing is left, or if a person has to decide."""
    states, migration, cutover = state.ledger.states, state.ledger.migration, state.cutover
    if state.half_erased and migration is not None:
        return f"spectron-migrate erase --migration {migration.id} --scope {state.half_erased[0]}"
    if _must_adopt(state):
        return ADOPT
    if choices(state):
        return None
    if cutover is not None and (cutover["next"] or cutover["phase"] == "complete"):
        return str(cutover["next"]) if cutover["next"] else None
    if migration is None and not state.has_dump:
        return "spectron-migrate export"
    if states.get("planned", 0) or states.get("intended", 0) or migration is None:
        return "spectron-migrate replay"
    if states.get("refused", 0):
        return "spectron-migrate replay --retry-failed"
    if state.unplanned is not None:
        return "spectron-migrate replay"
    return "spectron-migrate dual-verify"


def _must_adopt(state: State) -> bool:
    """Whether any other replay would be refused, because the server has something that this ledger does not know."""
    refused = state.ledger.refused_run
    is_behind = refused is not None and refused.kind == WrongLedger.kind and ADOPT in refused.hint
    return is_behind or state.ledger.half_adopted


def draw(state: State) -> Iterator[RenderableType]:
    """One screen: the migration, its largest lanes, what needs a person, the cutover."""
    ledger = state.ledger
    id_ = ledger.migration.id if ledger.migration else "(none yet)"
    yield facts(f"Migration {id_}: {headline(state)}", _rows(state))
    if ledger.at_work:
        at_work = [_process(run, _rate(run, state)) for run in ledger.at_work]
        title = f"{counted(len(at_work), 'replay', 'replays')} at work"
        yield listing(title, ["process", "host", "since", "memories per second"], at_work)
    if ledger.lanes:
        shown = [(lane.lane, number(lane.remaining)) for lane in ledger.lanes]
        title = counted(ledger.lanes_left, "unfinished lane", "unfinished lanes")
        yield listing(f"{title}, the largest first", ["lane", "remaining"], shown)
    if ledger.named:
        held = [(row.mem0_id, row.state, row.reason) for row in ledger.named[:8]]
        yield listing("For a person to look at", ["memory", "state", "reason"], held)
    if state.cutover is not None:
        yield from _draw_cutover(state.cutover)


def _rows(state: State) -> list[tuple[str, object]]:
    ledger, migration = state.ledger, state.ledger.migration
    target = (
        f"{migration.endpoint or 'not written to yet'}, context {migration.context}" if migration else "nothing yet"
    )
    rows: list[tuple[str, object]] = [
        ("source", migration.source if migration else "nothing yet"),
        ("target", target),
        ("state", state.where),
    ]
    for label, count in counts_by_state(ledger).items():
        if count or label == STATES["planned"]:
            rows.append((label, number(count)))
        if label == STATES["written"] and ledger.states.get("stored_not_extracted"):
            rows.append((f"  {STATES['stored_not_extracted']}", number(ledger.states["stored_not_extracted"])))
    if state.unplanned is not None:
        rows.append(("not planned yet", state.unplanned.sentence()))
    if ledger.skipped:
        rows.append(("skipped", with_reasons(sum(ledger.skipped.values()), ledger.skipped)))
    if ledger.late:
        rows.append(("late: supersede nothing", number(ledger.late)))
    rows.append(("scopes, sessions", f"{number(ledger.scopes)}, {_sessions(ledger.sessions)}"))
    ended = [run for run in ledger.runs if run not in ledger.at_work]
    rows += [("last run", _run(run, state)) for run in ended[:8]]
    if ledger.refused_run is not None:
        rows.append(("refused since then", ledger.refused_run.message))
    elif ledger.half_adopted:
        rows.append(("adoption", "begun and not finished"))
    if state.uncertain is not None and state.uncertain.known:
        rows.append(("Spectron is unsure about", state.uncertain.sentence()))
    if ledger.erased:
        rows.append(("erased, planned again", ", ".join(list(ledger.erased)[-5:])))
    rows.append(("probed", _probe(ledger)))
    return rows


def _sessions(by_state: dict[str, int]) -> str:
    unanswered = by_state.get("orphan", 0) + by_state.get("opening", 0)
    opened = sum(by_state.values()) - unanswered
    note = f" (and {unanswered:,} whose request was not answered: empty, if they exist)" if unanswered else ""
    return f"{opened:,}{note}"


def _process(run: LastRun, rate: float | None) -> tuple[str, ...]:
    since, shown = run.began[:16].replace("T", " "), f"{rate:,}" if rate is not None else "not known yet"
    return str(run.process), run.host or "this one", f"{since} UTC", shown


def _run(run: LastRun, state: State) -> str:
    began = run.began[:16].replace("T", " ")
    if run.ended is None:
        return f"began {began} UTC and was killed: running again is safe"
    rate = _rate(run, state)
    speed = f", {rate:,} per second" if rate is not None and run.written else ""
    stopped = f"; stopped: {run.stopped}" if run.stopped else ""
    return f"{began} UTC: {run.written:,} written{speed}, {run.retries:,} retries{stopped}"


def _moment(at: str) -> str:
    """A time of the journal, without microseconds, which are in the JSON."""
    return f"{at[:10]} {at[11:19]}"


def _probe(ledger: MigrationStatus) -> str:
    if not ledger.probe:
        return "never"
    return f"{ledger.probe[0].at[:16].replace('T', ' ')} UTC, {len(ledger.probe)} answers"


def _draw_cutover(cutover: dict[str, Json]) -> Iterator[RenderableType]:
    """The phase, the application's processes, the last steps."""
    yield facts(f"Cutover: {phase_text(cutover)}", _cutover_rows(cutover))
    if cutover["application"] is not None:
        yield facts("The application", _application_rows(cutover["application"]))
    if cutover["steps"]:
        steps = [
            (_moment(step["at"]), " ".join([step["step"], step.get("what", "")]), step["who"], step["why"])
            for step in cutover["steps"]
        ]
        yield listing("Last steps of the cutover (UTC)", ("when", "step", "who", "why"), steps, unbroken=("when",))


def _cutover_rows(cutover: dict[str, Json]) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [("read from Spectron", f"{cutover['percent']:g} % of users")]
    pinned = cutover["pinned_count"]
    if any(pinned.values()):
        rows.append(("pinned", f"{number(pinned['spectron'])} to Spectron, {number(pinned['mem0'])} to Mem0"))
    following = "yes" if cutover["following"] else "no"
    rows.append(("following", f"{following}: {cutover['problem']}" if cutover["problem"] else following))
    if cutover["lag_s"] is not None:
        behind = {None: "every user is behind", 0: "no user is behind"}.get(
            cutover["behind"], f"{counted(cutover['behind'] or 0, 'id is', 'ids are')} behind and read from Mem0"
        )
        ago = duration(cutover["lag_s"])
        rows.append(("Spectron is complete up to", f"{cutover['as_of'][:19]}Z, {ago} ago; {behind}"))
    if cutover["missed"] is not None:
        rows.append(("found only by the full reading", number(cutover["missed"])))
    late = cutover["late_writes"]
    if late is not None:
        newer = f"{number(late['count'])} newer than Spectron" if late["count"] else "nothing newer"
        rows.append(("Mem0, read again", f"{late['at'][:19]}Z: {newer}{_first(late['ids'])}"))
    rows.append(("routing.json", cutover["routing"]))
    if cutover["journal_altered_at_line"] is not None:
        rows.append(("journal", f"altered by hand from line {cutover['journal_altered_at_line']} on"))
    return rows


def _first(ids: list[str]) -> str:
    return f", the first: {', '.join(ids[:3])}" if ids else ""


def _application_rows(application: dict[str, Json]) -> list[tuple[str, object]]:
    reads = ", ".join(f"{number(count)} {store}" for store, count in sorted(application["reads"].items()))
    rows: list[tuple[str, object]] = [
        ("processes", number(application["processes"])),
        ("searches", reads or "none yet"),
    ]
    if application["last_reads"]:
        last = [f"{host} at {at[:19]}Z" for host, at in application["last_reads"].items()]
        rows.append(("last search", ", ".join(last[:5])))
    if application["unnoted"]:
        found = f"{counted(application['unnoted'], 'call')}: the next reading of Mem0 finds what they left there"
        rows.append(("not captured", found))
    if application["lost"]:
        lost = [f"{name} at {at[:19]}Z" for name, at in application["lost"].items()]
        rows.append(("fell silent", ", ".join(lost[:5])))
    for each in application["guarded"]:
        process = f"process {each['pid']} on {each['host']}"
        rows.append(("back on Mem0", f"{process} since {each['since'][:19]}Z: {each['reason']}"))
    if application["shadow"] is not None:
        shadow = application["shadow"]
        overlap = "" if shadow["mean_overlap"] is None else f", {shadow['mean_overlap']:.0%} of Mem0's answers found"
        rows.append(("shadow reads", f"{number(shadow['asked'])} asked, {number(shadow['failed'])} failed{overlap}"))
    rows += [
        ("only Mem0 can do", f"{name}, {counted(count, 'time')} in 7 days")
        for name, count in application["calls"].items()
    ]
    return rows + [("problem", problem) for problem in application["problems"]]
