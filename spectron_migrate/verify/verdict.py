"""The gates of a verification and the verdict that follows from them (pure).

Both are computed from `measured` and `options` of the JSON report alone, so that anybody can compute them again. GO
means that every gate passed or was accepted by name. A gate that could not be decided or measured never counts as
passed: the verdict is INCONCLUSIVE at best, and the gate's hint says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import floor, log10
from typing import Any, Literal

from spectron_migrate.errors import ExitCode
from spectron_migrate.records import Json, counted
from spectron_migrate.verify.differences import AGAINST
from spectron_migrate.verify.intervals import most_of_none

Verdict = Literal["GO", "NO_GO", "INCONCLUSIVE"]

EXIT_CODES: dict[Verdict, ExitCode] = {
    "GO": ExitCode.DONE,
    "NO_GO": ExitCode.NO_GO,
    "INCONCLUSIVE": ExitCode.INCONCLUSIVE,
}

ACCEPTABLE = ("source", "supersession", "residue", "unaccounted", "recall", "asked")
"""Gates that a person may accept.

`residue` and `unaccounted` whatever they count, `source` if it was not measured, the others if they are undecided.
"""
MIN_MEM0_SUCCESS = 0.1
"""If Mem0 itself finds less than this share of the expected memories, being as good as Mem0 proves nothing."""
MAX_UNTESTABLE = 0.05
"""Tolerated share of memories that cannot be searched by words (a lone emoji, only a cached answer)."""


@dataclass(frozen=True, slots=True)
class VerdictGate:
    """One condition of the verdict."""

    name: str
    value: Json
    limit: Json
    passed: bool | None
    """None: undecided."""
    hint: str = ""
    measured: bool = True
    """False if it could not be measured; then it is undecided."""
    decides: bool = True
    """False for a gate that is shown but does not affect the verdict."""
    accepted: bool = False
    """Whether a person accepted what it shows; then it counts as passed."""

    def to_json(self) -> dict[str, Json]:
        """As the command's JSON and the reports carry it."""
        return asdict(self)


def verdict_of(gates: Iterable[VerdictGate | Mapping[str, Any]]) -> Verdict:
    """NO_GO if a deciding gate failed, else INCONCLUSIVE if one is undecided, else GO. Accepted gates have passed."""
    rows = [gate.to_json() if isinstance(gate, VerdictGate) else gate for gate in gates]
    outcomes = [gate["passed"] for gate in rows if gate["decides"] and not gate["accepted"]]
    if False in outcomes:
        return "NO_GO"
    return "INCONCLUSIVE" if None in outcomes else "GO"


def gates_of(measured: Mapping[str, Json], options: Mapping[str, Json]) -> list[VerdictGate]:
    """All gates, the most serious first."""
    gates = [
        _source(measured["dump"]),
        *_integrity(measured["integrity"]),
        _isolation(measured["isolation"], is_part=bool(options.get("users"))),
        *_unaccounted(measured.get("unaccounted")),
        *_recall(measured, options),
    ]
    return [replace(gate, accepted=_is_accepted(gate, options["accepted_gates"])) for gate in gates]


def _is_accepted(gate: VerdictGate, names: Sequence[str]) -> bool:
    if gate.passed or gate.name not in names or gate.name not in ACCEPTABLE:
        return False
    if gate.name == "source":
        return not gate.measured  # a reading that is known to be incomplete is never accepted
    return gate.passed is None or gate.name in ("residue", "unaccounted")


def _source(read: Mapping[str, Json] | None) -> VerdictGate:
    """Whether Mem0 was read completely. No other gate can find what the export missed."""
    if read is None:
        hint = "not measured: without a dump only the replayed memories are known"
    elif read["complete"] is False:
        hint = "Mem0 was not read completely, and no gate checks what was missed: export again"
        return VerdictGate("source", False, True, None, hint)
    elif read["raw"]:
        hint = "not measured: raw files do not prove that they hold all of Mem0; an export does"
    elif read["complete"] is None:
        hint = "not measured: nothing shows that the export holds all of Mem0; an export of the store itself does"
    else:
        part = "" if read["whole"] else "for the part of Mem0 that was exported"
        return VerdictGate("source", True, True, True, part)
    return VerdictGate("source", None, True, None, hint, measured=False)


