"""Texts and numbers as all reports and the terminal show them (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectron_migrate.records import Json

EASY = 0.95
"""If a search that only counts shared words finds at least this share, any search would."""
LISTED = 100
"""The most findings of a kind that a report without texts lists. The JSON report has all."""


def visible(text: object) -> str:
    """Untrusted text on one line, with control and format characters escaped: no terminal or page interprets it."""
    return "".join(
        letter if letter.isprintable() else f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}"
        for letter in str(text)
    )


def share_text(value: float | None) -> str:
    """A share (0 to 1) with three digits."""
    return "not measured" if value is None else f"{value:.3f}"


def difficulty_text(found: float) -> str:
    """How hard the queries were: success@k of counting shared words."""
    easy = ": these queries are easy, your own (--queries) may not be" if found >= EASY else ""
    return f"counting shared words alone finds {share_text(found)}{easy}"


def value_text(value: Json) -> str:
    """The value or limit of a gate."""
    if value is None:
        return "-"
    return f"{value:+.3f}" if isinstance(value, float) else str(value)


def interval_text(interval: Mapping[str, Json]) -> str:
    """A mean with its interval, and what the interval is about."""
    about = {
        "users": "users like these",
        "queries": "within these users",
        "all": "every memory was asked for: no sampling error",
    }[interval["units"]]
    return f"{interval['mean']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}] ({about}, n = {interval['n']})"


def gate_result(gate: Mapping[str, Json]) -> str:
    """`passed`, `accepted`, `FAILED`, `undecided` or `not measured`."""
    if gate["accepted"]:
        return "accepted"
    if not gate["measured"]:
        return "not measured"
    return {True: "passed", False: "FAILED", None: "undecided"}[gate["passed"]]


def findings_by_kind(findings: Sequence[Mapping[str, Json]]) -> dict[str, list[Mapping[str, Json]]]:
    """Findings grouped by kind; kinds and findings keep their order."""
    groups: dict[str, list[Mapping[str, Json]]] = {}
    for finding in findings:
        groups.setdefault(finding["kind"], []).append(finding)
    return groups


def rank_change(before: int | None, now: int) -> str:
    """The rank in Mem0's answer and that in Spectron's: `3 → 1`; a single rank if both agree or Mem0 has none."""
    return f"{now}" if before in (None, now) else f"{before} → {now}"


def reason_text(difference: Mapping[str, Json]) -> str:
    """Why Spectron's answer lacks a memory that Mem0's has."""
    detail = f", {difference['detail']}" if difference["detail"] else ""
    return f"{difference['why'].replace('_', ' ')}{detail}"
