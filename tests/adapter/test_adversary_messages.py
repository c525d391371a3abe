"""Holes that were looked for in `capture: messages`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spectron_migrate.adapter.capture import messages_of
from tests.adapter.test_draining import Drains, drains  # noqa: F401 - a fixture
from tests.adapter.test_messages import BEFORE, BOTH, captures, tell
from tests.adapter.test_outbox import judged, turns

NOW_ROME = "I moved to Rome. My dog is called Bo"


def stores(drains: Drains, *made: tuple[str, str, str]) -> list[dict[str, Any]]:  # noqa: F811 - a fixture
    """What Mem0 did for one message, event by event, as it answers: a text under an id, or a new one."""
    mem0, user = drains.stage.mem0, drains.stage.user
    rows = []
    for event, mem0_id, text in made:
        if event == "ADD":
            mem0_id = str(mem0.add(text, infer=False, user_id=user)["results"][0]["id"])
        elif event == "UPDATE":
            mem0.update(mem0_id, text)
        else:
            mem0.delete(mem0_id)
        rows.append({"id": mem0_id, "memory": text, "event": event})
    return rows


def says(drains: Drains, text: str, rows: Sequence[dict[str, Any]]) -> None:  # noqa: F811
    """The application said it, and this is what Mem0 made of it."""
    given = {"messages": text, "user_id": drains.stage.user}
    tell(drains, messages_of("add", given, {"results": list(rows)}) or [])


# -- a message changes what an earlier one said -----------------------------------------------------------------


def test_a_message_that_updates_a_memory_is_written_with_all_that_it_says(drains: Drains) -> None:  # noqa: F811
    made = captures(drains)
    drains.drain()
    rows = stores(drains, ("UPDATE", made[0], "I moved to Rome"), ("ADD", "", "My dog is called Bo"))
    says(drains, NOW_ROME, rows)
    assert frozenset() == drains.drain().behind
    assert [BEFORE, BOTH, NOW_ROME] == turns(drains.stage)
    judged(drains.stage)


def test_a_message_that_says_two_things_of_one_memory_loses_no_other(drains: Drains) -> None:  # noqa: F811
    made = captures(drains)
    drains.drain()
    rome, oslo = (("UPDATE", made[0], f"I moved to {place}") for place in ("Rome", "Oslo"))
    says(drains, "Rome, no, Oslo. My dog is called Bo", stores(drains, rome, oslo, ("ADD", "", "My dog is called Bo")))
    drains.drain()
    assert [BEFORE, BOTH, "I moved to Oslo", "My dog is called Bo"] == turns(drains.stage)
    judged(drains.stage)
