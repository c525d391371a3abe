"""`spectron-migrate dual-verify`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli.next_line import shown_path
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
from spectron_migrate.cli.verify_screen import draw
from spectron_migrate.errors import ExitCode, InputError, Unreachable
from spectron_migrate.files.scratch import Scratch
from spectron_migrate.records import Filters, Json

if TYPE_CHECKING:
    from spectron_migrate.cli.verify_next import WayOn
    from spectron_migrate.ledger import Ledger
    from spectron_migrate.mem0.search import Mem0Search
    from spectron_migrate.settings import Settings
    from spectron_migrate.verify.dual_verify import VerifySummary
    from spectron_migrate.verify.options import VerifyOptions
    from spectron_migrate.verify.recall import Mem0Side

IN_FLIGHT = 16


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
            help="Let a gate pass: source, supersession, recall, asked (if undecided), residue, unaccounted;"
            " may be repeated.",
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
        invocation.carry("--dump", *(dump or ()))
        invocation.carry_each({"--mapping": mapping, "--mem0-config": mem0_config, "--mem0-results": mem0_results})
        dumps = dump or ([settings.dump] if settings.dump.exists() else [])
        request = VerifyRequest(
            dumps=dumps,
            filters=read_filters(user, dumps=dumps),
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
    from spectron_migrate.ledger import Ledger
    from spectron_migrate.verify.reports.files import check_paths

    check_paths(request.reports)
    verify_options = _verify_options(settings, request)
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger.open_for_reading(invocation.state))
        mem0 = open_mem0(invocation, settings, request, stack)
        invocation.reporter.info(f"verifying {settings.spectron.endpoint}, context {settings.spectron.context}")
        summary = run_async(invocation, _verify(invocation, settings, request, verify_options, ledger, mem0))
        way = _way_on(invocation, summary, settings, request, ledger)
    return CommandResult(
        summary.exit_code,
        summary.to_json(),
        draw(summary, stop=way.stop),
        migration=summary.report["migration"],
        next=way.next,
        choices=way.choices,
    )


async def _verify(
    invocation: Invocation,
    settings: Settings,
    request: VerifyRequest,
    verify_options: VerifyOptions,
    ledger: Ledger,
    mem0: Mem0Side | None,
) -> VerifySummary:
    from spectron_migrate.mapping import load_mapping
    from spectron_migrate.verify.dual_verify import run_dual_verify

    with ExitStack() as stack:
        dump = stack.enter_context(open_dump(request.dumps)) if request.dumps else None
        async with open_api(settings, max_connections=verify_options.in_flight) as api:
            return await run_dual_verify(
                ledger=ledger,
                api=api,
                dump=dump,
                mapping=load_mapping(settings.mapping),
                mem0_search=mem0,
                options=verify_options,
                reporter=invocation.reporter,
                state=invocation.state,
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
    """The source of Mem0's answers: saved ones, or Mem0 itself.

    None if there is neither, which the gates then report.
    """
    from spectron_migrate.dump.exported_with import remembered_config
    from spectron_migrate.mem0.open import read_mem0_config
    from spectron_migrate.verify.mem0_results import load_results

    if request.mem0_results is not None:
        return load_results(request.mem0_results)
    config = request.mem0_config
    if config is None and settings.mem0 is not None and settings.mem0.kind == "oss":
        config = settings.mem0.config
    if config is None and settings.mem0 is None:
        config = remembered_config(request.dumps)
        if config is not None:
            invocation.reporter.info(f"Mem0 is asked as it was exported: {shown_path(config)}")
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
    """Open Mem0 on a copy of its store or, if opening the store would change it, on a copy made from the dump."""
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


def _way_on(
    invocation: Invocation, summary: VerifySummary, settings: Settings, request: VerifyRequest, ledger: Ledger
) -> WayOn:
    from spectron_migrate.cli.verify_next import WayOn, way_on
    from spectron_migrate.state.following import is_followed
    from spectron_migrate.state.journal import read_journal

    if summary.exit_code != ExitCode.NO_GO:
        return WayOn(_next(invocation, summary, settings))
    cutover, followed = read_journal(invocation.state).state, is_followed(invocation.state)
    may_erase = not (cutover.is_under_way or cutover.ever_shifted or followed)

    def erase_command(mem0_id: str) -> str | None:
        return _erase_line(ledger, summary, mem0_id) if may_erase else None

    return way_on(summary.report, again=_again(request), is_followed=followed, erase_command=erase_command)


def _again(request: VerifyRequest) -> str:
    """The command line of this verification, without options that are always carried over."""
    given = [("--queries", str(request.queries))] if request.queries else []
    given += [("--user", user) for user in sorted(request.filters.users)]
    given += [("--accept", gate) for gate in request.accept]
    return shlex.join(["spectron-migrate", "dual-verify", *(word for pair in given for word in pair)])


def _erase_line(ledger: Ledger, summary: VerifySummary, mem0_id: str) -> str | None:
    """The command that erases the scope of a memory; None if it is in several scopes, or in one that is too large."""
    from spectron_migrate.ledger.read.memories import last_version
    from spectron_migrate.migration.erase import PASSAGES
    from spectron_migrate.records import selector_of

    last, migration = last_version(ledger, mem0_id), summary.report["migration"]
    selector = selector_of(last.selector) if last is not None else ()
    if len(selector) != 1 or len(selector[0]) != 1:
        return None
    held = {row["selector"]: row["memories"] for row in summary.report["scopes"]}
    if held.get(selector, 0) >= PASSAGES:
        return None
    return shlex.join(["spectron-migrate", "erase", "--migration", migration, "--scope", selector[0][0]])


def _next(invocation: Invocation, summary: VerifySummary, settings: Settings) -> str | None:
    from spectron_migrate.state.journal import read_journal

    if summary.exit_code != ExitCode.DONE:
        recall = next(gate for gate in summary.gates if gate.name == "recall")
        return "spectron-migrate dual-verify --sample 1000" if recall.passed is None and recall.measured else None
    if summary.report["options"]["users"]:  # the cutover needs a verification about everybody
        return "spectron-migrate replay" if _is_partly_planned(invocation, settings) else "spectron-migrate dual-verify"
    cutover = read_journal(invocation.state).state
    if cutover.phase == "complete" or settings.mem0 is None or settings.mem0.kind == "files":
        return None
    return "spectron-migrate cutover check" if cutover.is_under_way else "spectron-migrate cutover start"


def _is_partly_planned(invocation: Invocation, settings: Settings) -> bool:
    """Whether the replay was also limited to some users."""
    from spectron_migrate.cli.migration_state import find_unplanned
    from spectron_migrate.ledger import Ledger
    from spectron_migrate.ledger.runs import last_runs

    with Ledger.open_for_reading(invocation.state) as ledger:
        return find_unplanned(ledger, last_runs(ledger), settings.dump) is not None
