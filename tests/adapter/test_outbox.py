"""The outbox: what Mem0 stored comes to Spectron exactly once and in order, whoever dies on the way."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spectron_migrate.cutover.evidence import Evidence, gather
from spectron_migrate.cutover.gates import evaluate_gates
from spectron_migrate.cutover.status import cutover_status
from spectron_migrate.errors import NotLegal
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.follow import HELD
from spectron_migrate.state.call_log import CallResult, CallSubject
from spectron_migrate.state.following import FOLLOW_FILE, FOLLOW_LOCK, UNDRAINED
from spectron_migrate.state.outbox import Outbox
from spectron_migrate.state.routing import Routing, read_routing
from spectron_migrate.state.store import read_object, store_at, write_object
from tests.adapter.drains import BEFORE, BOTH
from tests.adapter.extracting import Extracting
from tests.adapter.support import NotedCalls, Stage, begun, followed, ids, judged, stamp, texts, turns
from tests.support import oracle
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ITSELF: list[Any] = []
ITSELF.append(ITSELF)


@pytest.mark.ledger_file  # a state in a database is that of all hosts
def test_a_second_host_is_told_to_follow(stage: Stage) -> None:
    stage.start("outbox")
    Outbox(stage.state, host="another-host").close()
    with pytest.raises(NotLegal) as raised:
        stage.adapter()
    assert "follow" in (raised.value.hint or "")
    assert socket.gethostname() in raised.value.message


def test_what_is_added_changed_and_deleted_comes_along_by_itself(stage: Stage) -> None:
    followed(stage)
    stage.shift(100)
    adapter = stage.adapter()
    first = ids(adapter.add("Prefers green tea", user_id=stage.user, metadata={"kind": "taste"}, infer=False))[0]
    second = ids(adapter.add("Has two grey cats", user_id=stage.user, infer=False))[0]
    adapter.update(first, text="Prefers oolong tea")
    adapter.delete(second)
    wait_until(lambda: "Prefers oolong tea" in turns(stage))
    mine = {"filters": {"user_id": stage.user}}

    def from_spectron() -> bool:
        before = adapter._core.counters.snapshot()["reads"].get("spectron", 0)
        found = adapter.search("what tea, which pets", **mine)
        assert "Prefers green tea" not in texts(found)
        assert "Has two grey cats" not in texts(found)
        assert first in ids(found)
        return bool(adapter._core.counters.snapshot()["reads"].get("spectron", 0) > before)

    wait_until(from_spectron)
    assert {"kind": "taste"} == adapter.search("oolong tea", **mine)["results"][0]["metadata"]
    assert stage.reconcile()
    judged(stage)


def test_calls_that_followed_each_other_arrive_in_order(stage: Stage) -> None:
    followed(stage)
    adapter = stage.adapter()
    said = [f"Number {number} of what was said" for number in range(12)]
    for text in said:
        adapter.add(text, user_id=stage.user, infer=False)
    wait_until(lambda: len(turns(stage)) == 13)
    assert said == turns(stage)[1:]
    assert stage.reconcile()
    assert 13 == len(turns(stage))
    judged(stage)


def test_a_call_that_raised_is_unknown_until_mem0_is_read(stage: Stage) -> None:
    followed(stage)

    class Cut:
        """Mem0 stores it, and the answer is lost."""

        def add(self, messages: Any, *, user_id: str | None = None, infer: bool = True) -> Any:
            stage.mem0.add(messages, user_id=user_id, infer=infer)
            raise ConnectionError("cut")

        def search(self, query: str, *, top_k: int = 20, filters: Any = None) -> Any:
            return stage.mem0.search(query, top_k=top_k, filters=filters)

    stage.shift(100)
    adapter = stage.adapter(Cut())
    with pytest.raises(ConnectionError):
        adapter.add("Was stored all the same", user_id=stage.user, infer=False)
    outbox = Outbox(stage.state, host=socket.gethostname())
    raised = stamp()
    wait_until(lambda: ((read_routing(stage.state) or Routing()).as_of or "") > raised)  # not this user
    assert "Was stored all the same" in texts(adapter.search("stored", filters={"user_id": stage.user}))
    assert stage.reconcile()
    wait_until(lambda: not outbox.unknown())
    assert 1 == turns(stage).count("Was stored all the same")
    judged(stage)


@pytest.mark.parametrize("more", [{"at": NOW}, {"itself": [ITSELF]}])
def test_what_cannot_be_kept_is_unknown_and_no_call_fails_for_it(stage: Stage, more: dict[str, Any]) -> None:
    begun(stage)

    class Takes:
        """A store that takes any metadata."""

        def add(self, messages: Any, *, user_id: str, metadata: Any) -> Any:
            return {"results": [{"id": "m-odd", "memory": messages, "event": "ADD"}]}

    assert "m-odd" in ids(stage.adapter(Takes()).add("Said", user_id=stage.user, metadata=more))
    batch = Outbox(stage.state, host=socket.gethostname()).batch(9, datetime.now(UTC))
    assert [CallSubject((stage.user,))] == [subject for _, subject in batch.unknown]


def test_a_memory_that_was_captured_and_deleted_unseen_is_not_held_for_living(stage: Stage) -> None:
    """No dump ever had it: only its absence from a whole reading tells."""
    followed(stage)
    adapter = stage.adapter()
    made = ids(adapter.add("Said and taken back", user_id=stage.user, infer=False))[0]
    wait_until(lambda: "Said and taken back" in turns(stage))
    stage.mem0.delete(made)  # past the adapter, or by a process that was killed before it could say so
    assert stage.reconcile()
    stage.shift(100)
    assert "Said and taken back" not in texts(adapter.search("taken back", filters={"user_id": stage.user}))
    judged(stage)


def test_a_memory_that_is_deleted_and_added_again_under_its_id_comes_along(stage: Stage) -> None:
    """One batch has both: what the first row buried the second one brings back."""
    followed(stage)
    adapter = stage.adapter()
    made = ids(adapter.add("Said first", user_id=stage.user, infer=False))[0]
    wait_until(lambda: "Said first" in turns(stage))
    again = CallResult("ADD", made, "Said again", {"user_id": stage.user})
    NotedCalls(stage.state).complete([CallResult("DELETE", made), again])
    wait_until(lambda: "Said again" in turns(stage))


def test_spectron_being_down_delays_and_loses_nothing(own_stage: Stage) -> None:
    stage = followed(own_stage)
    adapter = stage.adapter()
    stage.server.kill()
    for number in range(5):
        adapter.add(f"Said while it was down, {number}", user_id=stage.user, infer=False)
    wait_until(lambda: (read_object(stage.state, FOLLOW_FILE) or {})["problem"])
    stage.server.start()
    wait_until(lambda: len(turns(stage)) == 6)
    assert stage.reconcile()
    assert 6 == len(turns(stage))
    judged(stage)


@pytest.mark.ledger_file  # it starts a process
def test_whoever_dies_another_process_goes_on(own_stage: Stage) -> None:
    """A process is killed with writes of its own on the way; the next one delivers them, each once."""
    stage = followed(own_stage)
    code = (
        "import sys\nfrom spectron_migrate import MemoryAdapter\n"
        "class Mem0:\n"
        "    n = 0\n"
        "    def add(self, messages, *, user_id=None, infer=True):\n"
        "        line = sys.stdin.readline().split(' ', 1)\n"
        "        return {'results': [{'id': line[0], 'memory': messages, 'event': 'ADD'}]}\n"
        "adapter = MemoryAdapter(Mem0())\n"
        "for number in range(100):\n"
        "    adapter.add(f'Told by the victim, {number}', user_id=sys.argv[1], infer=False)\n"
        "    print('added', flush=True)\n"
    )
    victim = subprocess.Popen(
        [sys.executable, "-c", code, stage.user], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert victim.stdin is not None
    assert victim.stdout is not None
    for number in range(10):
        made = stage.say(f"Told by the victim, {number}")
        victim.stdin.write(f"{made} x\n")
        victim.stdin.flush()
        assert "added\n" == victim.stdout.readline()
    victim.kill()
    victim.wait()
    stage.adapter().add("Told by the next one", user_id=stage.user, infer=False)
    wait_until(lambda: len(turns(stage)) >= 12)
    assert stage.reconcile()
    assert 12 == len(turns(stage)) == len(set(turns(stage)))
    judged(stage)
    victim.stdin.close()
    victim.stdout.close()


# -- one process drains ------------------------------------------------------------------------------------


def test_without_a_follower_the_outbox_stands_still_and_everybody_says_so(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    begun(stage)
    adapter = stage.adapter()
    adapter.add("Said while nobody followed", user_id=stage.user, infer=False)
    assert ["Was here before the cutover began"] == turns(stage)
    for _ in range(2):  # a follower that is being restarted is no news
        adapter._core.heartbeat._drain_check_at = float("-inf")
        adapter._core.heartbeat._warn_if_undrained(adapter._core.routing.current())
    assert 1 == caplog.text.count("run spectron-migrate replay --follow")
    told = cutover_status(stage.state, now=datetime.now(UTC) + timedelta(hours=1))
    assert told is not None
    assert UNDRAINED == told["problem"]
    assert "spectron-migrate replay --follow" == told["next"]
    evidence = asyncio.run(evidence_of(stage))
    assert [UNDRAINED] == [gate.hint for gate in evaluate_gates(evidence) if gate.name == "lag"]


def test_while_a_replay_keeps_the_outbox_from_being_drained_everybody_says_so(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    begun(stage)
    adapter = stage.adapter()
    following = store_at(stage.state).try_lock(FOLLOW_LOCK)
    assert following is not None
    with following:
        write_object(stage.state, FOLLOW_FILE, {"problem": HELD})
        for _ in range(3):
            adapter._core.heartbeat._drain_check_at = float("-inf")
            adapter._core.heartbeat._warn_if_undrained(adapter._core.routing.current())
        assert 1 == caplog.text.count(f"captured writes wait: {HELD}")
        evidence = asyncio.run(evidence_of(stage))
        assert [HELD] == [gate.hint for gate in evaluate_gates(evidence) if gate.name == "lag"]
        write_object(stage.state, FOLLOW_FILE, {"problem": None})
        evidence = asyncio.run(evidence_of(stage))
        assert evidence.undrained is None


async def evidence_of(stage: Stage) -> Evidence:
    """What the gates see once nobody has drained for an hour."""
    later = datetime.now(UTC) + timedelta(hours=1)
    mapping = load_mapping(None).digest
    given: dict[str, Any] = {"mapping": mapping, "max_lag_s": 60.0, "max_age_s": 86400.0, "soak_s": 0.0}
    return await gather(stage.state, stage.folder / "dump", api=None, now=later, **given)


def test_a_step_of_the_cutover_drains_without_a_follower(stage: Stage) -> None:
    begun(stage, capture="messages")
    adapter = stage.adapter()
    adapter.add("Said while nobody followed", user_id=stage.user, infer=False)
    assert stage.reconcile()
    assert not Outbox(stage.state, host=socket.gethostname()).waits()
    assert "Said while nobody followed" in turns(stage)
    judged(stage)


def test_an_application_that_changes_its_directory_goes_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings name the state directory relative to where the application was started."""
    begun(stage)
    adapter = stage.adapter()
    (stage.folder / "elsewhere").mkdir()
    monkeypatch.chdir(stage.folder / "elsewhere")
    adapter.add("Said from elsewhere", user_id=stage.user, infer=False)
    assert stage.reconcile()
    assert "Said from elsewhere" in turns(stage)
    assert [] == list((stage.folder / "elsewhere").iterdir())
    stage.shift(100)
    assert "Said from elsewhere" in texts(adapter.search("elsewhere", filters={"user_id": stage.user}))
    assert 1 == adapter._core.counters.snapshot()["reads"].get("spectron", 0)


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


