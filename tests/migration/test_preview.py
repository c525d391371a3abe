"""`replay --preview N`: what Spectron would make of some memories, what that costs, and nothing is stored."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.dump import open_any
from spectron_migrate.errors import NotLegal
from spectron_migrate.local.engine import API_VERSIONS
from spectron_migrate.local.extract import Extraction, Fact
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.preview import PreviewRow, PreviewSummary, preview_plan
from spectron_migrate.migration.replay import ReplayOptions
from spectron_migrate.records import Filters, NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.support import output
from tests.support.here import server_here
from tests.support.proxy import misbehaving
from tests.support.spectron import memory, replay, write_raw

pytestmark = pytest.mark.slow

ROWS = [
    *(memory(number, "anna", f"Speaks language{number}, and this is {'long ' * 40 * number}") for number in range(12)),
    *(memory(number, "bo", f"Lives in Town{number}") for number in range(3)),
    memory(0, "cy", "Nothing that any rule knows"),
]


def preview(server: RunningServer, folder: Path, most: int, *, endpoint: str | None = None) -> PreviewSummary:
    async def ask() -> PreviewSummary:
        async with SpectronApi(endpoint or server.base_url, server.context, api_key=server.api_key) as api:
            with open_any([write_raw(folder / "all.json", ROWS)]) as dump:
                return await preview_plan(
                    folder / "state",
                    dump,
                    load_mapping(None),
                    Filters(),
                    api,
                    most=most,
                    now="2026-01-01T00:00:00.000000Z",
                    reporter=NullReporter(),
                )

    return asyncio.run(ask())


def table_sizes(server: RunningServer) -> dict[str, int]:
    """Rows of every table of the server."""
    with sqlite3.connect(f"{server.database.as_uri()}?mode=ro", uri=True) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        sizes = {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}
    db.close()
    return sizes


@pytest.mark.parametrize("api", API_VERSIONS)
def test_a_preview_stores_nothing_here_or_there(tmp_path: Path, api: str) -> None:
    with server_here(tmp_path / "spectron", context="preview", api=api) as server:
        before = table_sizes(server)

        summary = preview(server, tmp_path, 6)

        assert before == table_sizes(server)
    owners = Counter(row.owner for row in summary.rows)
    assert 6 == owners.total()
    assert 1 == owners["cy"]
    assert {2, 3} == {owners["anna"], owners["bo"]}
    assert not (tmp_path / "state").exists()
    (nothing,) = [row for row in summary.rows if row.gives_nothing]
    assert "cy-0000" == nothing.id
    assert all(row.attributes[0].startswith("person/user lives_in: Town") for row in summary.rows if row.owner == "bo")


def test_the_cost_of_all_is_what_the_replay_takes_for_them(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="preview") as server:
        whole, some = preview(server, tmp_path, 100), preview(server, tmp_path, 6)
        replayed = replay(server, tmp_path / "state", [tmp_path / "all.json"], options=ReplayOptions(max_tokens=10**9))

    assert replayed.tokens == whole.tokens
    estimate, low, high = some.extrapolated()
    assert low < replayed.tokens <= high
    assert replayed.tokens == estimate


def test_corrections_are_shown_where_the_scope_has_older_facts(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="preview") as server:
        first = write_raw(tmp_path / "first.json", [memory(0, "bo", "Lives in Porto", id="older")])
        replay(server, tmp_path / "old", [first])

        summary = preview(server, tmp_path, 100)

    corrected = {row.id: row.corrections for row in summary.rows if row.corrections}
    assert ("lives_in: Porto -> Town1",) == corrected["bo-0001"]
    assert 13 == summary.without_scope


def test_a_model_behind_the_server_is_asked_and_nothing_is_stored(tmp_path: Path) -> None:
    class Model:
        async def extract(self, messages: Any, known: Any) -> Extraction:
            return Extraction((Fact(("person", "user"), "said", messages[0][1][:20]),))

    with server_here(tmp_path / "spectron", context="preview", extractor=Model()) as server:
        before = table_sizes(server)
        summary = preview(server, tmp_path, 3)

        assert before == table_sizes(server)
    assert all(row.attributes[0].startswith("person/user said: ") for row in summary.rows)


def test_a_server_that_stores_instead_is_found_at_the_first_memory(tmp_path: Path) -> None:
    def stored(seen: Any, body: bytes) -> bytes | None:
        if not seen.path.endswith("/facts"):
            return None
        return json.dumps({"mode": "full", "sessionId": "s", "turnId": "t"}).encode()

    with server_here(tmp_path / "spectron", context="preview") as server, misbehaving(server.base_url) as proxy:
        proxy.change = stored  # type: ignore[method-assign]
        with pytest.raises(NotLegal, match="stored memory"):
            preview(server, tmp_path, 6, endpoint=proxy.base_url)
        assert 1 == sum(seen.path.endswith("/facts") for seen in proxy.seen)


def stated_by_a_server(costs: dict[int, int], *, of: int) -> PreviewSummary:
    """Previews whose cost a server said; `costs`: estimate -> cost."""
    rows = tuple(
        PreviewRow(str(estimate), "u", "", (), (), (), (), cost, True, estimate) for estimate, cost in costs.items()
    )
    return PreviewSummary(rows, of, 1, 0, (100 * of, 200 * of))


def test_costs_that_a_server_says_scale_the_estimate_of_all_texts() -> None:
    assert (50_000, 50_000, 50_000) == stated_by_a_server({100: 50, 200: 100, 300: 150}, of=500).extrapolated()

    few = stated_by_a_server({100: 40, 200: 110, 300: 140}, of=500)
    many = stated_by_a_server({100 + n: 50 + n // 2 + (-1) ** n * 10 for n in range(60)}, of=500)
    widths = [high - low for _, low, high in (few.extrapolated(), many.extrapolated())]
    assert widths[0] > widths[1] > 0


def test_the_command_shows_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with server_here(tmp_path / "spectron", context="preview") as server:
        for name, value in (("ENDPOINT", server.base_url), ("CONTEXT", "preview"), ("API_KEY", server.api_key)):
            monkeypatch.setenv(f"SPECTRON_{name}", value)
        words = ["replay", "--dump", str(write_raw(tmp_path / "all.json", ROWS)), "--preview", "4"]
        assert 0 == run(words)
        shown = capsys.readouterr().out
        assert 0 == run([*words, "--json"])
        answer = output.check(json.loads(capsys.readouterr().out))

    assert "nothing was stored" in shown
    assert "to" in shown
    assert 4 == answer["previewed"]
    assert 16 == answer["of"]
    assert 2 == run([*words, "--dry-run"])
