"""`spectron-migrate dual-verify`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli import options, replay
from spectron_migrate.cli.conduct import Outcome, Stage, conduct, run_loop
from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.files.scratch import Scratch
from spectron_migrate.records import Filters

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from spectron_migrate.ledger import Ledger
    from spectron_migrate.settings import Settings
    from spectron_migrate.verify.dual_verify import VerifySummary
    from spectron_migrate.verify.options import VerifyOptions
    from spectron_migrate.verify.recall import Mem0Side

IN_FLIGHT = 16


@dataclass(frozen=True)
class Asked:
    """What is to be verified, and against what."""

    dumps: list[Path]
    filters: Filters = field(default_factory=Filters)
    mem0_config: str | None = None
    mem0_results: Path | None = None
    queries: Path | None = None
    sample: int = 200
    seed: int = 0
    top_k: int | None = None
    report_texts: bool = False
    reports: tuple[Path, ...] = ()


def command(
    dump: options.DumpOption = None,
    mapping: options.MappingOption = None,
    mem0_config: Annotated[
        str | None,
        typer.Option("--mem0-config", help="Mem0's own config, to ask it the same questions.", metavar="FILE"),
    ] = None,
    mem0_results: Annotated[
        Path | None,
        typer.Option("--mem0-results", help="A saved run of Mem0's answers stands in for Mem0.", metavar="FILE"),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries", help="Questions (.txt, .jsonl, .csv, .yaml); else made from the memories.", metavar="FILE"
        ),
    ] = None,
    sample: Annotated[int, typer.Option("--sample", min=1, help="How many questions to make.", metavar="N")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="The same seed makes the same questions.", metavar="N")] = 0,
    user: options.UserOption = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, max=50, help="Hits to compare (5).", metavar="K")
    ] = None,
    report_texts: Annotated[
        bool, typer.Option("--report-texts", help="Put texts into the reports for CI too.")
    ] = False,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            "--report", help="Report file: .json, .md, .html or .xml (JUnit); may be repeated.", metavar="FILE"
        ),
    ] = None,
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Prove that everything arrived, that nothing leaks, and that recall is as good; a verdict for a gate.

    \b
    Example: spectron-migrate dual-verify
             spectron-migrate dual-verify --sample 1000 --report verify.html --report verify.md
    """

    def work(stage: Stage) -> Outcome:
        settings = stage.settings({"mapping": mapping})
        asked = Asked(
            dumps=dump or ([settings.dump] if settings.dump.exists() else []),
            filters=options.filters(user, None, None),
            mem0_config=mem0_config,
            mem0_results=mem0_results,
            queries=queries or settings.verify.queries,
            sample=sample,
            seed=seed,
            top_k=top_k,
            report_texts=report_texts,
            reports=tuple(report or settings.verify.reports),
        )
        return perform(stage, settings, asked)

    return conduct("dual-verify", options.common(config, state, as_json, quiet, verbose), work)


def perform(stage: Stage, settings: Settings, asked: Asked) -> Outcome:
    """Run the step."""
    from spectron_migrate.cli.draw_verify import draw
    from spectron_migrate.ledger.shards import open_all
    from spectron_migrate.verify.reports.files import check_paths

    check_paths(asked.reports)
    chosen = _options(settings, asked)
    with ExitStack() as open_things:
        ledgers = [open_things.enter_context(ledger) for ledger in open_all(settings.state)]
        mem0 = _mem0_side(stage, settings, asked, open_things)
        stage.line(f"verifying {settings.spectron.endpoint}, context {settings.spectron.context}")
        summary = run_loop(_run(stage, settings, asked, chosen, ledgers, mem0))
    migration = summary.report["migration"]
    return Outcome(
        summary.exit_code,
        summary.to_json(),
        lambda console: _print_all(console, draw(summary), summary.reports),
        migration=migration,
        next=_next(summary, settings),
    )


def _print_all(console: Console, parts: Iterable[RenderableType], reports: Sequence[str]) -> None:
    for part in parts:
        console.print(part)
    for report in reports:
        console.print(f"report: {report}")


async def _run(
    stage: Stage, settings: Settings, asked: Asked, chosen: VerifyOptions, ledgers: list[Ledger], mem0: Mem0Side | None
) -> VerifySummary:
    from spectron_migrate.mapping import load_mapping
    from spectron_migrate.verify.dual_verify import run_dual_verify

    with ExitStack() as open_things:
        dump = open_things.enter_context(replay.open_dumps(asked.dumps)) if asked.dumps else None
        async with replay.open_api(settings, max_connections=chosen.in_flight) as api:
            return await run_dual_verify(
                ledger=ledgers,
                api=api,
                dump=dump,
                mapping=load_mapping(settings.mapping),
                mem0_search=mem0,
                options=chosen,
                reporter=stage.reporter,
                state=settings.state,
            )


def _options(settings: Settings, asked: Asked) -> VerifyOptions:
    from spectron_migrate.verify.options import VerifyOptions
    from spectron_migrate.verify.queries import load_queries

    user = next(iter(asked.filters.users)) if len(asked.filters.users) == 1 else None
    return VerifyOptions(
        filters=asked.filters,
        queries=load_queries(asked.queries, user_id=user) if asked.queries is not None else None,
        sample=asked.sample,
        seed=asked.seed,
        top_k=asked.top_k or settings.verify.top_k,
        margin=settings.verify.margin,
        min_overlap=settings.verify.min_overlap,
        in_flight=IN_FLIGHT,
        report_texts=asked.report_texts,
        reports=asked.reports,
    )


def _mem0_side(stage: Stage, settings: Settings, asked: Asked, open_things: ExitStack) -> Mem0Side | None:
    """Who answers for Mem0; None where nobody can, which is then said in the gates."""
    from spectron_migrate.mem0.open import read_mem0_config
    from spectron_migrate.mem0.search import open_search

    if asked.mem0_results is not None:
        from spectron_migrate.verify.mem0_results import load_results

        return load_results(asked.mem0_results)
    named = asked.mem0_config
    if named is None and settings.mem0 is not None and settings.mem0.kind == "oss":
        named = settings.mem0.config
    if named is None:
        return None
    scratch = open_things.enter_context(Scratch())
    try:
        return open_things.enter_context(open_search(read_mem0_config(named), scratch=scratch))
    except InputError as error:
        if asked.mem0_config is not None:
            raise
        stage.reporter.warn(f"recall is not compared: {error.message}")
        return None


def _next(summary: VerifySummary, settings: Settings) -> str | None:
    from spectron_migrate.state.journal import read_journal

    if summary.exit_code == ExitCode.NO_GO:
        return "spectron-migrate replay"
    if summary.exit_code != ExitCode.DONE:
        return "spectron-migrate dual-verify --sample 1000"
    cutover = read_journal(settings.state).state
    if cutover.phase == "complete" or settings.mem0 is None or settings.mem0.kind == "files":
        return None
    return "spectron-migrate cutover check" if cutover.under_way else "spectron-migrate cutover start"
