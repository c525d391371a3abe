"""`replay --preview N`: what Spectron would make of some memories, what that costs, and nothing is stored."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections import Counter
from contextlib import chdir
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.dump import open_any
from spectron_migrate.errors import NotLegal
from spectron_migrate.local.engine import API_VERSIONS
from spectron_migrate.local.extract import Extraction, Fact
from spectron_migrate.local.language_model import LanguageModelExtractor
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.preview import PreviewRow, PreviewSummary, describe, preview_plan
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.records import Filters
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.support import output
from tests.support.here import server_here
from tests.support.language_model import language_model
from tests.support.proxy import misbehaving
from tests.support.spectron import memory, replay, write_raw

pytestmark = pytest.mark.slow

ROWS = [
    *(memory(number, "anna", f"Speaks language{number}, and this is {'long ' * 40 * number}") for number in range(12)),
    *(memory(number, "bo", f"Lives in Town{number}") for number in range(3)),
    memory(0, "cy", "Nothing that any rule knows"),
]

COUNTING = ReplayOptions(max_tokens=10**9)
"""A replay counts tokens where they are limited."""


def preview(server: RunningServer, folder: Path, most: int, *, endpoint: str | None = None) -> PreviewSummary:
    return preview_of(server, folder, [write_raw(folder / "all.json", ROWS)], most, endpoint=endpoint)


def preview_of(
    server: RunningServer, folder: Path, paths: list[Path], most: int, *, endpoint: str | None = None
) -> PreviewSummary:
    async def ask() -> PreviewSummary:
        async with SpectronApi(endpoint or server.base_url, server.context, api_key=server.api_key) as api:
            with open_any(paths) as dump:
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


def test_where_everything_is_written_there_is_nothing_to_preview() -> None:
    assert "nothing to preview" in describe(PreviewSummary((), 0, 0, 0, (0, 0), 0))


def test_the_cost_of_all_is_what_the_replay_takes_for_them(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="preview") as server:
        whole, some = preview(server, tmp_path, 100), preview(server, tmp_path, 6)
        replayed = replay(server, tmp_path / "state", [tmp_path / "all.json"], options=COUNTING)

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


def stated_by_a_server(costs: dict[int, int], *, of: int, letters: int) -> PreviewSummary:
    """Previews whose cost a server said; `costs`: length of the text -> cost."""
    rows = tuple(
        PreviewRow(str(length), "u", "x" * length, (), (), (), (), cost, tokens_stated=True)
        for length, cost in costs.items()
    )
    return PreviewSummary(rows, of, 1, 0, (1, 2), letters)


def test_costs_that_a_server_says_are_a_line_over_the_length_of_the_text() -> None:
    exact = stated_by_a_server({100: 150, 200: 200, 300: 250}, of=500, letters=100_000)
    assert (100_000, 100_000, 100_000) == exact.extrapolated()

    few = stated_by_a_server({100: 140, 200: 210, 300: 240}, of=500, letters=100_000)
    many = stated_by_a_server({100 + n: 150 + n // 2 + (-1) ** n * 10 for n in range(60)}, of=500, letters=500 * 130)
    widths = [high - low for _, low, high in (few.extrapolated(), many.extrapolated())]
    assert widths[0] > widths[1] > 0


def test_the_interval_holds_the_cost_of_all_where_texts_differ_much_and_owners_are_of_different_sizes() -> None:
    dice = random.Random(0)
    held = 0
    for _ in range(200):
        lengths = [*(dice.randrange(20, 120) for _ in range(200)), 800, 3000]
        costs = [round(100 + 3 * length + dice.gauss(0, 40)) for length in lengths]
        drawn = dice.sample(range(200), 20)
        rows = tuple(
            PreviewRow(str(at), "u", "x" * lengths[at], (), (), (), (), costs[at], tokens_stated=True) for at in drawn
        )
        _, low, high = PreviewSummary(rows, len(lengths), 1, 0, (1, 2), sum(lengths)).extrapolated()
        held += low <= sum(costs) <= high
    assert 180 <= held


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


# -- the rehearsal's store, with either extractor ---------------------------------------------------------------


@pytest.fixture(scope="module")
def rehearsed(rehearsal_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dump of the rehearsal's store."""
    folder = tmp_path_factory.mktemp("rehearsed")
    (folder / "spectron-migrate.yaml").write_text(f"version: 1\nmem0: {{oss: {{config: {rehearsal_store}}}}}\n")
    with chdir(folder):
        assert 0 == run(["export"])
    return folder / "dump"


