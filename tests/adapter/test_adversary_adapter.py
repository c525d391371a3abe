"""What a hostile reviewer tried on the adapter, where it once gave way."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.adapter.added_memories import AddedMemories
from spectron_migrate.adapter.call_results import results_of
from spectron_migrate.adapter.mem0_calls import Mem0Calls
from spectron_migrate.errors import InputError
from spectron_migrate.migration.drain_outbox import Drainer
from spectron_migrate.records import Memory
from spectron_migrate.state.outbox import Outbox
from tests.adapter.support import Stage, texts
from tests.adapter.test_after_complete import Untouchable, done, mine
from tests.adapter.test_outbox import begun, followed, judged
from tests.support import oracle
from tests.support.spectron import turns_of
from tests.support.waiting import wait_until

__all__ = ["done"]

LONG = " ".join(
    f"In the year {1000 + number} something else happened in the town by the river." for number in range(60)
)


class OlderMem0:
    """The signatures of the generation that takes ids as keywords."""

    def add(self, messages: Any, *, user_id: Any = None, agent_id: Any = None, run_id: Any = None) -> Any: ...

    def search(self, query: str, *, user_id: Any = None, agent_id: Any = None, limit: int = 100) -> Any: ...


# -- whose a captured memory is -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"user_id": " alice "},
        {"user_id": "", "agent_id": "bot"},
        {"user_id": True},
        {"agent_id": "bot", "metadata": {"user_id": "bob"}},
        {"user_id": "alice", "metadata": {"run_id": "r"}},
    ],
)
def test_whose_memory_is_not_guessed_from_ids_that_mem0_reads_in_its_own_way(given: dict[str, Any]) -> None:
    """One generation trims ids, another takes empty ones for none, or ids from the metadata: reading Mem0 tells."""
    answer = {"results": [{"id": "m", "memory": "x", "event": "ADD"}]}
    assert results_of("add", given, answer) is None


def test_an_id_that_mem0_trims_does_not_bring_a_captured_memory_into_another_scope(stage: Stage) -> None:
    followed(stage)
    adapter = stage.adapter()
    adapter.add("Said by somebody with a space in front", user_id=f" {stage.user} ", infer=False)
    outbox = Outbox(stage.state, host=socket.gethostname())
    wait_until(lambda: not outbox.waits())
    assert stage.reconcile()
    paths = {
        path
        for turn in oracle.server_turns(stage.server.database)
        if turn.text == "Said by somebody with a space in front"
        for path in turn.paths
    }
    assert {f"user/{stage.user}"} == paths
    judged(stage)


def test_an_empty_id_is_left_to_mem0_to_make_sense_of() -> None:
    asked = Mem0Calls(OlderMem0()).read(("tea",), {"user_id": "", "agent_id": "bot"})
    assert asked is None or asked.beyond


# -- once Spectron is the truth -----------------------------------------------------------------------------


def test_what_is_added_under_an_id_that_mem0_trims_is_found_under_it(done: Stage) -> None:
    adapter = done.adapter(Untouchable())
    adapter.add("Plays the viola", user_id=f" {done.user} ", infer=False)
    assert "Plays the viola" in [turn.content for turn in turns_of(done.server, done.user)]
    assert "Plays the viola" in texts(adapter.search("viola", **mine(done)))


def test_the_rest_of_a_long_text_that_mem0_deleted_does_not_come_back_as_a_new_memory(stage: Stage) -> None:
    """A long text is stored in several passages, and the receipt names the first one alone."""
    gone = stage.say(LONG)
    stage.say("Has two grey cats")
    stage.start()
    stage.catch_up()
    stage.mem0.delete(gone)
    stage.catch_up()
    stage.shift(100)
    stage.step("closing")
    stage.step("complete")
    found = stage.adapter(Untouchable()).search("what happened in the year 1055 by the river", **mine(stage))
    assert [] == [text for text in texts(found) if text in LONG]


def test_a_search_of_one_run_is_not_answered_with_what_another_host_wrote_in_another(done: Stage) -> None:
    there = done.adapter(Untouchable())
    there.add("The code word is heron", user_id=done.user, run_id="r2")
    (done.state / "since.db").unlink()  # another host has another state directory
    found = done.adapter(Untouchable()).search("code word", filters={"user_id": done.user, "run_id": "r1"})
    assert "The code word is heron" not in texts(found)


# -- processes ----------------------------------------------------------------------------------------------


def test_a_child_process_neither_waits_for_its_parents_lock_nor_uses_its_file(tmp_path: Path) -> None:
    since = AddedMemories(tmp_path)
    since.add(Memory(id="m1", memory="said by the parent", user_id="alice"), ["t1"])
    held = threading.Event()
    let_go = threading.Event()

    def hold() -> None:
        with since._lock:
            held.set()
            let_go.wait(20)

    threading.Thread(target=hold, daemon=True).start()
    held.wait(20)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        found = since.memory("m1")
        os._exit(0 if found is not None and found.memory == "said by the parent" else 1)
    _, status = os.waitpid(child, 0)
    let_go.set()
    assert 0 == status


def test_a_write_that_began_before_the_cutover_is_waited_for(stage: Stage) -> None:
    """Else its memory is neither in the base nor captured, and nobody knows of it."""
    going, go_on = threading.Event(), threading.Event()

    class Slow:
        def add(self, messages: Any, *, user_id: str | None = None, infer: bool = True) -> Any:
            going.set()
            go_on.wait(20)
            return stage.mem0.add(messages, user_id=user_id, infer=infer)

    stage.state.mkdir(mode=0o700, exist_ok=True)
    stage.write_settings(catch_up="outbox")
    adapter = stage.adapter(Slow())
    named = {"user_id": stage.user, "infer": False}
    writing = threading.Thread(target=adapter.add, args=("Said slowly",), kwargs=named)
    writing.start()
    going.wait(20)
    stage.start("outbox")
    try:
        assert 1 == len(stage.overview(adapter).not_on(1))
    finally:
        go_on.set()
        writing.join()
    assert 0 == len(stage.overview(adapter).not_on(1))


def test_a_process_with_another_mapping_drains_nothing_into_other_scopes(stage: Stage) -> None:
    """Someone deployed the application with an edited mapping.yaml: what it says was never planned nor verified."""
    begun(stage)
    (stage.folder / "mapping.yaml").write_text(
        "version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {org: elsewhere, user: '{user_id}'}\n"
    )
    adapter = stage.adapter(mapping=stage.folder / "mapping.yaml")
    adapter.add("Said under another mapping", user_id=stage.user, infer=False)
    with pytest.raises(InputError, match="mapping"):
        drained(stage, adapter)
    found = [turn for turn in oracle.server_turns(stage.server.database) if turn.text == "Said under another mapping"]
    assert [] == found
    assert Outbox(stage.state, host=socket.gethostname()).waits()


def drained(stage: Stage, adapter: Any) -> None:
    """What a follower with the adapter's mapping does."""

    async def run() -> None:
        outbox = Outbox(stage.state, host=socket.gethostname())
        async with stage.api() as api:
            await Drainer(stage.state, adapter._core.mapping, outbox, max_lag_s=60.0).drain(api)

    asyncio.run(run())
