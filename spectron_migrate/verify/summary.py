"""The result of a verification: its report and the summary that the command prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from spectron_migrate import __version__
from spectron_migrate.dump import Dump
from spectron_migrate.errors import ExitCode
from spectron_migrate.ledger.read import receipts
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.records import Json, canonical_json, digest
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.verify.expiry import SHORT_LIVED
from spectron_migrate.verify.metrics import Metrics
from spectron_migrate.verify.options import VerifyOptions
from spectron_migrate.verify.verdict import EXIT_CODES, Verdict, VerdictGate, gates_of, verdict_of
from spectron_migrate.verify.workspace import Workspace

LISTED = 100
"""Items of a list in the command's JSON; the report has all."""
_LISTED_KINDS = ("missing", "altered", "doubled", "misplaced")


@dataclass(frozen=True)
class VerifySummary:
    """The verdict, and the report with everything that it was computed from."""

    verdict: Verdict
    gates: tuple[VerdictGate, ...]
    report: Mapping[str, Json]
    """The JSON report. `measured` and `options` decide the verdict; the rest explains it."""
    reports: tuple[str, ...] = ()
    """Paths of the report files that were asked for."""
    whole: str = ""
    """Path of the complete report, in the state directory."""

    @property
    def exit_code(self) -> ExitCode:
        """0, 4 or 5."""
        return EXIT_CODES[self.verdict]

    def to_json(self) -> dict[str, Json]:
        """The fields of the command's `--json` output."""
        measured = self.report["measured"]
        integrity = dict(measured["integrity"])
        for name in _LISTED_KINDS:
            ids = self.report["ids"][name]
            integrity[name], integrity[f"{name}_count"] = ids[:LISTED], len(ids)
        recall = measured["recall"]
        leaks = [finding for finding in self.report["findings"] if finding["kind"] == "leak"]
        return {
            "verdict": self.verdict,
            "gates": [gate.to_json() for gate in self.gates],
            "integrity": integrity,
            "leaks": [{key: leak[key] for key in ("id", "reason", "where")} for leak in leaks[:LISTED]],
            "leaks_count": len(leaks),
            "unaccounted": measured["unaccounted"],
            "queries": recall["metrics"]["queries"] if recall else 0,
            "metrics": recall["metrics"] if recall else None,
            "explained": {"lost": 0, **(recall["explained"] if recall else {})},
            "mem0": recall["mem0"] if recall else None,
            "reports": list(self.reports),
            "whole": self.whole,
        }


def dump_completeness(dump: Dump | None) -> Json:
    """How completely Mem0 was read; None without a dump."""
    if dump is None:
        return None
    return {"complete": dump.complete, "whole": dump.whole, "raw": dump.raw}


def integrity_counts(work: Workspace) -> dict[str, Json]:
    """Memories and turns by what became of them; an expected memory is present, missing, altered or pending."""
    counts = {kind: sum(reasons.values()) for kind, reasons in work.counts().items()}
    altered = set(work.found_ids("altered"))
    missing = set(work.found_ids("missing"))
    return {
        "expected": counts.get("stored", 0) + counts.get("missing", 0) + counts.get("pending", 0),
        "present": counts.get("stored", 0) - len((missing | altered) - work.kind_ids("pending", missing | altered)),
        "missing": len(missing) + counts.get("missing", 0),
        "altered": len(altered),
        "masked": len({finding.mem0_id for finding in work.findings("altered") if "masked" in finding.reason}),
        "doubled": len(work.found_ids("doubled")),
        "foreign": work.count_findings("foreign"),
        "misplaced": len(work.found_ids("misplaced")),
        "untestable": len(work.found_ids("untestable")),
        "order": len(work.found_ids("order")),
        "superseded_wrongly": len(work.found_ids("superseded_wrongly")),
        "residue": work.count_findings("residue"),
        "stale": len(work.found_ids("stale")),
        "expiring": work.count_category(SHORT_LIVED),
        "pending": counts.get("pending", 0),
        "carried": counts.get("carried", 0),
        "skipped": counts.get("skipped", 0),
        "skipped_by_reason": work.counts().get("skipped", {}),
        "deleted": counts.get("gone", 0),
    }


def summarise(
    work: Workspace,
    api: SpectronApi,
    dump: Dump | None,
    mapping: ScopeMapping,
    options: VerifyOptions,
    measured: dict[str, Json],
    metrics: Metrics | None,
    now: str,
) -> VerifySummary:
    """Gates, verdict and report from what was measured."""
    deciding = options.to_json()
    gates = gates_of(measured, deciding)
    verdict = verdict_of(gates)
    migration = work.ledger.migration()
    findings = [*_unsent(work), *(finding.to_json() for finding in work.findings())]
    report = {
        "schema": 1,
        "command": "dual-verify",
        "version": __version__,
        "migration": migration.id if migration else None,
        "endpoint": api.endpoint,
        "context": api.context,
        "dump": dump.digest if dump else None,
        "mapping": mapping.digest,
        "ledger": digest(canonical_json(receipts.fingerprint(work.ledger))),
        "began": work.began,
        "ended": now,
        "holds_texts": True,
        "verdict": verdict,
        "gates": [gate.to_json() for gate in gates],
        "options": deciding,
        "measured": measured,
        "ids": {
            kind: sorted({finding["id"] for finding in findings if finding["kind"] == kind}) for kind in _LISTED_KINDS
        },
        "scopes": [{"selector": selector, "memories": number} for selector, number in work.scope_counts()],
        "findings": findings,
        "by_owner": metrics.by_owner() if metrics else [],
        "answers": list(work.answers()),
    }
    return VerifySummary(verdict, tuple(gates), report)


def _unsent(work: Workspace) -> Iterator[dict[str, Json]]:
    """Findings about memories that were never sent, or not in their current text."""
    for kind, where in (("missing", "ledger"), ("pending", "")):
        for mem0_id, reason in work.ids_of(kind):
            yield {"kind": kind, "id": mem0_id, "reason": reason, "where": where}