def test_a_write_that_began_before_the_cutover_is_waited_for(stage: Stage) -> None:
    """Else its memory is neither in the base nor captured, and nobody knows of it."""
    going, go_on = threading.Event(), threading.Event()

    class Slow:
        def add(self, messages: Any, *, user_id: str | None = None, infer: bool = True) -> Any:
            going.set()
            go_on.wait(20)
            return stage.mem0.add(messages, user_id=user_id, infer=infer)

    stage.state.mkdir(mode=0o700, exist_ok=True)
    (stage.state / "log.jsonl").touch()  # a command has worked here: it is no empty volume
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


@pytest.mark.parametrize("value", [datetime(2026, 11, 22, tzinfo=UTC), float("nan")], ids=["time", "no number"])
@pytest.mark.parametrize("capture", ["memories", "messages"])
def test_metadata_that_is_no_json_fails_no_call_and_is_found_by_reading(
    stage: Stage, capture: str, value: object
) -> None:
    begun(stage, capture=capture)
    adapter = stage.adapter(Extracting(stage.mem0))
    made = ids(adapter.add(BOTH, user_id=stage.user, metadata={"at": value}))
    assert 2 == len(made)
    assert stage.reconcile()
    assert [BEFORE, "I moved to Berlin", "My cat is called Ada"] == turns(stage)
    judged(stage)
