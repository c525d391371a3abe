"""`spectron-migrate status`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING

from spectron_migrate.cli import options
from spectron_migrate.cli.conduct import Outcome, Stage, conduct
from spectron_migrate.errors import ExitCode
from spectron_migrate.records import counted

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console, RenderableType

    from spectron_migrate.ledger.read.status import MigrationStatus
    from spectron_migrate.ledger.runs import LastRun
    from spectron_migrate.ledger.shards import Found
    from spectron_migrate.records import Json


def command(
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Show where the migration stands and what to run next.

    Example: spectron-migrate status
    """

    def work(stage: Stage) -> Outcome:
        from spectron_migrate.ledger import Ledger, shards
        from spectron_migrate.ledger.erasing import unfinished
        from spectron_migrate.ledger.read.status import read_status

        folder = stage.settings().state
        under_way = _cutover(folder)
        if under_way is not None and not _has_any_ledger(folder):
            return _only_begun(folder, under_way)
        found = shards.find(folder)
        ledgers = [Ledger.open_for_reading(each) for each in found.folders]
        root = Ledger.open_for_reading(folder) if folder not in found.folders and _has_ledger(folder) else None
        standing = read_status(ledgers, root)
        half_erased = [path for ledger in ledgers for path in unfinished(ledger)]
        for ledger in [*ledgers, *([root] if root else [])]:
            ledger.close()
        if found.missing:
            stage.reporter.warn(f"shards without a ledger here: {', '.join(found.missing)}; they have not begun")
        if half_erased:
            stage.reporter.warn(f"an erase was begun and not finished: {', '.join(half_erased)}")
        elif not standing.probe and standing.migration is not None:
            stage.reporter.warn("this Context was never probed: spectron-migrate doctor --probe")
        return Outcome(
            ExitCode.INCOMPLETE if found.missing else ExitCode.DONE,
            {**_body(folder, found, standing), "cutover": under_way},
            lambda console: draw(console, folder, found, standing, under_way),
            migration=standing.migration.id if standing.migration else None,
            next=_next(found, standing, half_erased, under_way),
        )

    return conduct("status", options.common(config, state, as_json, quiet, verbose), work)


def _has_ledger(folder: Path) -> bool:
    return (folder / "ledger.db").exists()


def _body(folder: Path, found: Found, standing: MigrationStatus) -> dict[str, Json]:
    migration = standing.migration
    return {
        "ledger": str(folder),
        "endpoint": migration.endpoint if migration else None,
        "context": migration.context if migration else None,
        "source": migration.source if migration else None,
        "shards": {"found": len(found.folders), "missing": list(found.missing)},
        "states": standing.states,
        "skipped_by_reason": standing.skipped,
        "late": standing.late,
        "scopes": standing.scopes,
        "sessions": standing.sessions,
        "lanes_left": standing.lanes_left,
        "largest_lanes": [asdict(lane) for lane in standing.lanes],
        "reasons": [{"id": row.mem0_id, "state": row.state, "reason": row.reason} for row in standing.named],
        "reasons_count": standing.states.get("refused", 0) + standing.states.get("undecidable", 0),
        "runs": [{**asdict(run), "at_work": _at_work(run), "a_second": _rate(run)} for run in standing.runs],
        "probe": [asdict(row) for row in standing.probe],
        "erased": dict(list(standing.erased.items())[-100:]),
    }


def _at_work(run: LastRun) -> bool:
    return run.ended is None and run.is_alive


def _rate(run: LastRun) -> float | None:
    """Memories a second of a run that has ended."""
    from spectron_migrate.records import parse_time

    if run.ended is None:
        return None
    seconds = (parse_time(run.ended) - parse_time(run.began)).total_seconds()
    return round(run.written / seconds, 1) if seconds > 0 else None


def _has_any_ledger(folder: Path) -> bool:
    return _has_ledger(folder) or any(folder.glob("shard-*-of-*/ledger.db"))


def _only_begun(folder: Path, under_way: dict[str, Json]) -> Outcome:
    """A cutover that began before anything was replayed."""
    from spectron_migrate.cli import draw_cutover

    def draw_it(console: Console) -> None:
        for part in draw_cutover.overview(under_way):
            console.print(part)

    nothing: dict[str, Json] = {"endpoint": None, "context": None, "source": None, "states": {}, "reasons": []}
    body: dict[str, Json] = {"ledger": str(folder), **nothing, "cutover": under_way}
    return Outcome(ExitCode.DONE, body, draw_it, migration=under_way["migration"], next=under_way["next"])


def _cutover(folder: Path) -> dict[str, Json] | None:
    """Where a cutover stands; None where none ever began."""
    from datetime import UTC, datetime

    from spectron_migrate.cutover.overview import overview

    return overview(folder, now=datetime.now(UTC))


