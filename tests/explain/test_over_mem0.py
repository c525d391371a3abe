"""`explain` beside a real Mem0: a memory that was deleted there, and what a search in each system finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.mem0.stores.config_spellings import OWN_KEY
from tests.adapter.conftest import stage
from tests.adapter.support import TEA, Stage
from tests.support import output

__all__ = ["stage"]
pytestmark = pytest.mark.slow
Explain = Callable[[str], dict[str, Any]]
HOME = "Lives in Lisbon near the river"


@pytest.fixture
def explain(stage: Stage, capsys: pytest.CaptureFixture[str]) -> Explain:
    """The page about an id, as JSON."""

    def page(mem0_id: str) -> dict[str, Any]:
        capsys.readouterr()
        assert 0 == run(["explain", mem0_id, "--json"])
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        output.check(answer)
        return answer

    return page


def migrate() -> None:
    """Read Mem0 and send what is new."""
    assert 0 == run(["export"])
    assert 0 == run(["replay"])


def test_a_memory_that_was_deleted_in_mem0_after_it_was_sent(
    stage: Stage, explain: Explain, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.say(HOME)
    gone = stage.say(TEA)
    migrate()
    stage.mem0.delete(gone)
    migrate()

    page = explain(gone)

    assert "deleted in Mem0" == page["fate"]
    assert "stays in Spectron" in page["why"]
    assert not page["mem0"]["in_dump"]
    assert page["mem0"]["gone_since"] is not None
    assert "as sent" == page["spectron"]["turn"]
    assert page["search"]["mem0"]["rank"] is None
    assert gone not in [hit["memory"] for hit in page["search"]["mem0"]["hits"]]
    assert 0 == run(["explain", gone])
    assert f"Memory {gone}: deleted in Mem0" in capsys.readouterr().out


def test_a_memory_that_was_deleted_in_mem0_before_it_was_sent(stage: Stage, explain: Explain) -> None:
    stage.say(HOME)
    gone = stage.say(TEA)
    assert 0 == run(["export"])
    assert 8 == run(["replay", "--limit", "1"])
    stage.mem0.delete(gone)
    migrate()

    page = explain(gone)

    assert "deleted in Mem0" == page["fate"]
    assert page["why"].endswith("it was not sent")
    assert page["spectron"] is None


def test_the_page_says_at_which_rank_each_search_finds_the_memory(
    stage: Stage, explain: Explain, capsys: pytest.CaptureFixture[str]
) -> None:
    offline = {**stage.config, OWN_KEY: {"embedder": "wordllama"}}  # nothing listens where the config says
    Path("mem0.json").write_text(json.dumps(offline))
    home = stage.say(HOME)
    stage.say(TEA)
    stage.say(TEA, user_id=f"{stage.user}-other")
    migrate()

    search = explain(home)["search"]

    assert {"mem0": 1, "spectron": 1} == {name: found["rank"] for name, found in search.items()}
    assert 2 >= len(search["mem0"]["hits"])
    assert home == search["mem0"]["hits"][0]["memory"]
    assert home == search["spectron"]["hits"][0]["memory"]
    assert 0 == run(["explain", home])
    assert "A search in Mem0 for its own words: at rank 1" in capsys.readouterr().out


def test_a_mem0_that_cannot_be_searched_is_said_on_the_page(stage: Stage, explain: Explain) -> None:
    home = stage.say(HOME)
    migrate()
    (stage.folder / "spectron-migrate.yaml").write_text("version: 1\n")

    search = explain(home)["search"]

    assert search["mem0"]["error"].startswith("not asked")
    assert 1 == search["spectron"]["rank"]