def of_the_model(asked: Any) -> dict[str, Any]:
    """What the stand-in of a language model makes of a text: one fact."""
    text = asked["conversation"][0]["text"]
    return {"facts": [{"type": "person", "name": "user", "key": "said", "value": text[:30], "confidence": 0.9}]}


@pytest.mark.parametrize("extractor", ["rules", "a model over HTTP"])
def test_twenty_memories_of_the_rehearsal_cost_what_their_replay_then_takes(
    rehearsed: Path, extractor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with language_model() as model:
        model.content = of_the_model
        given = {"extractor": LanguageModelExtractor(model.url, "small")} if extractor != "rules" else {}
        with server_here(tmp_path / "spectron", context="preview", **given) as server:
            for name, value in (("ENDPOINT", server.base_url), ("CONTEXT", "preview"), ("API_KEY", server.api_key)):
                monkeypatch.setenv(f"SPECTRON_{name}", value)
            before = table_sizes(server)
            assert 0 == run(["replay", "--dump", str(rehearsed), "--preview", "20", "--json"])
            summary = output.check(json.loads(capsys.readouterr().out))
            assert before == table_sizes(server)
            asked = len(model.asked)
            previewed = {row["id"] for row in summary["rows"]}
            lines = (rehearsed / "memories.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [row for line in lines if (row := json.loads(line))["id"] in previewed]
            replayed = replay(server, tmp_path / "state", [write_raw(tmp_path / "those.json", rows)], options=COUNTING)

    assert 20 == summary["previewed"] == replayed.written
    assert (20 if extractor != "rules" else 0) == asked
    assert summary["tokens"]["previewed"] == replayed.tokens
    assert summary["tokens"]["low"] < summary["tokens"]["all"] <= summary["tokens"]["high"]
    if extractor != "rules":
        assert all(row["attributes"][0].startswith("person/user said: ") for row in summary["rows"])


def test_a_server_that_says_what_each_costs_is_extrapolated_with_an_interval(rehearsed: Path, tmp_path: Path) -> None:
    """No published API says it; `usage.totalTokens` is read where a server does."""

    def with_usage(seen: Any, body: bytes) -> bytes | None:
        answer = json.loads(body) if seen.path.endswith("/facts") else {}
        if answer.get("mode") not in ("preview", "full"):
            return None
        text = json.loads(seen.body)["text"]
        return json.dumps({**answer, "usage": {"totalTokens": 100 + 3 * len(text) + len(text) ** 3 % 97}}).encode()

    # Which memories are previewed depends on their ids, which Mem0 draws at random: an interval at 95 % may miss.
    lines = (rehearsed / "memories.jsonl").read_text(encoding="utf-8").splitlines()
    rows = sorted((json.loads(line) for line in lines), key=itemgetter("memory", "user_id"))
    dump = write_raw(tmp_path / "all.json", [{**row, "id": f"memory-{number}"} for number, row in enumerate(rows)])
    with server_here(tmp_path / "spectron", context="preview") as server, misbehaving(server.base_url) as proxy:
        proxy.change = with_usage  # type: ignore[method-assign]
        summary = preview_of(server, tmp_path, [dump], 20, endpoint=proxy.base_url)
        everything = replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url, options=COUNTING)

    assert summary.is_stated
    estimate, low, high = summary.extrapolated()
    assert low < estimate < high
    assert low <= everything.tokens <= high
