"""dual-verify for people: the most telling queries side by side, then the gates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from spectron_migrate.cli.draw import facts, listing, number, plain
from spectron_migrate.records import counted

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    from spectron_migrate.records import Json
    from spectron_migrate.verify.summary import VerifySummary

TELLING = 3
"""Queries that are shown."""
_WIDEST = 90
"""Letters of a hit that are shown."""


def draw(summary: VerifySummary, *, queries: int = TELLING) -> Iterable[RenderableType]:
    """Everything a person sees, from the queries to the verdict."""
    answers = telling(summary.report["answers"], queries)
    if answers:
        yield side_by_side(answers, mem0=summary.report["measured"]["recall"]["mem0"])
    yield memories(summary)
    if summary.report["measured"]["recall"] is not None:
        yield recall(summary.report["measured"]["recall"])
    found = _named(summary)
    if found:
        yield listing("What is wrong", ("what", "memory", "why"), found)
    yield gates(summary)
    yield verdict(summary)


def telling(answers: Sequence[Mapping[str, Json]], n: int) -> list[Mapping[str, Json]]:
    """The queries that say most: what counts against Spectron, then what differs, then what agrees."""

    def weight(answer: Mapping[str, Json]) -> tuple[int, int, int]:
        whys = {one["why"] for one in answer.get("differences") or ()}
        against = bool(whys & {"lost", "unexplained", "superseded_wrongly"})
        return (-against, -bool(whys & {"superseded", "extracted", "folded"}), -len(whys))

    asked = sorted((answer for answer in answers if "spectron" in answer), key=weight)
    seen: Counter[str] = Counter()
    placed = []
    for answer in asked:  # of equally telling ones not all of the same user
        placed.append((weight(answer)[:2], seen[answer["owner"]], answer))
        seen[answer["owner"]] += 1
    return [answer for _, _, answer in sorted(placed, key=lambda one: one[:2])[:n]]


def side_by_side(answers: Sequence[Mapping[str, Json]], *, mem0: str | None) -> Table:
    """Mem0 left, Spectron right; what both found is marked."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_lines=True, expand=True)
    table.add_column(plain(f"Mem0 ({mem0})" if mem0 else "Mem0 (not asked)"), ratio=1, overflow="fold")
    table.add_column(plain("Spectron"), ratio=1, overflow="fold")
    for answer in answers:
        left = answer["mem0"]["hits"] if answer["mem0"] else []
        right = [hit for hit in answer["spectron"]["hits"] if not hit["dropped"]]
        common = {hit["mark"] for hit in left} & {hit["mark"] for hit in right}
        asked = plain(f"{answer['owner']}: {answer['query']}", style="bold", width=_WIDEST)
        table.add_row(
            Group(asked, *_hits(left, common), *_failure(answer["mem0"])),
            Group(
                plain(""),
                *_hits(right, common),
                *_failure(answer["spectron"]),
                *_reasons(answer),
            ),
        )
    return table


def memories(summary: VerifySummary) -> Group:
    """Integrity and isolation in numbers."""
    found, apart = summary.report["measured"]["integrity"], summary.report["measured"]["isolation"]
    rows: list[tuple[str, object]] = [
        ("expected", number(found["expected"])),
        ("present, word for word", number(found["present"])),
    ]
    names = {
        "missing": "missing",
        "altered": "altered",
        "doubled": "doubled",
        "foreign": "turns of others in our sessions",
        "misplaced": "misplaced",
        "order": "out of order",
        "superseded_wrongly": "older over newer",
        "residue": "residue",
        "carried": "in the turns of messages",
        "pending": "pending",
        "stale": "stale",
        "expiring": "about to expire",
        "untestable": "not testable by words",
        "skipped": "skipped",
        "deleted": "deleted in Mem0",
    }
    rows += [(told, number(found[name])) for name, told in names.items() if found[name]]
    rows.append(("pairs of scopes tried", f"{number(apart['pairs'])}, {counted(apart['leaks'], 'leak')}"))
    return facts("Memories", rows)


def recall(found: Mapping[str, Json]) -> Group:
    """Both systems' measures."""
    from spectron_migrate.verify.reports.text import interval_text, share_text

    metrics = found["metrics"]
    rows: list[tuple[str, object]] = [
        ("queries", f"{number(metrics['queries'])}, from {found['made_of']}"),
        (
            "known item found",
            f"Mem0 {share_text(metrics['success']['mem0'])}, Spectron {share_text(metrics['success']['spectron'])}",
        ),
        ("MRR", f"Mem0 {share_text(metrics['mrr']['mem0'])}, Spectron {share_text(metrics['mrr']['spectron'])}"),
    ]
    if metrics["difference"] is not None:
        rows.append(("difference", interval_text(metrics["difference"])))
    if metrics["overlap"] is not None:
        noise = metrics["noise_floor"]["overlap"]
        beside = f" (Mem0 with itself {share_text(noise)})" if noise is not None else ""
        rows.append(("overlap, RBO", f"{share_text(metrics['overlap'])}{beside}, {share_text(metrics['rbo'])}"))
    if metrics["not_servable"]:
        rows += [("not asked", f"{number(n)}: {why}") for why, n in metrics["not_servable_why"].items()]
    if found["explained"]:
        rows.append(("why it differs", ", ".join(f"{why} {n}" for why, n in sorted(found["explained"].items()))))
    return facts("Recall", rows)


def gates(summary: VerifySummary) -> Group:
    """What must hold: in a line what does, in a table what does not, and why."""
    from rich.console import Group

    from spectron_migrate.verify.reports.text import gate_result

    told = [(gate, gate_result(gate.to_json())) for gate in summary.gates]
    passed = [gate.name for gate, said in told if said == "passed"]
    rows = [(gate.name, _value(gate.value), _value(gate.limit), said, gate.hint) for gate, said in told]
    left = [row for row in rows if row[3] != "passed"]
    line = facts(f"Gates: {len(passed)} of {len(told)} passed", [("passed", ", ".join(passed) or "none")])
    return Group(line, listing("", ("gate", "value", "limit", "", ""), left)) if left else line


def verdict(summary: VerifySummary) -> Text:
    """The last line."""
    styles = {"GO": "bold green", "NO_GO": "bold red", "INCONCLUSIVE": "bold yellow"}
    return plain(f"Verdict: {summary.verdict}", style=styles[summary.verdict])


def _hits(hits: Iterable[Mapping[str, Json]], common: set[str]) -> list[Text]:
    rows = []
    for rank, hit in enumerate(hits, 1):
        both = hit["mark"] in common
        rows.append(plain(f"{'=' if both else ' '} {rank} {hit['text']}", width=_WIDEST, style="" if both else "dim"))
    return rows or [plain("  nothing", style="dim")]


def _failure(side: Mapping[str, Json] | None) -> list[Text]:
    return [plain(side["error"], style="red")] if side and side["error"] else []


def _reasons(answer: Mapping[str, Json]) -> list[Text]:
    return [
        plain(f"  {one['id']}: {one['why']}, {one['detail']}", style="italic")
        for one in answer.get("differences") or ()
    ]


def _named(summary: VerifySummary) -> list[tuple[str, str, str]]:
    wrong = ("missing", "altered", "doubled", "foreign", "misplaced", "order", "superseded_wrongly", "leak")
    found = [one for one in summary.report["findings"] if one["kind"] in wrong]
    return [(one["kind"], one["id"] or "-", f"{one['reason']} ({one['where']})") for one in found[:20]]


def _value(value: Json) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return f"{value:+.3f}" if isinstance(value, float) else str(value)
