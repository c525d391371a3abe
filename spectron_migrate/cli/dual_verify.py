"""`spectron-migrate dual-verify`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli.opening import open_api, open_dump
from spectron_migrate.cli.options import (
    DumpOption,
    GlobalOptions,
    MappingOption,
    UserOption,
    read_filters,
    with_global_options,
)
from spectron_migrate.cli.runner import CommandResult, Invocation, run_async, run_command
from spectron_migrate.cli.tables import facts, listing, number, plain, side_by_side
from spectron_migrate.errors import ExitCode, InputError, Unreachable
from spectron_migrate.files.scratch import Scratch
from spectron_migrate.records import Filters, Json, counted
from spectron_migrate.verify.reports.text import rank_change, reason_text
from spectron_migrate.verify.reports.wording import verdict_sentence

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from spectron_migrate.ledger import Ledger
    from spectron_migrate.mem0.search import Mem0Search
    from spectron_migrate.settings import Settings
    from spectron_migrate.verify.dual_verify import VerifySummary
    from spectron_migrate.verify.options import VerifyOptions
    from spectron_migrate.verify.recall import Mem0Side

IN_FLIGHT = 16
QUERIES_SHOWN = 3
WIDEST = 90
"""Characters of a hit that are shown."""


@dataclass(frozen=True)
class VerifyRequest:
    """The options of one verification."""

    dumps: list[Path]
    filters: Filters = field(default_factory=Filters)
    mem0_config: str | None = None
    mem0_results: Path | None = None
    queries: Path | None = None
    sample: int = 200
    seed: int = 0
    top_k: int | None = None
    report_texts: bool = False
    accept: tuple[str, ...] = ()
    reports: tuple[Path, ...] = ()


@with_global_options
def command(
    options: GlobalOptions,
    dump: DumpOption = None,
    mapping: MappingOption = None,
    mem0_config: Annotated[
        str | None,
        typer.Option("--mem0-config", help="Mem0's own config: Mem0 is asked the same queries.", metavar="FILE"),
    ] = None,
    mem0_results: Annotated[
        Path | None,
        typer.Option("--mem0-results", help="Mem0's answers, saved before; Mem0 itself is not asked.", metavar="FILE"),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries", help="Queries (.txt, .jsonl, .csv, .yaml); else made from the memories.", metavar="FILE"
        ),
    ] = None,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Number of queries to make.", metavar="N")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="The same seed makes the same queries.", metavar="N")] = 0,
    user: UserOption = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, max=50, help="Hits to compare (5).", metavar="K")
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            "--accept",
            help="Let a gate pass: source, supersession, recall, asked (if undecided) or residue; may be repeated.",
            metavar="GATE",
        ),
    ] = None,
    report_texts: Annotated[
        bool, typer.Option("--report-texts", help="Also put texts into the reports for CI.")
    ] = False,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            "--report", help="Report file: .json, .md, .html or .xml (JUnit); may be repeated.", metavar="FILE"
        ),
    ] = None,
) -> int:
    """Verify that every memory arrived, that none leaks to another user, and that recall is as good as Mem0's.

    \b
    Example: spectron-migrate dual-verify
             spectron-migrate dual-verify --sample 1000 --report verify.html --report verify.md
    """

    def run_with_options(invocation: Invocation) -> CommandResult:
        settings = invocation.settings({"mapping": mapping})
        request = VerifyRequest(
            dumps=dump or ([settings.dump] if settings.dump.exists() else []),
            filters=read_filters(user),
            mem0_config=mem0_config,
            mem0_results=mem0_results,
            queries=queries or settings.verify.queries,
            sample=sample,
            seed=seed,
            top_k=top_k,
            report_texts=report_texts,
            accept=tuple(accept or ()),
            reports=tuple(report or settings.verify.reports),
        )
        return run(invocation, settings, request)

    return run_command("dual-verify", options, run_with_options)


def run(invocation: Invocation, settings: Settings, request: VerifyRequest) -> CommandResult:
    """Verify against Spectron and, if it can be searched, Mem0; writes the reports."""
    from spectron_migrate.ledger.shards import open_all
    from spectron_migrate.verify.reports.files import check_paths

    check_paths(request.reports)
    verify_options = _verify_options(settings, request)
    with ExitStack() as stack:
        ledgers = [stack.enter_context(ledger) for ledger in open_all(settings.state)]
        mem0 = open_mem0(invocation, settings, request, stack)
        invocation.reporter.info(f"verifying {settings.spectron.endpoint}, context {settings.spectron.context}")
        summary = run_async(_verify(invocation, settings, request, verify_options, ledgers, mem0))
    return CommandResult(
        summary.exit_code,
        summary.to_json(),
        draw(summary),
        migration=summary.report["migration"],
        next=_next(summary, settings),
    )


async def _verify(
    invocation: Invocation,
    settings: Settings,
    request: VerifyRequest,
    verify_options: VerifyOptions,
    ledgers: list[Ledger],
    mem0: Mem0Side | None,
) -> VerifySummary:
    from spectron_migrate.mapping import load_mapping
    from spectron_migrate.verify.dual_verify import run_dual_verify

    with ExitStack() as stack:
        dump = stack.enter_context(open_dump(request.dumps)) if request.dumps else None
        async with open_api(settings, max_connections=verify_options.in_flight) as api:
            return await run_dual_verify(
                ledger=ledgers,
                api=api,
                dump=dump,
                mapping=load_mapping(settings.mapping),
                mem0_search=mem0,
                options=verify_options,
                reporter=invocation.reporter,
                state=settings.state,
            )


def _verify_options(settings: Settings, request: VerifyRequest) -> VerifyOptions:
    from spectron_migrate.verify.options import VerifyOptions
    from spectron_migrate.verify.queries import load_queries

    users = request.filters.users
    only_user = next(iter(users)) if len(users) == 1 else None
    return VerifyOptions(
        filters=request.filters,
        queries=load_queries(request.queries, user_id=only_user) if request.queries is not None else None,
        sample=request.sample,
        seed=request.seed,
        top_k=request.top_k or settings.verify.top_k,
        margin=settings.verify.margin,
        min_overlap=settings.verify.min_overlap,
        in_flight=IN_FLIGHT,
        report_texts=request.report_texts,
        accepted_gates=frozenset(request.accept),
        reports=request.reports,
    )


def open_mem0(invocation: Invocation, settings: Settings, request: VerifyRequest, stack: ExitStack) -> Mem0Side | None:
    """What answers for Mem0: saved answers, or Mem0 itself; None where neither can, which the gates then say."""
    from spectron_migrate.mem0.open import read_mem0_config
    from spectron_migrate.verify.mem0_results import load_results

    if request.mem0_results is not None:
        return load_results(request.mem0_results)
    config = request.mem0_config
    if config is None and settings.mem0 is not None and settings.mem0.kind == "oss":
        config = settings.mem0.config
    if config is None:
        return None
    try:
        return stack.enter_context(_open_search(invocation, read_mem0_config(config), request, stack))
    except (InputError, Unreachable) as error:
        if request.mem0_config is not None:
            raise
        invocation.reporter.warn(f"recall is not compared: {error.message}")
        return None


def _open_search(
    invocation: Invocation, config: Mapping[str, Json], request: VerifyRequest, stack: ExitStack
) -> Mem0Search:
    """Mem0 on a copy of its store, or, where opening the store would change it, on a copy made of the dump."""
    from spectron_migrate.mem0.dump_search import needs_copy_of_dump, open_dump_search
    from spectron_migrate.mem0.search import open_search

    scratch = stack.enter_context(Scratch())
    if not request.dumps or not needs_copy_of_dump(config):
        return open_search(config, scratch=scratch)
    invocation.reporter.info(
        "Mem0's search runs on a copy made of the dump, because opening this store could change it: the memories of"
        " each user that is asked about are embedded again"
    )
    with open_dump(request.dumps) as dump:
        return open_dump_search(config, dump.memories(), scratch=scratch)


def _next(summary: VerifySummary, settings: Settings) -> str | None:
    from spectron_migrate.state.journal import read_journal

    if summary.exit_code == ExitCode.NO_GO:
        return "spectron-migrate replay"
    if summary.exit_code != ExitCode.DONE:
        recall = next(gate for gate in summary.gates if gate.name == "recall")
        return "spectron-migrate dual-verify --sample 1000" if recall.passed is None and recall.measured else None
    cutover = read_journal(settings.state).state
    if cutover.phase == "complete" or settings.mem0 is None or settings.mem0.kind == "files":
        return None
    return "spectron-migrate cutover check" if cutover.is_under_way else "spectron-migrate cutover start"


def draw(summary: VerifySummary) -> Iterator[RenderableType]:
    """The most informative queries side by side, the counts, what is wrong, the gates, the verdict."""
    measured = summary.report["measured"]
    queries = most_informative(summary.report["answers"], QUERIES_SHOWN)
    for query in queries:
        yield from _draw_query(query)
    yield facts("Memories", _memory_rows(measured["integrity"], measured["isolation"]))
    if measured["recall"] is not None:
        yield facts("Recall", _recall_rows(measured["recall"]))
    wrong = _wrong_memories(summary)
    if wrong:
        yield listing("What is wrong", ("what", "memory", "why"), wrong)
    yield from _draw_gates(summary)
    styles = {"GO": "bold green", "NO_GO": "bold red", "INCONCLUSIVE": "bold yellow"}
    yield plain(f"Verdict: {summary.verdict}", style=styles[summary.verdict])
    yield plain(verdict_sentence(summary.report))
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
    reasons = {one["id"]: f" ({reason_text(one)})" for one in answer.get("differences") or ()}
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


def _hit(ranks: str, hit: Mapping[str, Json], *, is_common: bool, why: str = "") -> Text:
    text = plain(hit["text"], width=WIDEST - len(why))
    return plain(f"{'=' if is_common else ' '} {ranks}  {text}{why}", style="" if is_common else "dim")


def _failure(side: Mapping[str, Json] | None) -> list[Text]:
    return [plain(side["error"], style="red")] if side and side["error"] else []


def _memory_rows(integrity: Mapping[str, Json], isolation: Mapping[str, Json]) -> list[tuple[str, object]]:
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
        ("pairs of scopes tested", f"{number(isolation['pairs'])}, {counted(isolation['leaks'], 'leak')}"),
    ]


def _traced_rows(traced: Mapping[str, Json]) -> list[tuple[str, object]]:
    if not traced["told"]:
        return [("facts by memory", f"cannot be known: {traced['why']}")]
    named = f"{counted(traced['attributes'], 'attribute')}, {counted(traced['relations'], 'relation')}"
    untraced = f"; {number(traced['untraced'])} of no known memory" if traced["untraced"] else ""
    elsewhere = f"; {number(traced['elsewhere'])} in another scope" if traced["elsewhere"] else ""
    return [("facts by memory", named + untraced + elsewhere)]


def _recall_rows(recall: Mapping[str, Json]) -> list[tuple[str, object]]:
    from spectron_migrate.verify.reports.text import interval_text, share_text

    def both(measure: Mapping[str, Json]) -> str:
        return f"Mem0 {share_text(measure['mem0'])}, Spectron {share_text(measure['spectron'])}"

    metrics = recall["metrics"]
    rows: list[tuple[str, object]] = [
        ("Mem0", recall["mem0"] or "not asked"),
        ("queries", f"{number(metrics['queries'])}, from {recall['made_of']}"),
        ("known item found", both(metrics["success"])),
        ("MRR", both(metrics["mrr"])),
    ]
    if metrics["difference"] is not None:
        rows.append(("difference", interval_text(metrics["difference"])))
    if metrics["overlap"] is not None:
        noise = metrics["noise_floor"]["overlap"]
        floor = f" (Mem0 with itself {share_text(noise)})" if noise is not None else ""
        rows.append(("overlap, RBO", f"{share_text(metrics['overlap'])}{floor}, {share_text(metrics['rbo'])}"))
    if metrics["not_servable"]:
        rows += [("not asked", f"{number(n)}: {why}") for why, n in metrics["not_servable_why"].items()]
    if recall["explained"]:
        rows.append(("why they differ", ", ".join(f"{why} {n}" for why, n in sorted(recall["explained"].items()))))
    return rows


def _wrong_memories(summary: VerifySummary) -> list[tuple[str, str, str]]:
    wrong = ("missing", "altered", "doubled", "foreign", "misplaced", "order", "superseded_wrongly", "leak")
    found = [one for one in summary.report["findings"] if one["kind"] in wrong]
    return [(one["kind"], one["id"] or "-", f"{one['reason']} ({one['where']})") for one in found[:20]]


def _draw_gates(summary: VerifySummary) -> Iterator[RenderableType]:
    """The gates that pass in one line, with what some of them stand on; the others in a table with their hints."""
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
