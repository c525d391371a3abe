"""The verdict: gates over what was measured, and what they add up to (pure).

Everything here is computed from the JSON report's `measured` and `options` alone, so that anybody can compute the
verdict again. No gate is softer than it looks: one that could not be decided keeps the verdict from GO.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from spectron_migrate.errors import ExitCode
from spectron_migrate.records import Json
from spectron_migrate.verify.differences import AGAINST

Verdict = Literal["GO", "NO_GO", "INCONCLUSIVE"]

EXIT_CODES: dict[Verdict, ExitCode] = {
    "GO": ExitCode.DONE,
    "NO_GO": ExitCode.NO_GO,
    "INCONCLUSIVE": ExitCode.INCONCLUSIVE,
}


LEAST_SUCCESS = 0.1
"""Where Mem0 itself finds less than this share of the asked memories, being as good as it proves nothing."""
UNTESTABLE = 0.05
"""A share of memories that words cannot ask for (a lone emoji, a cache's answer) and that is borne."""


@dataclass(frozen=True, slots=True)
class VerdictGate:
    """One thing that must hold."""

    name: str
    value: Json
    limit: Json
    passed: bool | None
    """None: it could not be decided."""
    hint: str = ""
    measured: bool = True
    """False where there was nothing to measure it with; it is undecided, and counts only if it `decides`."""
    decides: bool = True
    """False for what is shown and does not count."""

    def to_json(self) -> dict[str, Json]:
        """As the command's JSON and the reports carry it."""
        return asdict(self)


def verdict_of(gates: Iterable[VerdictGate | Mapping[str, Any]]) -> Verdict:
    """NO_GO where any deciding gate failed, else INCONCLUSIVE where any is undecided, else GO."""
    rows = [gate.to_json() if isinstance(gate, VerdictGate) else gate for gate in gates]
    outcomes = [gate["passed"] for gate in rows if gate["decides"]]
    if False in outcomes:
        return "NO_GO"
    return "INCONCLUSIVE" if None in outcomes else "GO"


def gates_of(measured: Mapping[str, Json], options: Mapping[str, Json]) -> list[VerdictGate]:
    """All gates, the gravest first."""
    return [
        _source(measured["dump"]),
        *_integrity(measured["integrity"], options),
        _isolation(measured["isolation"]),
        *_recall(measured, options),
    ]


def _source(read: Mapping[str, Json] | None) -> VerdictGate:
    """Whether what was read is all of Mem0: nothing behind it can prove what it missed."""
    if read is None:
        hint = "not measured: no dump was named, so only what was replayed is known"
    elif read["raw"]:
        hint = "not measured: raw files do not say whether they are all of Mem0; an export proves it"
    elif read["complete"]:
        return VerdictGate("source", True, True, True, "" if read["whole"] else "of the part of Mem0 that was exported")
    else:
        hint = "Mem0 was not read in full, and what was missed is proven nowhere: export again"
        return VerdictGate("source", False, True, None, hint)
    return VerdictGate("source", None, True, None, hint, measured=False, decides=False)


def _integrity(found: Mapping[str, Json], options: Mapping[str, Json]) -> list[VerdictGate]:
    told = [
        _none("missing", found["missing"], "run replay again; what it refuses is in the review directory"),
        _none("altered", found["altered"], _altered_hint(found)),
        _none("doubled", found["doubled"], "something wrote them besides this ledger: was another --state used?"),
        _none("foreign", found["foreign"], "turns that no receipt claims stand in our sessions: who else uses them?"),
        _none("misplaced", found["misplaced"], "the report says where each was written and whether it is found at all"),
        _none("order", found["order"], "older texts of these memories may stand over newer ones"),
        _supersession(found),
    ]
    residue = found["residue"]
    told.append(
        VerdictGate(
            "residue",
            residue,
            0,
            residue == 0 or bool(options["accept_residue"]),
            "" if not residue else "the server left turns of failed writes behind; accept them, or have them erased",
        )
    )
    pending = found["pending"]
    hint = "Mem0 changed since the replay: export and replay again" if pending else ""
    told.append(VerdictGate("pending", pending, 0, None if pending else True, hint))
    if found["expiring"]:
        hint = "the mapping writes them as `context`, which Spectron keeps for 7 days; `knowledge` stays"
        told.append(VerdictGate("expiring", found["expiring"], None, None, hint, decides=False))
    some = max(1, int(found["expected"] * UNTESTABLE))
    if found["untestable"] > some:
        told.append(
            VerdictGate("placed", found["untestable"], some, None, "too many could not be asked for: see the report")
        )
    if not found["expected"]:
        told.append(
            VerdictGate("expected", 0, 1, None, "there is no memory to verify: is it the right dump, the right user?")
        )
    return told


def _supersession(found: Mapping[str, Json]) -> VerdictGate:
    if found["superseded_wrongly"] or found["supersession_told"]:
        return _none(
            "supersession", found["superseded_wrongly"], "an older fact stands over a newer one: see the report"
        )
    hint = "not measured: the server does not tell its entities to this key"
    return VerdictGate("supersession", None, 0, None, hint, measured=False, decides=False)


def _none(name: str, value: int, hint: str) -> VerdictGate:
    return VerdictGate(name, value, 0, value == 0, hint if value else "")


def _altered_hint(found: Mapping[str, Json]) -> str:
    if found["altered"] and found["masked"] == found["altered"]:
        return "all of them are masked: redaction is switched on in this context"
    return "the server has other texts than were written"


def _isolation(found: Mapping[str, Json]) -> VerdictGate:
    if found["leaks"]:
        return VerdictGate(
            "isolation", found["leaks"], 0, False, "somebody can read another's memories: do not go over"
        )
    if not found["pairs"]:
        return VerdictGate(
            "isolation",
            None,
            0,
            None,
            "no two scopes are apart: there is nobody to leak to",
            measured=False,
            decides=False,
        )
    return VerdictGate("isolation", 0, 0, True)


def _recall(measured: Mapping[str, Json], options: Mapping[str, Json]) -> list[VerdictGate]:
    found = measured["recall"]
    if found is None or found["mem0"] is None:
        hint = (
            "no Mem0 to compare with: --mem0-config or --mem0-results" if found is not None else "no question was asked"
        )
        return [_unmeasured("recall", options, hint)]
    metrics = found["metrics"]
    told = [_non_inferior(metrics, options), *_asked(found)]
    if options["min_overlap"] is not None:
        overlap = metrics["overlap"]
        passed = None if overlap is None else overlap >= options["min_overlap"]
        told.append(
            VerdictGate("overlap", overlap, options["min_overlap"], passed, "" if passed else "see the differences")
        )
    against = sum(found["explained"].get(why, 0) for why in AGAINST)
    told.append(_none("lost", against, "memories that Mem0 finds and Spectron cannot: see the differences"))
    moved = found["explained"].get("pending", 0)
    if moved:
        told.append(VerdictGate("moved on", moved, 0, None, "Mem0 answers with what was not replayed yet"))
    failed = sum(metrics["failed"].values())
    if failed:
        told.append(VerdictGate("answered", failed, 0, None, f"{failed} queries were not answered; run it again"))
    return told


def _asked(found: Mapping[str, Json]) -> list[VerdictGate]:
    """Queries that no lens answers: after the cutover the application would be refused them as well."""
    metrics = found["metrics"]
    if not metrics["not_servable"]:
        return []
    why = max(metrics["not_servable_why"].items(), key=lambda one: (one[1], one[0]))[0]
    # Made queries are guesses at what an application asks; those of a file are what it asks.
    decides = found["made_of"] == "a file" or metrics["not_servable"] == metrics["queries"]
    return [VerdictGate("asked", metrics["not_servable"], 0, None, f"not asked: {why}", decides=decides)]


def _non_inferior(metrics: Mapping[str, Json], options: Mapping[str, Json]) -> VerdictGate:
    """Spectron finds the known item as often, but for the margin: the whole interval has to lie above it."""
    limit = -float(options["margin"])
    interval = metrics["difference"]
    if interval is None:
        return _unmeasured("recall", options, "no query says what answers it: give `expect`, or leave --queries out")
    value = interval["mean"]
    if metrics["success"]["mem0"] < LEAST_SUCCESS:
        hint = f"Mem0 itself finds {metrics['success']['mem0']:.0%} of them: is it the right store and embedder?"
        return VerdictGate("recall", value, limit, None, hint)
    if interval["low"] > limit or (interval["units"] == "all" and interval["low"] >= limit):
        return VerdictGate("recall", value, limit, True)
    if interval["high"] < limit:
        return VerdictGate("recall", value, limit, False, "Spectron finds fewer of the asked memories than Mem0")
    if interval["needed"] is None:
        hint = "the difference lies at the margin: no number of queries would decide it"
    else:
        hint = (
            f"too few to decide: about {interval['needed']} {interval['units']} are needed, there are {interval['n']}"
        )
    return VerdictGate("recall", value, limit, None, hint)


def _unmeasured(name: str, options: Mapping[str, Json], hint: str) -> VerdictGate:
    return VerdictGate(
        name, None, None, None, f"not measured: {hint}", measured=False, decides=bool(options["require_recall"])
    )
