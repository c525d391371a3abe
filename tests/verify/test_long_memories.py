"""Long memories that arrived as they are raise no alarm, however odd they are."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from spectron_migrate.local.testing import RunningServer
from tests.support.here import server_here
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import PLAIN, named_findings, tampering, verify

pytestmark = pytest.mark.slow

WORDS = [f"{first}{last}" for first in ("lan", "vio", "com", "ket", "sad", "tel") for last in ("tern", "lin", "pass")]


def sentences(rng: Random, n: int) -> str:
    return " ".join(f"{' '.join(rng.choices(WORDS, k=8)).capitalize()} {rng.randrange(10_000)}." for _ in range(n))


def odd_texts(rng: Random) -> list[str]:
    boilerplate = sentences(rng, 40)
    return [
        *(f"{sentences(rng, 20)}\n\n{boilerplate}" for _ in range(3)),
        boilerplate,
        "Likes tea. " * 500,
        "x" * 5000,
        "🦔🦔 🦔 " * 900,
        "".join(chr(0x4E00 + rng.randrange(900)) for _ in range(5000)),
        "。".join("".join(chr(0x4E00 + rng.randrange(900)) for _ in range(30)) for _ in range(150)),
        "\n".join(f"- {word} {number}" for number in range(300) for word in WORDS[:2]),
        "Å\u030a e\u0301 " * 800,
        sentences(rng, 90).replace(" ", "\n\n\t"),
        "".join(rng.choices("abcdefghij", k=4500)),
        *["The same long text. " * 30 + boilerplate] * 2,
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_long_memories_of_every_kind_are_a_go(spectron: RunningServer, user: str, tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    names = (f"{user}a", f"{user}b")
    rows = [memory(number, name, text) for name in names for number, text in enumerate(odd_texts(rng))]
    rows += [memory(100 + number, names[0], "Likes tea") for number in range(70)]
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(PLAIN)
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump], mapping=mapping)
    assert_go(spectron, tmp_path, dump, mapping, stale=set())
    edited: dict[str, Any] = rows[0]
    edited |= {"memory": f"{edited['memory']} And more of it.", "updated_at": "2025-06-01T00:00:00+00:00"}
    dump = write_raw(tmp_path / "edited.json", rows)
    replay(spectron, tmp_path / "state", [dump], mapping=mapping)
    assert_go(spectron, tmp_path, dump, mapping, stale={("stale", edited["id"])})


@pytest.mark.parametrize("which", [0, 1, 2])
def test_of_equal_passages_of_several_memories_none_may_be_missing(tmp_path: Path, which: int) -> None:
    shared = sentences(Random(7), 100)
    texts = [f"{'abc'[number] * 1900} {shared}" for number in range(3)]
    rows = [memory(number, "anna", text) for number, text in enumerate(texts)]
    with server_here(tmp_path / "spectron", context="equal") as server:
        dump = write_raw(tmp_path / "all.json", rows)
        replay(server, tmp_path / "state", [dump])
        assert "GO" == verify(server, tmp_path / "state", [dump]).verdict
        with tampering(server) as db:
            passages = db.execute(
                "SELECT number, text FROM item WHERE text IN"
                " (SELECT text FROM item WHERE kind = 'memory_chunk' GROUP BY text HAVING count(*) = 3) ORDER BY number"
            ).fetchall()
            equal = [number for number, text in passages if text == passages[-1][1]]
            assert 3 == len(equal)
            db.execute("DELETE FROM item WHERE number = ?", (equal[which],))
        summary = verify(server, tmp_path / "state", [dump])
    assert {"missing"} == {kind for kind, _ in named_findings(summary)}
    assert "NO_GO" == summary.verdict


def assert_go(server: RunningServer, folder: Path, dump: Path, mapping: Path, *, stale: set[tuple[str, str]]) -> None:
    summary = verify(server, folder / "state", [dump], mapping=mapping)
    # Of so few different words, more than 50 passages may have those that are asked for.
    assert stale == {(kind, mem0_id) for kind, mem0_id in named_findings(summary) if kind != "untestable"}
    assert "GO" == summary.verdict
