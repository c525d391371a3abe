"""Charts as inline SVG (pure). Each shows its numbers as text too, so that nothing depends on colour alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from spectron_migrate.records import Json, counted
from spectron_migrate.verify.measures import percentile
from spectron_migrate.verify.reports.text import visible

WIDTH = 900
OWNERS = 40
"""The most users that are drawn: those who lose the most."""
_BINS = 10


def distribution(title: str, values: Sequence[float], noise: float | None) -> str:
    """How many of the values (0 to 1) are in each tenth; `noise` is the agreement of Mem0 with itself."""
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int(value * _BINS))] += 1
    height, floor = 260, 220
    highest = max(counts)
    step = WIDTH / _BINS
    parts = [f'<line class="axis" x1="0" y1="{floor}" x2="{WIDTH}" y2="{floor}"/>']
    for index, count in enumerate(counts):
        tall = 190 * count / highest
        x = index * step + 6
        parts.append(
            f'<rect class="spectron" x="{x:.1f}" y="{floor - tall:.1f}" width="{step - 12:.1f}" height="{tall:.1f}"/>'
        )
        parts.append(_label(index * step + step / 2, floor + 18, f"{index / 10:.1f}-{(index + 1) / 10:.1f}"))
        parts.append(_label(index * step + step / 2, floor - tall - 5, str(count)))
    note = "" if noise is None else f" The overlap of Mem0 with itself, asked twice, is {noise:.3f}."
    return _figure(f"{title}.{note}", height, parts)


def owners(title: str, rows: Sequence[Mapping[str, Json]]) -> str:
    """Success of both systems for each user, those who lose the most first."""
    drawn = sorted(
        (row for row in rows if row["mem0"] is not None and row["spectron"] is not None),
        key=lambda row: (row["spectron"] - row["mem0"], row["owner"]),
    )[:OWNERS]
    if not drawn:
        return ""
    parts = []
    left, wide = 260, WIDTH - 420
    for index, row in enumerate(drawn):
        y = 14 + index * 30
        name = visible(row["owner"])
        parts.append(_label(left - 8, y + 14, name if len(name) <= 34 else name[:33] + "…", anchor="end"))
        for offset, side in enumerate(("mem0", "spectron")):
            bar = max(1.0, wide * row[side])
            parts.append(f'<rect class="{side}" x="{left}" y="{y + offset * 11}" width="{bar:.1f}" height="9"/>')
        numbers = f"{row['mem0']:.2f} → {row['spectron']:.2f} ({row['queries']})"
        parts.append(_label(left + wide + 10, y + 14, numbers, anchor="start"))
    rest = counted(len(rows) - OWNERS, "more user is", "more users are")
    more = f"; {rest} in the JSON report" if len(rows) > OWNERS else ""
    return _figure(
        f"{title}: upper bar Mem0, lower bar Spectron, number of queries in brackets{more}.",
        20 + 30 * len(drawn),
        parts,
    )


def latency(title: str, times: Mapping[str, Sequence[float]]) -> str:
    """Median and 95th percentile of each system."""
    percentiles = {side: (percentile(ms, 0.5), percentile(ms, 0.95)) for side, ms in times.items() if ms}
    longest = max((high for _, high in percentiles.values() if high), default=0.0)
    if not longest:
        return ""
    parts = []
    for index, (side, (median, high)) in enumerate(percentiles.items()):
        y = 16 + index * 56
        parts.append(_label(92, y + 26, "Mem0" if side == "mem0" else "Spectron", anchor="end"))
        for offset, (name, value) in enumerate((("p50", median), ("p95", high))):
            wide = max(1.0, 620 * (value or 0.0) / longest)
            parts.append(f'<rect class="{side}" x="100" y="{y + offset * 20}" width="{wide:.1f}" height="16"/>')
            parts.append(_label(108 + wide, y + offset * 20 + 13, f"{name} {value:.1f}", anchor="start"))
    return _figure(
        f"{title}. Spectron is asked for 50 hits, Mem0 only for those that are compared.",
        20 + 56 * len(percentiles),
        parts,
    )


def trend(runs: Sequence[Mapping[str, Json]]) -> str:
    """Known items found by each system, one point for each verification from left to right; none without recall."""
    drawn = {
        side: [(number, run[side]) for number, run in enumerate(runs) if run[side] is not None]
        for side in ("mem0", "spectron")
    }
    if not any(drawn.values()):
        return ""
    tall, left, right = 130, 60, WIDTH - 20
    step = (right - left) / max(1, len(runs) - 1)
    parts = [f'<line class="axis" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>' for y in (20, 20 + tall)]
    parts += [_label(left - 8, 24, "1.0", anchor="end"), _label(left - 8, 24 + tall, "0.0", anchor="end")]
    for side, points in drawn.items():
        places = [(left + number * step, 20 + tall * (1 - share)) for number, share in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="{side}" points="{path}"/>')
        parts += [f'<circle class="{side}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places]
    named = " and ".join(name for name, side in (("Mem0", "mem0"), ("Spectron", "spectron")) if drawn[side])
    return _figure(f"Share of known items found by {named}, oldest verification on the left.", tall + 40, parts)


def _figure(caption: str, height: int, parts: Sequence[str]) -> str:
    text = escape(caption)
    return (
        f'<figure><figcaption>{text}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{text}">'
        + "".join(parts)
        + "</svg></figure>"
    )


def _label(x: float, y: float, text: str, *, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
