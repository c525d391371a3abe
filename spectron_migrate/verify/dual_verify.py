"""The steps of dual-verify: expectations, integrity, isolation and recall, then report and verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from spectron_migrate import __version__
from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.delivery.uncertain import read_uncertainties
from spectron_migrate.dump import Dump
from spectron_migrate.errors import MigrateError
from spectron_migrate.files.private import make_private_directory
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import receipts
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.records import Json, canonical_json, counted, digest, format_time
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.store import StateStore, store_at
from spectron_migrate.state.uncertain import Uncertainties
from spectron_migrate.verify.acceptances import with_acceptances
from spectron_migrate.verify.differences import Explainer
from spectron_migrate.verify.expected import index_receipts, record_expectations
from spectron_migrate.verify.integrity import check_sessions
from spectron_migrate.verify.isolation import check_isolation, scope_readers
from spectron_migrate.verify.metrics import Metrics, collect_metrics
from spectron_migrate.verify.near_duplicates import NearDuplicates
from spectron_migrate.verify.options import Query, VerifyOptions
from spectron_migrate.verify.other_lenses import check_other_lenses
from spectron_migrate.verify.past import keep, read_past
from spectron_migrate.verify.placement import check_placement
from spectron_migrate.verify.preconditions import check_filters, check_ledger, check_options, check_server
from spectron_migrate.verify.queries import generate_queries
from spectron_migrate.verify.recall import Mem0Side, RecallTest
from spectron_migrate.verify.reports.files import check_paths, write_reports
from spectron_migrate.verify.reports.json_file import LAST_REPORT, LAST_REPORT_OF_SOME, json_report
from spectron_migrate.verify.summary import VerifySummary, dump_completeness, integrity_counts, summarise
from spectron_migrate.verify.supersession import EntityHistories, check_supersession
from spectron_migrate.verify.traces import check_traces
from spectron_migrate.verify.unaccounted import count_unaccounted
from spectron_migrate.verify.word_overlap import measure_word_overlap
from spectron_migrate.verify.workspace import Workspace

__all__ = ["VerifySummary", "run_dual_verify"]

RESUMABLE_FOR = timedelta(hours=12)
"""A stopped run that is older than this is not resumed, because its findings are too old."""
RECALL_IN_FLIGHT = 4
"""Recall is timed, so few queries are in flight at once."""


async def run_dual_verify(
    *,
    ledger: Ledger,
    api: SpectronApi,
    dump: Dump | None,
    mapping: ScopeMapping,
    mem0_search: Mem0Side | None,
    options: VerifyOptions,
    reporter: Reporter,
    state: Path | StateStore | None = None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    rng: Random | None = None,
) -> VerifySummary:
    """Verify what this ledger wrote; resumes a run that was stopped.

    `dump` is the replayed dump or a newer one. Without it, only the ledger says what should be in Spectron. `state` is
    for the report, and its directory for the workspace (default: that of the ledger). `clock` is monotonic, in seconds.

    Raises InputError if there is nothing to verify, WrongLedger for a ledger of another context, source or server,
    KeyRefused for a key that may not read what was written, Unreachable if a system does not answer.
    """
    check_options(options)
    check_paths(options.reports)
    check_ledger(ledger, api)
    check_filters(ledger, dump, options.filters)
    await check_server(ledger, api)
    store = store_at(state or _state_of(ledger))
    make_private_directory(store.work_folder)
    options = with_acceptances(options, store, ledger)
    work = Workspace.open(
        store.work_folder / "verify.db",
        ledger,
        about=_fingerprint(ledger, api, dump, mapping, mem0_search, options),
        not_before=format_time(now() - RESUMABLE_FOR),
        now=format_time(now()),
    )
    finished = False
    try:
        run = _Run(work, api, mapping, options, reporter, clock, now(), rng or Random(options.seed))
        measured = {**await run.measure(dump, mem0_search), "unaccounted": count_unaccounted(work, store)}
        uncertain = await read_uncertainties(api, ledger, mapping.id_label, now=format_time(now()))
        summary = summarise(work, api, dump, mapping, options, measured, run.metrics, format_time(now()))
        summary = replace(summary, report={**summary.report, **_history_of(store, summary, uncertain)})
        kept = _keep_report(store, summary, options)
        files = write_reports(summary.report, options.reports, texts=options.report_texts)
        finished = True
    finally:
        work.close(finished=finished)
    return replace(summary, reports=files, whole=store.describe(kept))


def _history_of(store: StateStore, summary: VerifySummary, uncertain: Uncertainties) -> dict[str, Json]:
    """What the report contains besides measurements: uncertainties, earlier verdicts, and steps of the cutover."""
    return {
        "uncertain": uncertain.to_json(texts=False),
        "past": read_past(store, summary.report["migration"]),
        "cutover": [
            {name: step.to_json().get(name) for name in ("step", "at", "who", "why", "percent", "gate")}
            for step in read_journal(store).steps
        ],
    }


def _keep_report(store: StateStore, summary: VerifySummary, options: VerifyOptions) -> str:
    """Store the report in the state; returns its name there."""
    # The gates of the cutover must not mistake a verdict about some users for one about all of them.
    kept = LAST_REPORT_OF_SOME if options.filters else LAST_REPORT
    store.write(kept, json_report(summary.report).encode("utf-8", "backslashreplace"))
    if not options.filters:
        keep(store, summary.report)
    return kept


def _state_of(ledger: Ledger) -> Path | PostgresLocation:
    return ledger.path.parent if isinstance(ledger.path, Path) else ledger.path


@dataclass
class _Run:
    """One verification: its steps and what they share."""

    work: Workspace
    api: SpectronApi
    mapping: ScopeMapping
    options: VerifyOptions
    reporter: Reporter
    clock: Callable[[], float]
    now: datetime
    rng: Random
    metrics: Metrics | None = None

    def __post_init__(self) -> None:
        self.histories = EntityHistories(self.work, self.api)

    async def measure(self, dump: Dump | None, mem0: Mem0Side | None) -> dict[str, Json]:
        """Every layer, one after the other."""
        self.prepare(dump)
        return {
            "dump": dump_completeness(dump),
            "integrity": await self.integrity(),
            "isolation": await self.isolation(),
            "recall": await self.recall(mem0),
        }

    def prepare(self, dump: Dump | None) -> None:
        if self.work.resumed:
            self.reporter.info(f"resuming the verification that began at {self.work.began}")
            return
        if self.work.replaced:
            self.reporter.info(
                f"the verification that another version began at {self.work.replaced} starts over, because its findings"
                " are about the ledger as that version wrote it"
            )
        index_receipts(self.work, seed=self.options.seed, reporter=self.reporter)
        record_expectations(self.work, dump, self.mapping, self.options, reporter=self.reporter)
        self.work.staged()

    async def integrity(self) -> dict[str, Json]:
        work, options = self.work, self.options
        with suppress(MigrateError):  # a key that may not list scopes can still verify
            await self.api.generation()
        await check_sessions(work, self.api, in_flight=options.in_flight, reporter=self.reporter)
        traced = await check_traces(work, self.api, self.mapping.id_label, self.reporter)
        await check_placement(
            work,
            self.api,
            sample=options.placement_sample,
            in_flight=options.in_flight,
            now=self.now,
            reporter=self.reporter,
        )
        await check_supersession(
            work, self.histories, sample=options.corrections, in_flight=options.in_flight, reporter=self.reporter
        )
        if self.histories.unavailable:
            self.reporter.warn(f"supersession is not checked: {self.histories.unavailable}")
        facts = {"supersession_told": self.histories.unavailable is None, "traced": traced}
        return {**integrity_counts(work), **facts}

    async def isolation(self) -> dict[str, Json]:
        options = self.options
        readers = scope_readers(self.work, self.mapping)
        questions = await check_other_lenses(
            self.work,
            self.api,
            readers,
            sample=options.placement_sample,
            rng=Random(options.seed),
            in_flight=options.in_flight,
            reporter=self.reporter,
        )
        pairs = await check_isolation(
            self.work,
            self.api,
            readers,
            pairs=options.pairs,
            rng=Random(options.seed),
            in_flight=options.in_flight,
            reporter=self.reporter,
        )
        count = self.work.count_findings
        return {
            "pairs": pairs,
            "questions": questions,
            "leaks": count("leak"),
            "suspects": count("suspect"),
            "scopes": len(self.work.scopes()),
        }

    async def recall(self, mem0: Mem0Side | None) -> dict[str, Json] | None:
        queries = self._queries()
        if not queries:
            return None
        duplicates = NearDuplicates(self.work)
        test = RecallTest(
            self.work,
            self.api,
            self.mapping,
            mem0,
            Explainer(self.work, self.api, self.histories, duplicates, now=self.now),
            duplicates,
            top_k=self.options.top_k,
            noise_queries=self.options.noise_queries if mem0 else 0,
            clock=self.clock,
            rng=self.rng,
            reporter=self.reporter,
        )
        await test.run(queries, in_flight=min(self.options.in_flight, RECALL_IN_FLIGHT))
        if test.unknown:
            self.reporter.warn(
                f"{counted(len(test.unknown), 'expected memory is', 'expected memories are')} in neither dump"
                f" nor ledger, such as {min(test.unknown)}: queries that expect only these are not compared"
            )
        measure_word_overlap(self.work, self.mapping, self.options.top_k)
        self.metrics = collect_metrics(self.work.answers())
        targets = {query.target for query in queries if query.target is not None}
        everything = len(targets) == len(queries) == sum(count for _, count in self.work.owner_counts())
        for why, n in self.metrics.not_servable.items():
            self.reporter.warn(f"{counted(n, 'query was', 'queries were')} not asked: {why}")
        everything = everything and not self.metrics.failed
        return {
            "mem0": mem0.describe() if mem0 else None,
            "made_of": "a file" if self.options.queries is not None else "the memories",
            "everything": everything,
            "metrics": self.metrics.to_json(margin=self.options.margin, everything=everything),
            "explained": dict(self.metrics.explained),
        }

    def _queries(self) -> tuple[Query, ...]:
        if self.options.queries is not None:
            return self.options.queries
        return generate_queries(self.work, self.options.sample, Random(self.options.seed))


def _fingerprint(
    ledger: Ledger,
    api: SpectronApi,
    dump: Dump | None,
    mapping: ScopeMapping,
    mem0: Mem0Side | None,
    options: VerifyOptions,
) -> str:
    """A digest of everything that the result depends on. A run with another digest is not resumed."""
    queries = [[query.text, query.ids, query.expect] for query in options.queries or ()]
    return digest(
        __version__,
        canonical_json(receipts.fingerprint(ledger)),
        api.endpoint,
        api.context,
        dump.digest if dump else "",
        mapping.digest,
        mem0.describe() if mem0 else "",
        canonical_json([options.to_json(), options.noise_queries, queries]),
        canonical_json([sorted(options.filters.agents), sorted(options.filters.runs)]),
    )