def _integrity(found: Mapping[str, Json]) -> list[VerdictGate]:
    gates = [
        _zero("missing", found["missing"], "not sent, or no longer in Spectron: the report says why of each"),
        _zero("altered", found["altered"], _altered_hint(found)),
        _zero("doubled", found["doubled"], "another writer wrote them too: was another --state used?"),
        _zero("foreign", found["foreign"], "our sessions hold turns that no receipt claims: who else writes to them?"),
        _zero("misplaced", found["misplaced"], "the report says where each was written and whether it was found"),
        _zero("order", found["order"], "older texts of these memories may have superseded newer ones"),
        _supersession(found),
        *_facts(found.get("traced")),
    ]
    residue = found["residue"]
    gates.append(
        VerdictGate(
            "residue",
            residue,
            0,
            residue == 0,
            "" if not residue else "failed writes left turns on the server: --accept residue, or have them erased",
        )
    )
    pending = found["pending"]
    hint = "Mem0 changed after the replay: export and replay again" if pending else ""
    gates.append(VerdictGate("pending", pending, 0, None if pending else True, hint))
    if found["expiring"]:
        hint = "the mapping writes them as `context`, which Spectron keeps for 7 days; `knowledge` does not expire"
        gates.append(VerdictGate("expiring", found["expiring"], None, None, hint, decides=False))
    some = max(1, int(found["expected"] * MAX_UNTESTABLE))
    if found["untestable"] > some:
        gates.append(
            VerdictGate("placed", found["untestable"], some, None, "too many could not be searched for: see the report")
        )
    if not found["expected"]:
        gates.append(VerdictGate("expected", 0, 1, None, "there is no memory to verify: are dump and user right?"))
    return gates


def _supersession(found: Mapping[str, Json]) -> VerdictGate:
    if found["superseded_wrongly"] or found["supersession_told"]:
        return _zero(
            "supersession",
            found["superseded_wrongly"],
            "what was made of an older text superseded a newer one: see the report",
        )
    hint = "not measured: the server did not list its entities"
    return VerdictGate("supersession", None, 0, None, hint, measured=False)


def _facts(traced: Mapping[str, Json] | None) -> list[VerdictGate]:
    """Whether every fact that Spectron made is where one of its memories is.

    A report of version 0.1 has no such gate.
    """
    if traced is None:
        return []
    if not traced["told"]:
        hint = f"cannot be known: {traced['why']}"
        return [VerdictGate("facts", None, 0, None, hint, measured=False, decides=False)]
    return [
        _zero("facts", traced["elsewhere"], "Spectron keeps facts of these memories in another scope: see the report")
    ]


def _zero(name: str, value: int, hint: str) -> VerdictGate:
    return VerdictGate(name, value, 0, value == 0, hint if value else "")


def _altered_hint(found: Mapping[str, Json]) -> str:
    if found["altered"] and found["masked"] == found["altered"]:
        return "all of them are masked: redaction is on in this context"
    return "the server holds texts that differ from what was written"


def _isolation(found: Mapping[str, Json], *, is_part: bool) -> VerdictGate:
    if found["leaks"]:
        return VerdictGate(
            "isolation", found["leaks"], 0, False, "a user can read another user's memories: do not migrate"
        )
    if not found["pairs"]:
        hint = (
            "not tested: no two scopes of these users are separate; verify without --user"
            if is_part
            else "no two scopes are separate, so nothing can leak"
        )
        return VerdictGate("isolation", None, 0, None, hint, measured=False, decides=False)
    questions = counted(found.get("questions", 0), "question")
    return VerdictGate("isolation", 0, 0, True, _bound(found.get("questions", 0), f"no leak in {questions}", "leak"))


