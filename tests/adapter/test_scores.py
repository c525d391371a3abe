"""Scores: Spectron's are on another scale than Mem0's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from spectron_migrate import NotInSpectron
from tests.adapter.support import TEA, Stage, Untouchable

pytestmark = pytest.mark.slow

SAID = [TEA, "Lives in Lisbon near the river", "Has two grey cats"]


def shifted(stage: Stage, **score: str) -> Stage:
    for text in SAID:
        stage.say(text)
    stage.write_settings({"adapter": score} if score else {})
    stage.to_spectron()
    return stage


def scores(answer: Any) -> list[float]:
    return [row["score"] for row in answer["results"]]


def asked(stage: Stage, **more: Any) -> dict[str, Any]:
    return {"filters": {"user_id": stage.user}, **more}


def test_by_default_a_score_is_the_rank(stage: Stage) -> None:
    adapter = shifted(stage).adapter()
    assert [1.0, 2 / 3, 1 / 3] == pytest.approx(scores(adapter.search("green tea", **asked(stage))))
    assert [1.0] == scores(adapter.search("green tea", **asked(stage, top_k=1)))
    stage.step("closing")
    stage.step("complete")
    for found in (
        stage.adapter(Untouchable()).search("green tea", **asked(stage)),
        asyncio.run(stage.async_adapter(Untouchable()).search("green tea", stage.user)),
    ):
        assert [1.0, 2 / 3, 1 / 3] == pytest.approx(scores(found))


def test_spectrons_own_scores_are_shown_on_request(stage: Stage) -> None:
    adapter = shifted(stage, score="spectron").adapter()
    found = scores(adapter.search("green tea", **asked(stage)))
    assert 3 == len(found)
    assert found != pytest.approx([1.0, 2 / 3, 1 / 3])
    assert found == sorted(found, reverse=True)


def test_a_threshold_is_mem0s_before_complete_and_an_error_after_it(stage: Stage) -> None:
    adapter = shifted(stage).adapter()
    by_mem0 = stage.mem0.search("green tea", **asked(stage, threshold=0.5))
    assert by_mem0 == adapter.search("green tea", **asked(stage, threshold=0.5))
    assert {"search(threshold)": 1} == stage.overview(adapter).calls
    stage.step("closing")
    stage.step("complete")
    with pytest.raises(NotInSpectron, match="threshold") as raised:
        stage.adapter(Untouchable()).search("green tea", **asked(stage, threshold=0.5))
    assert "without `threshold`" in (raised.value.hint or "")
