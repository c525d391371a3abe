"""Draws what `dual-verify` shows: the most informative queries side by side, the counts, the gates, the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from spectron_migrate.cli.tables import facts, listing, number, plain, side_by_side
from spectron_migrate.records import Json, counted
from spectron_migrate.verify.reports.text import rank_change, reason_text
from spectron_migrate.verify.reports.wording import is_isolation_tested, verdict_sentence, verdict_title

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from spectron_migrate.verify.dual_verify import VerifySummary

QUERIES_SHOWN = 3
WIDEST = 90
"""The most characters of a hit that are shown."""
LONGEST_REASON = 40
LEGEND = "= both found it; 3 → 1: rank in Mem0 → in Spectron; (…): why only Mem0 found it"
"""What the marks in the two columns mean."""


def draw(summary: VerifySummary, *, stop: str = "") -> Iterator[RenderableType]:
    """The most informative queries side by side, the counts, what is wrong, the gates, the verdict."""
    measured = summary.report["measured"]
    queries = most_informative(summary.report["answers"], QUERIES_SHOWN)
    for query in queries:
        yield from _draw_query(query)
    if queries:
        yield plain(LEGEND, style="dim")
    yield facts("Memories", _memory_rows(summary.report))
    if measured["recall"] is not None:
        yield facts("Recall", _recall_rows(measured["recall"]))
    wrong = _wrong_memories(summary)
    if wrong:
        yield listing("What is wrong", ("what", "memory", "why"), wrong)
    yield from _draw_gates(summary)
    styles = {"GO": "bold green", "NO_GO": "bold red", "INCONCLUSIVE": "bold yellow"}
    yield plain(f"Verdict: {verdict_title(summary.report)}", style=styles[summary.verdict])
    yield plain(verdict_sentence(summary.report))
    if stop:
        yield plain(f"stop: {stop}", style="bold red")
    for report in summary.reports:
        yield f"report: {report}"


def most_informative(answers: Sequence[Mapping[str, Json]], n: int) -> list[Mapping[str, Json]]:
    """At most `n` queries: first those that count against Spectron, then those that differ, then those that agree.

    Among equals, the queries of different users come before a second query of the same user.
    """

    def rank(answer: Mapping[str, Json]) -> tuple[int, int, int]:
        whys = {one["why"] for one in answer.get("differences") or ()}
        against = bool(whys & {"lost", "unexplained", "superseded_wrongly"})
        return (-against, -bool(whys & {"superseded", "extracted", "folded"}), -len(whys))

    by_rank = sorted((answer for answer in answers if "spectron" in answer), key=rank)
    seen: Counter[str] = Counter()
    ranked = []
    for answer in by_rank:
        ranked.append((rank(answer)[:2], seen[answer["owner"]], answer))
        seen[answer["owner"]] += 1
    return [answer for _, _, answer in sorted(ranked, key=lambda one: one[:2])[:n]]


def _draw_query(answer: Mapping[str, Json]) -> Iterator[RenderableType]:
    """A question, and both answers rank by rank; `=` marks what both found, `3 → 1` what moved."""
    yield plain(f"{answer['owner']} asks: {answer['query']}", style="bold", width=WIDEST)
    left = answer["mem0"]["hits"] if answer["mem0"] else []
    right = [hit for hit in answer["spectron"]["hits"] if not hit["dropped"]]
    ranks = {hit["id"]: rank for rank, hit in enumerate(left, 1)}
    found = {hit["memory"] for hit in right}
    reasons = {one["id"]: f" ({_short_reason(one)})" for one in answer.get("differences") or ()}
    mem0 = [
        _hit(str(rank), hit, is_common=hit["id"] in found, why=reasons.get(hit["id"], ""))
        for rank, hit in enumerate(left, 1)
    ]
    spectron = [
        _hit(rank_change(ranks.get(hit["memory"]), rank), hit, is_common=hit["memory"] in ranks)
        for rank, hit in enumerate(right, 1)
    ]
    nothing = plain("  nothing", style="dim")
    mem0 = [*(mem0 or [nothing]), *_failure(answer["mem0"])]
    spectron = [*(spectron or [nothing]), *_failure(answer["spectron"])]
    rows = max(len(mem0), len(spectron))
    columns = [[*side, *[plain("")] * (rows - len(side))] for side in (mem0, spectron)]
    titles = ("Mem0" if answer["mem0"] else "Mem0 (not asked)", "Spectron")
    yield side_by_side(titles, zip(columns[0], columns[1], strict=True))


def _short_reason(difference: Mapping[str, Json]) -> str:
    """The rank, or else a short reason. Ids and times are in the reports."""
    whole = reason_text(difference)
    return whole if len(whole) <= LONGEST_REASON else reason_text({**difference, "detail": ""})


def _hit(ranks: str, hit: Mapping[str, Json], *, is_common: bool, why: str = "") -> Text:
    text = plain(hit["text"], width=WIDEST - len(why))
    return plain(f"{'=' if is_common else ' '} {ranks}  {text}{why}", style="" if is_common else "dim")


def _failure(side: Mapping[str, Json] | None) -> list[Text]:
    return [plain(side["error"], style="red")] if side and side["error"] else []


def _memory_rows(report: Mapping[str, Json]) -> list[tuple[str, object]]:
    integrity, isolation = report["measured"]["integrity"], report["measured"]["isolation"]
    pairs = f"{number(isolation['pairs'])}, {counted(isolation['leaks'], 'leak')}"
    labels = {
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
    return [
        ("expected", number(integrity["expected"])),
        ("present, word for word", number(integrity["present"])),
        *((label, number(integrity[name])) for name, label in labels.items() if integrity[name]),
        *_traced_rows(integrity["traced"]),
        ("pairs of scopes tested", pairs if is_isolation_tested(report) else "none: isolation was not tested"),
    ]


def _traced_rows(traced: Mapping[str, Json]) -> list[tuple[str, object]]:
    if not traced["told"]:
        return [("facts by memory", f"cannot be known: {traced['why']}")]
    named = f"{counted(traced['attributes'], 'attribute')}, {counted(traced['relations'], 'relation')}"
    untraced = f"; {number(traced['untraced'])} more name no memory of this migration" if traced["untraced"] else ""
    elsewhere = f"; {number(traced['elsewhere'])} in another scope" if traced["elsewhere"] else ""
    return [("facts by memory", named + untraced + elsewhere)]


def _recall_rows(recall: Mapping[str, Json]) -> list[tuple[str, object]]:
    from spectron_migrate.verify.reports.text import difficulty_text, interval_text, share_text

    def both(measure: Mapping[str, Json]) -> str:
        return f"Mem0 {share_text(measure['mem0'])}, Spectron {share_text(measure['spectron'])}"

    metrics = recall["metrics"]
    rows: list[tuple[str, object]] = [
        ("Mem0", recall["mem0"] or "not asked"),
        ("queries", f"{number(metrics['queries'])}, from {recall['made_of']}"),
        ("known item found", both(metrics["success"])),
        ("MRR", both(metrics["mrr"])),
    ]
    if metrics["word_overlap"] is not None:
        rows.append(("how hard", difficulty_text(metrics["word_overlap"])))
    if metrics["difference"] is not None:
        rows.append(("difference", interval_text(metrics["difference"])))
    if metrics["overlap"] is not None:
        noise = metrics["noise_floor"]["overlap"]
        floor = f" (Mem0 with itself {share_text(noise)})" if noise is not None else ""
        rows.append(("overlap, RBO", f"{share_text(metrics['overlap'])}{floor}, {share_text(metrics['rbo'])}"))
    if metrics["not_servable"]:
        rows += [("not asked", f"{number(n)}: {why}") for why, n in metrics["not_servable_why"].items()]
    if recall["explained"]:
        rows.append(
            (
                "why they differ",
                ", ".join(f"{why.replace('_', ' ')} {n}" for why, n in sorted(recall["explained"].items())),
            )
        )
    return rows


def _wrong_memories(summary: VerifySummary) -> list[tuple[str, str, str]]:
    wrong = (
        "missing",
        "altered",
        "doubled",
        "foreign",
        "misplaced",
        "order",
        "superseded_wrongly",
        "leak",
        "unaccounted",
    )
    found = [one for one in summary.report["findings"] if one["kind"] in wrong]
    return [(one["kind"], one["id"] or "-", f"{one['reason']} ({one['where']})") for one in found[:20]]


def _draw_gates(summary: VerifySummary) -> Iterator[RenderableType]:
    """The gates that pass, on one line with remarks on some; the others, in a table with their hints."""
    from spectron_migrate.verify.reports.text import gate_result

    outcomes = [(gate, gate_result(gate.to_json())) for gate in summary.gates]
    passed = [gate.name for gate, word in outcomes if word == "passed"]
    notes = [(gate.name, gate.hint) for gate, word in outcomes if word == "passed" and gate.hint]
    yield facts(f"Gates: {len(passed)} of {len(outcomes)} passed", [("passed", ", ".join(passed) or "none"), *notes])
    others = [
        (gate.name, _value(gate.value), _value(gate.limit), word, gate.hint)
        for gate, word in outcomes
        if word != "passed"
    ]
    if others:
        yield listing("", ("gate", "value", "limit", "", ""), others)


def _value(value: Json) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return f"{value:+.3f}" if isinstance(value, float) else str(value)
