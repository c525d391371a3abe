"""What a verdict and its gates mean, in words (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectron_migrate.records import Json, counted
from spectron_migrate.verify.reports.text import gate_result

MEANINGS: Mapping[str, str] = {
    "source": "Mem0 was read completely, and it was shown that nothing is missing.",
    "missing": "Every memory of the dump has its turn in Spectron.",
    "altered": "Every text is in Spectron word for word.",
    "doubled": "No memory is in Spectron twice.",
    "foreign": "Nobody else wrote into the sessions of this migration.",
    "misplaced": "Every memory can be found by its owner, in the scope that the mapping gives it.",
    "order": "Within a user, older memories were written before newer ones.",
    "supersession": "No older text stands over a newer one.",
    "facts": "Every fact that Spectron made lies in a scope of the memory that it was made of.",
    "residue": "No turn is left over that no memory claims.",
    "pending": "No memory waits for a person to say whether its text is newer.",
    "placed": "Enough memories could be searched for by their words.",
    "isolation": "Nobody finds the memory of another user.",
    "unaccounted": "Searches show nothing but what was written there.",
    "recall": "Spectron finds what Mem0 finds, within the margin that was set.",
    "overlap": "Both systems' answers have as much in common as was asked for.",
    "asked": "Every question could be asked of Spectron as Mem0 was asked it.",
    "answered": "Every question was answered.",
    "lost": "No memory that Mem0 finds is out of reach in Spectron.",
    "moved on": "Mem0 answers with nothing that has not been replayed yet.",
}


def verdict_sentence(report: Mapping[str, Json]) -> str:
    """The verdict in a sentence.

    If it is about some users only, it says so, because a cutover needs one about everybody.
    """
    integrity, users = report["measured"]["integrity"], verified_users(report)
    there = f"{integrity['present']:,} of {counted(integrity['expected'], 'memory')} are there"
    seen = f", {_isolation(report)}"
    if report["verdict"] == "GO" and users:
        return f"For {users}, {there}{seen}, {_recall(report)}. The cutover needs a verification of everybody."
    if report["verdict"] == "GO":
        return f"Safe to move: {there}{seen}, {_recall(report)}."
    failed = [gate for gate in report["gates"] if gate_result(gate) == "FAILED"]
    if report["verdict"] == "NO_GO":
        return f"Do not move yet: {_named(failed) or 'a gate'} failed. {there}{seen}."
    still_open = open_gates(report["gates"])
    be = "is" if len(still_open) < 2 else "are"
    return f"Not decided yet: {_named(still_open) or 'a gate'} {be} open. {there}{seen}."


def verdict_title(report: Mapping[str, Json]) -> str:
    """The verdict, and which users it is about, if not everybody."""
    users = verified_users(report)
    return f"{report['verdict']} for {users}" if users else str(report["verdict"])


def verified_users(report: Mapping[str, Json]) -> str:
    """The users that a verification was limited to; empty if it covered everybody."""
    users = report["options"].get("users") or []
    return f"user {users[0]} alone" if len(users) == 1 else f"{counted(len(users), 'user')} alone" if users else ""


def is_isolation_tested(report: Mapping[str, Json]) -> bool:
    """Whether there were two separate scopes to test."""
    return all(gate["measured"] for gate in report["gates"] if gate["name"] == "isolation")


def _isolation(report: Mapping[str, Json]) -> str:
    leaks, is_part = report["measured"]["isolation"]["leaks"], bool(report["options"].get("users"))
    if leaks:
        return f"{counted(leaks, 'leak')} between users"
    if not is_isolation_tested(report):
        return "whether others can see them was not tested" if is_part else "no two scopes are separate"
    return "none of them sees another's" if is_part else "nobody sees another's"


def open_gates(gates: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """The gates that keep the verdict from being GO, failed ones first."""
    found = [gate for gate in gates if gate_result(gate) not in ("passed", "accepted") and gate["decides"]]
    return sorted(found, key=lambda gate: gate_result(gate) != "FAILED")


def _named(gates: Sequence[Mapping[str, Json]]) -> str:
    return ", ".join(gate["name"] for gate in gates)


def _recall(report: Mapping[str, Json]) -> str:
    recall = report["measured"]["recall"]
    if recall is None or recall["metrics"]["difference"] is None:
        return "recall was not compared"
    if any(gate["accepted"] for gate in report["gates"] if gate["name"] == "recall"):
        return "recall was accepted without being decided"
    return f"recall is as good as Mem0's, within {100 * report['options']['margin']:g} points"