def _unaccounted(found: Mapping[str, Json] | None) -> list[VerdictGate]:
    """Whether searches showed only what was written there. Undecided in scopes that are not this migration's alone."""
    if found is None:
        return []
    if not found["rows"]:
        searches = counted(found["searches"], "search", "searches")
        bound = _bound(found["searches"], f"no such row in {searches}", "show one")
        return [VerdictGate("unaccounted", 0, 0, True, bound)]
    others = found["scopes_count"] - len(found["scopes"])
    scopes = ", ".join(found["scopes"]) + (f" and {others:,} more" if others else "")
    hint = (
        f"in {scopes}, such as {found['examples'][0]}: the report has them."
        " Others may write there? Then --accept unaccounted"
    )
    return [VerdictGate("unaccounted", found["rows"], 0, False if found["ours"] else None, hint)]


def _bound(n: int, nothing: str, do: str) -> str:
    """What it shows if nothing was found: the share of cases is at most this, with 95 % confidence."""
    if not n:
        return ""
    percent = 100 * most_of_none(n)
    shown = f"{percent:.0f}" if percent >= 1 else f"{percent:.{1 - floor(log10(percent)) - 1}f}"
    return f"{nothing}, so fewer than {shown} % {do} (95 % confidence)"


def _recall(measured: Mapping[str, Json], options: Mapping[str, Json]) -> list[VerdictGate]:
    found = measured["recall"]
    if found is None or found["mem0"] is None:
        hint = (
            "there is no Mem0 to compare with: set --mem0-config or --mem0-results"
            if found is not None
            else "no query was asked"
        )
        return [_unmeasured("recall", hint)]
    metrics = found["metrics"]
    gates = [_non_inferior(metrics, options), *_servable(found)]
    if options["min_overlap"] is not None:
        overlap = metrics["overlap"]
        passed = None if overlap is None else overlap >= options["min_overlap"]
        gates.append(
            VerdictGate("overlap", overlap, options["min_overlap"], passed, "" if passed else "see the differences")
        )
    against = sum(found["explained"].get(why, 0) for why in AGAINST)
    gates.append(_zero("lost", against, "Mem0 finds these memories, Spectron does not: see the differences"))
    pending = found["explained"].get("pending", 0)
    if pending:
        gates.append(VerdictGate("moved on", pending, 0, None, "Mem0 answers with memories that are not replayed yet"))
    failed = sum(metrics["failed"].values())
    if failed:
        unanswered = counted(failed, "query was", "queries were")
        gates.append(VerdictGate("answered", failed, 0, None, f"{unanswered} not answered: run it again"))
    return gates


def _servable(found: Mapping[str, Json]) -> list[VerdictGate]:
    """Queries that no lens can serve: after the cutover the application could not ask them either."""
    metrics = found["metrics"]
    if not metrics["not_servable"]:
        return []
    reason = max(metrics["not_servable_why"].items(), key=lambda one: (one[1], one[0]))[0]
    return [VerdictGate("asked", metrics["not_servable"], 0, None, f"not asked: {reason}")]


def _non_inferior(metrics: Mapping[str, Json], options: Mapping[str, Json]) -> VerdictGate:
    """Spectron finds the known item as often as Mem0, within the margin: the whole interval must lie above it."""
    limit = -float(options["margin"])
    interval = metrics["difference"]
    if interval is None:
        return _unmeasured("recall", "no query names its answer: set `expect` in the queries, or run without --queries")
    value = interval["mean"]
    if metrics["success"]["mem0"] < MIN_MEM0_SUCCESS:
        hint = f"Mem0 itself finds only {metrics['success']['mem0']:.0%} of them: are its store and embedder right?"
        return VerdictGate("recall", value, limit, None, hint)
    if interval["low"] > limit or (interval["units"] == "all" and interval["low"] >= limit):
        return VerdictGate("recall", value, limit, True)
    if interval["high"] < limit:
        return VerdictGate("recall", value, limit, False, "Spectron finds fewer of these memories than Mem0")
    if interval["needed"] is None:
        hint = "the difference is at the margin: no number of queries would decide it"
    else:
        hint = (
            f"too few to decide: there are {interval['n']} {interval['units']}, about {interval['needed']} are needed"
        )
    return VerdictGate("recall", value, limit, None, hint)


def _unmeasured(name: str, hint: str) -> VerdictGate:
    return VerdictGate(name, None, None, None, f"not measured: {hint}", measured=False)
