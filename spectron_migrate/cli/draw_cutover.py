"""A cutover for people, as `status` shows it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from spectron_migrate.cli.draw import facts, listing, number
from spectron_migrate.cli.draw_replay import spoken
from spectron_migrate.records import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.records import Json


def overview(told: dict[str, Json]) -> Iterable[RenderableType]:
    """Where it stands, and its last steps."""
    rows: list[tuple[str, object]] = [("read from Spectron", f"{told['percent']:g} % of users")]
    pinned = told["pinned_count"]
    if any(pinned.values()):
        rows.append(("pinned", f"{number(pinned['spectron'])} to Spectron, {number(pinned['mem0'])} to Mem0"))
    following = "yes" if told["following"] else "no"
    rows.append(("following", f"{following}: {told['problem']}" if told["problem"] else following))
    if told["lag_s"] is not None:
        who = {None: "everybody is behind", 0: "nobody is behind"}.get(
            told["behind"], f"{told['behind']} ids are behind and read from Mem0"
        )
        rows.append(("Spectron has all of", f"{told['as_of'][:19]}Z, {spoken(told['lag_s'])} ago; {who}"))
    rows.append(("routing.json", told["routing"]))
    if told["journal_altered_at_line"] is not None:
        rows.append(("journal", f"changed by somebody from line {told['journal_altered_at_line']} on"))
    yield facts(f"Cutover: {told['phase']}", rows)
    if told["application"] is not None:
        yield facts("The application", _application(told["application"]))
    if told["steps"]:
        steps = [
            (f"{step['at'][:19]}Z", " ".join([step["step"], step.get("what", "")]), step["who"], step["why"])
            for step in told["steps"]
        ]
        yield listing("Its last steps", ("when", "step", "who", "why"), steps)


def _application(told: dict[str, Json]) -> list[tuple[str, object]]:
    """What its processes say."""
    reads = ", ".join(f"{number(count)} {where}" for where, count in sorted(told["reads"].items()))
    rows: list[tuple[str, object]] = [("processes", number(told["processes"])), ("searches", reads or "none yet")]
    for each in told["guarded"]:
        where = f"process {each['pid']} on {each['host']}"
        rows.append(("back on Mem0", f"{where} since {each['since'][:19]}Z: {each['reason']}"))
    if told["shadow"] is not None:
        shadow = told["shadow"]
        found = "" if shadow["mean_overlap"] is None else f", {shadow['mean_overlap']:.0%} of Mem0's answers found"
        rows.append(("shadow reads", f"{number(shadow['asked'])} asked, {number(shadow['failed'])} failed{found}"))
    rows += [("only Mem0 can", f"{name}, {counted(count, 'time')} in 7 days") for name, count in told["calls"].items()]
    return rows + [("trouble", problem) for problem in told["problems"]]