def _next(
    found: Found, standing: MigrationStatus, half_erased: list[str], under_way: dict[str, Json] | None = None
) -> str | None:
    states, migration = standing.states, standing.migration
    if half_erased and migration is not None:
        return f"spectron-migrate erase --migration {migration.id} --scope {half_erased[0]}"
    if found.missing:
        return f"spectron-migrate replay --shard {found.missing[0]}"
    if states.get("undecidable", 0):
        first = next((row.mem0_id for row in standing.named if row.state == "undecidable"), "ID")
        return f"look it up, then spectron-migrate replay --resolve {quote(first)}=present (or =absent)"
    if under_way is not None and (under_way["next"] or under_way["phase"] == "complete"):
        return str(under_way["next"]) if under_way["next"] else None
    if states.get("planned", 0) or states.get("intended", 0) or migration is None:
        return "spectron-migrate replay" + _shard(found)
    if states.get("refused", 0):
        return "mend the reason, then spectron-migrate replay --retry-failed" + _shard(found)
    return "spectron-migrate dual-verify"


def _shards(found: Found) -> str:
    if not found.sharded:
        return ""
    return f", {len(found.folders)} of {counted(len(found.folders) + len(found.missing), 'shard')}"


def _shard(found: Found) -> str:
    return f" --shard i/{len(found.folders)}, for each i" if found.sharded else ""


def draw(
    console: Console, folder: Path, found: Found, standing: MigrationStatus, under_way: dict[str, Json] | None = None
) -> None:
    """One screen."""
    from spectron_migrate.cli import draw_cutover

    for part in _parts(folder, found, standing):
        console.print(part)
    for part in draw_cutover.overview(under_way) if under_way is not None else ():
        console.print(part)


def _parts(folder: Path, found: Found, standing: MigrationStatus) -> Iterator[RenderableType]:
    from spectron_migrate.cli.draw import facts, listing, number

    migration, states = standing.migration, standing.states
    where = f"{migration.endpoint or 'not written to yet'}, context {migration.context}" if migration else "nothing yet"
    rows: list[tuple[str, object]] = [
        ("writes to", where),
        ("comes from", migration.source if migration else "nothing yet"),
        ("state", f"{folder}{_shards(found)}"),
    ]
    total = sum(states.values())
    for name, spoken in _SPOKEN.items():
        if states.get(name) or name == "planned":
            rows.append((spoken, number(states.get(name, 0))))
    if standing.skipped:
        rows.append(("skipped", _reasons(standing.skipped)))
    if standing.late:
        rows.append(("late: supersede nothing", number(standing.late)))
    rows.append(("scopes, sessions", f"{number(standing.scopes)}, {_sessions(standing.sessions)}"))
    rows += [("last run", line) for line in map(_run, standing.runs[:8])]
    if standing.erased:
        rows.append(("erased, planned anew", ", ".join(list(standing.erased)[-5:])))
    rows.append(("probed", _probe(standing)))
    share = f", {100 * standing.written // total} % written" if total else ""
    yield facts(f"Migration {migration.id if migration else '(none yet)'}: {counted(total, 'memory')}{share}", rows)
    if standing.lanes:
        shown = [(lane.lane, number(lane.remaining)) for lane in standing.lanes]
        title = counted(standing.lanes_left, "lane remains", "lanes remain")
        yield listing(f"{title}, those with most to do", ["lane", "remaining"], shown)
    if standing.named:
        held = [(row.mem0_id, row.state, row.reason) for row in standing.named[:8]]
        yield listing("For a person to look at", ["memory", "state", "reason"], held)


_SPOKEN = {
    "written": "written",
    "stored_not_extracted": "stored, not extracted",
    "planned": "remaining",
    "intended": "in doubt",
    "refused": "refused",
    "undecidable": "undecidable",
}


def _reasons(by_reason: dict[str, int]) -> str:
    most = list(by_reason.items())[:6]
    more = f", {len(by_reason) - 6} more reasons" if len(by_reason) > 6 else ""
    return f"{sum(by_reason.values()):,} ({', '.join(f'{reason} {count:,}' for reason, count in most)}{more})"


def _sessions(by_state: dict[str, int]) -> str:
    orphans = by_state.get("orphan", 0) + by_state.get("opening", 0)
    made = sum(by_state.values()) - orphans
    return f"{made:,}" + (f" (and {orphans:,} whose answer never came: empty, if they exist)" if orphans else "")


def _run(run: LastRun) -> str:
    began = run.began[:16].replace("T", " ")
    if run.ended is None:
        if run.is_alive:
            return f"at work since {began} UTC, process {run.process}"
        return f"began {began} UTC and was killed: running again is safe"
    rate = _rate(run)
    speed = f", {rate:,} a second" if rate is not None and run.written else ""
    stopped = f"; stopped: {run.stopped}" if run.stopped else ""
    return f"{began} UTC: {run.written:,} written{speed}, {run.retries:,} retries{stopped}"


def _probe(standing: MigrationStatus) -> str:
    if not standing.probe:
        return "never"
    return f"{standing.probe[0].at[:16].replace('T', ' ')} UTC, {len(standing.probe)} answers"
