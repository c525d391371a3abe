"""Saved pages of which some are missing: export, replay and dual-verify say so, each in its way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from tests.support.spectron import memory

pytestmark = pytest.mark.slow


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = run([*words, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("total", [40, None])
def test_the_first_page_of_two_users_is_incomplete_and_its_verdict_is_never_go(
    user: str, capsys: pytest.CaptureFixture[str], total: int | None
) -> None:
    for name in (f"{user}a", f"{user}b"):
        page: dict[str, Any] = {"next": "https://api.mem0.ai/v1/memories/?page=2", "previous": None}
        rows = [memory(number, name) for number in range(20)]
        page = {**page, **({"count": total} if total else {}), "results": rows}
        Path(f"{name}.json").write_text(json.dumps(page))

    code, export = answer(capsys, "export", "--from", f"{user}a.json", "--from", f"{user}b.json")

    assert 11 == code
    assert export["complete"] is False
    assert 40 == export["memories"]
    code, replay = answer(capsys, "replay")
    assert 0 == code
    assert 40 == replay["written"]
    assert any("is not complete" in warning for warning in replay["warnings"])
    for dump in ([], ["--dump", f"{user}a.json", "--dump", f"{user}b.json"]):
        code, verified = answer(capsys, "dual-verify", "--accept", "source", "--accept", "recall", *dump)
        assert 5 == code
        assert "INCONCLUSIVE" == verified["verdict"]
        [source] = [gate for gate in verified["gates"] if gate["name"] == "source"]
        assert source["passed"] is None
        assert source["value"] is False
        assert not source["accepted"]
