"""What verification says of memories that are in the turns of messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from spectron_migrate.keywords import words_of
from spectron_migrate.mem0.search import SearchHit
from spectron_migrate.verify.dual_verify import VerifySummary
from spectron_migrate.verify.options import Query, VerifyOptions
from tests.adapter.drains import Drains, says, stores
from tests.adapter.extracting import Extracting
from tests.adapter.support import Stage, followed, ids, turns
from tests.support.waiting import wait_until
from tests.verify.support import failed_gates, named_findings, tampering, verify

pytestmark = pytest.mark.slow

TOLD = [
    "I moved to Berlin in spring. My cat is called Ada",
    "Green tea keeps me awake. I drink rooibos in the evening",
    "The choir meets on Thursdays. We are singing Brahms",
    "My tandem needs a new chain. The brakes squeak",
    "Night trains to Vienna are full. I booked a couchette",
    "Our garden has an old pear tree. Wasps love its fruit",
]


@dataclass(frozen=True)
class Asked:
    """Mem0's own search."""

    mem0: Any

    def search(
        self, query: str, *, user_id: str | None, agent_id: str | None, run_id: str | None, top_k: int
    ) -> list[SearchHit]:
        found = self.mem0.search(query, filters={"user_id": user_id}, top_k=top_k)["results"]
        return [SearchHit(row["id"], row["memory"], row["score"]) for row in found]

    def describe(self) -> str:
        return "the stage's"


@pytest.fixture
def told(own_stage: Stage) -> tuple[Stage, list[str]]:
    """All that was told is in Spectron, message by message; ids of what Mem0 made of the first."""
    stage = followed(own_stage, capture="messages")
    adapter = stage.adapter(Extracting(stage.mem0))
    made = [ids(adapter.add(text, user_id=stage.user)) for text in TOLD]
    wait_until(lambda: set(TOLD) <= set(turns(stage)))
    assert stage.reconcile()
    return stage, made[0]


def verified(stage: Stage) -> VerifySummary:
    return verify(stage.server, stage.state, [stage.folder / "dump"], VerifyOptions(sample=100), mem0=Asked(stage.mem0))


def test_messages_are_looked_at_in_place_of_their_memories(told: tuple[Stage, list[str]]) -> None:
    stage, made = told
    summary = verified(stage)
    integrity = summary.report["measured"]["integrity"]
    assert 7 == integrity["expected"]
    assert 7 == integrity["present"]
    assert 12 == integrity["carried"]
    assert set() == named_findings(summary)
    assert [] == failed_gates(summary)
    measured = summary.report["measured"]["recall"]["metrics"]
    assert 7 == measured["queries"]
    assert made[0] not in str(summary.report["ids"])


def test_a_message_that_is_gone_is_a_no_go(told: tuple[Stage, list[str]]) -> None:
    stage, _ = told
    with tampering(stage.server) as db:
        db.execute("DELETE FROM item WHERE turn IN (SELECT id FROM turns WHERE content = ?)", (TOLD[0],))
        db.execute("DELETE FROM turn WHERE content = ?", (TOLD[0],))
    summary = verified(stage)
    assert "NO_GO" == summary.verdict
    (missing,) = [mem0_id for kind, mem0_id in named_findings(summary) if kind == "missing"]
    assert missing.startswith("message-")


def test_a_query_for_a_memory_is_answered_by_its_message(told: tuple[Stage, list[str]]) -> None:
    stage, made = told
    query = Query("Where do I live?", user_id=stage.user, expect=(made[0],))
    options = VerifyOptions(queries=(query,))
    summary = verify(stage.server, stage.state, [stage.folder / "dump"], options, mem0=Asked(stage.mem0))
    (answer,) = summary.report["answers"]
    assert answer["expect"][0].startswith("message-")
    assert {"mem0": 1.0, "spectron": 1.0} == {
        side: answer["measures"][side]["success"] for side in ("mem0", "spectron")
    }


def test_recall_is_asked_in_the_words_that_mem0_has_of_a_message(drains: Drains) -> None:
    """In those of the message itself, which only Spectron holds, it could but win."""
    said = {"Zanzibar quokka": "Plays the cello", "Xylophone quartz": "Keeps two bees"}
    for message, memory in said.items():
        says(drains, message, stores(drains, ("ADD", "", memory)))
    drains.drain()
    stage = drains.stage
    stage.read()
    summary = verify(stage.server, stage.state, [stage.folder / "dump"], VerifyOptions(), mem0=Asked(stage.mem0))
    asked = {word for answer in summary.report["answers"] for word in words_of(answer["query"])}
    assert asked & {"cello", "plays"}
    assert asked & {"bees", "keeps"}
    assert asked.isdisjoint({"zanzibar", "quokka", "xylophone", "quartz"})
