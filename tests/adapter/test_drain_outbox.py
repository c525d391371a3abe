"""Who may be read from Spectron while writes are on their way: drained step by step, with the clock in hand."""

from __future__ import annotations

import asyncio
import errno
import socket
import tarfile
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.drain_outbox import Drainer
from spectron_migrate.state.call_log import ANYBODY, FILE, CallResult, CallSubject, note_missed
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.journal import record_step
from spectron_migrate.state.outbox import DDL, NAME, Outbox
from spectron_migrate.state.store import store_at
from tests.adapter.drains import Drains, drained_by, drained_through, tell
from tests.adapter.support import NotedCalls, Stage, begun, ids, judged, turns
from tests.support import oracle
from tests.support.proxy import Seen

pytestmark = pytest.mark.slow


def test_nothing_is_sent_before_the_base_is_planned(stage: Stage) -> None:
    old = [stage.say(f"Said before, {number}") for number in range(3)]
    stage.start("outbox")
    outbox = Outbox(stage.state, host=socket.gethostname())
    made = stage.say("Said meanwhile")
    told = CallResult("ADD", made, "Said meanwhile", {"user_id": stage.user})
    NotedCalls(stage.state).complete([told])
    drainer = Drainer(stage.state, load_mapping(None), outbox, max_lag_s=60.0)
    assert drained_by(drainer, stage) is None
    assert [] == turns(stage)
    assert outbox.waits()
    stage.catch_up()
    assert drained_by(drainer, stage) is not None
    assert not outbox.waits()
    assert len(old) + 1 == len(turns(stage))
    assert "Said meanwhile" == turns(stage)[-1]
    judged(stage)


def test_a_write_that_ended_after_the_draining_began_is_held(drains: Drains) -> None:
    drains.drain()
    drains.calls.complete([], drains.now, owner=drains.stage.user)  # in the same microsecond
    assert drains.is_held()
    drains.now += timedelta(microseconds=1)
    drains.drain()
    assert not drains.is_held()


def test_a_clock_that_is_put_back_does_not_make_a_write_older_than_a_draining_that_missed_it(drains: Drains) -> None:
    drains.drain()
    drained_at = drains.as_of
    drains.calls.complete([], datetime.fromtimestamp(drained_at - 3600, UTC), owner=drains.stage.user)
    assert drains.is_held()
    drains.drain()
    assert drained_at < drains.as_of
    assert not drains.is_held()


@pytest.mark.ledger_file  # of the disk
def test_what_could_not_be_noted_holds_everybody_until_mem0_is_read(drains: Drains) -> None:
    """A full disk takes no line; what it takes is the time of a file."""
    note_missed(drains.stage.state, time.time())
    assert drains.is_held()
    assert drains.drain().behind is None
    drains.stage.read()
    assert frozenset() == drains.drain().behind
    assert not drains.is_held()


def test_a_call_that_fails_after_the_reading_passed_by_stays_unknown(drains: Drains) -> None:
    """What it stored came after; when it began says nothing."""
    drains.stage.read()
    drains.calls.leave_unknown(CallSubject((drains.stage.user,)))
    assert frozenset({drains.stage.user}) == drains.drain().behind
    drains.stage.read()
    assert frozenset() == drains.drain().behind


def test_a_call_of_a_dead_process_is_unknown_until_mem0_is_read(drains: Drains) -> None:
    drains.calls.complete([], owner="somebody else")
    drains.calls.begin(CallSubject((drains.stage.user,)))
    drains.calls.die()
    drains.stage.read()
    assert frozenset({drains.stage.user}) == drains.drain().behind
    assert frozenset({drains.stage.user}) == drains.drain().behind
    drains.stage.read()
    assert frozenset() == drains.drain().behind


def test_the_owner_of_a_running_call_stays_behind_so_that_its_process_may_die(drains: Drains) -> None:
    """What it stored could be read for before the next drain learns of its death."""
    call = drains.calls.begin(CallSubject((drains.stage.user,)))
    assert frozenset({drains.stage.user}) == drains.drain().behind
    assert drains.is_held()
    drains.calls.end(call)
    assert frozenset() == drains.drain().behind
    assert not drains.is_held()


def test_a_call_that_outlasts_drains_and_drainers_is_still_known_to_run(drains: Drains) -> None:
    drains.calls.begin(CallSubject((drains.stage.user,)))
    for _ in range(2):
        assert frozenset({drains.stage.user}) == drains.drain().behind
    drains.restart()
    assert frozenset({drains.stage.user}) == drains.drain().behind


def test_a_failed_change_of_one_memory_is_about_its_owner(drains: Drains) -> None:
    known = ids(drains.stage.mem0.get_all(filters={"user_id": drains.stage.user}))[0]
    for memory in (known, "no-such-memory"):
        drains.calls.leave_unknown(CallSubject((), memory))
    assert frozenset({drains.stage.user}) == drains.drain().behind


def test_a_failed_change_of_who_knows_what_is_about_everybody(drains: Drains) -> None:
    drains.calls.leave_unknown(ANYBODY)
    assert drains.drain().behind is None


def test_a_memory_that_no_rule_places_keeps_its_owner_behind(stage: Stage) -> None:
    stage.mapping = stage.folder / "users.yaml"
    stage.mapping.write_text('version: 1\nrules: [{when: {user_id: "*"}, scope: {user: "{user_id}"}}]\n')
    drains = Drains(stage)
    drains.calls.complete([CallResult("ADD", "m-of-bot", "Said by a bot", {"agent_id": "bot"})], drains.now)
    assert [frozenset({"bot"})] * 2 == [drains.drain().behind, drains.drain().behind]


@pytest.mark.ledger_file  # of the disk
def test_what_a_power_cut_tore_could_be_about_anybody(drains: Drains) -> None:
    with (drains.stage.state / FILE).open("ab") as log:
        log.write(bytes(20))
    drains.calls.complete([])
    assert drains.drain().behind is None
    drains.stage.read()
    assert frozenset() == drains.drain().behind


def test_what_is_captured_is_there_once_its_owner_is_not_held(drains: Drains) -> None:
    told = CallResult("ADD", "m-captured", "Was captured", {"user_id": drains.stage.user})
    drains.calls.complete([told], owner=drains.stage.user)
    assert frozenset() == drains.drain().behind
    assert not drains.is_held()
    assert "Was captured" in turns(drains.stage)


@pytest.mark.ledger_file  # to a database the background connects; what comes before it is unknown
def test_other_processes_know_of_the_first_write_of_a_new_one(drains: Drains, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its background thread ran at all."""
    drains.drain()
    with monkeypatch.context() as patched, suppress(ConnectionError):
        patched.setattr(threading.Thread, "start", lambda thread: None)
        drains.stage.adapter(Failing()).add("Said first of all", user_id=drains.stage.user)
    assert drains.is_held()


@pytest.mark.ledger_file  # a file beside the log tells others; of a database they learn it when it answers
def test_a_log_that_cannot_be_written_holds_reads_and_fails_no_call(
    drains: Drains, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = drains.stage.adapter()
    adapter.add("Said before", user_id="somebody", infer=False)

    def full(line: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = adapter._core.process_calls._log
    assert log is not None
    with monkeypatch.context() as patched:
        patched.setattr(log, "append", full)
        adapter.add("Said while nothing could be noted", user_id=drains.stage.user, infer=False)
    assert drains.is_held()
    assert drains.drain().behind is None
    adapter._core.heartbeat.calls.maintain(as_of=0.0, drained=True)  # what is owed, once there is room
    drains.drain()
    assert [CallSubject((drains.stage.user,))] == drains.outbox.unknown()
    drains.stage.read()
    assert frozenset() == drains.drain().behind
    assert "Said while nothing could be noted" in turns(drains.stage)


class Failing:
    """A Mem0 that cannot be reached."""

    def add(self, messages: Any, *, user_id: str | None = None) -> Any:
        raise ConnectionError("no way to Mem0")


# -- an outbox of the version before -----------------------------------------------------------------------


@pytest.mark.ledger_file  # that version had no database
def test_an_outbox_begun_with_the_version_before_is_delivered_exactly_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.state.mkdir(mode=0o700)
    with tarfile.open(Path(__file__).parents[1] / "data" / "outbox-before" / "state.tar.gz") as archive:
        archive.extractall(stage.state, filter="data")
    monkeypatch.setattr(socket, "gethostname", lambda: "web-1")
    begun = "2026-01-01T00:00:00.000000Z"
    record_step(stage.state, Step("start", begun, "a test", migration=stage.migration, catch_up="outbox"))
    stage.say("Was here before the cutover began")
    stage.read()
    for _ in range(3):
        outbox = Outbox(stage.state, host="web-1")
        drainer = Drainer(stage.state, load_mapping(None), outbox, max_lag_s=60.0)
        assert drained_by(drainer, stage) is not None
        outbox.close()
    found = [turn for turn in oracle.server_turns(stage.server.database) if "user/before-alice" in turn.paths]
    assert ["Waits too", "Waits, and was changed"] == sorted(turn.text for turn in found)


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


def test_what_no_ledger_could_be_asked_about_is_not_kept(drains: Drains) -> None:
    """SQLite calls a record with a NaN malformed, and whoever looks for what Mem0 has deleted would fail over it."""
    told = CallResult("ADD", "m", "I like tea", {"user_id": drains.stage.user, "metadata": {"at": float("nan")}})
    with pytest.raises(ValueError, match="JSON"):
        tell(drains, [told])
    assert () == drains.outbox.batch(9, drains.now).results


def test_what_is_captured_goes_in_batches_where_the_mapping_says_so(stage: Stage, tmp_path: Path) -> None:
    rules = "rules:\n  - when: {user_id: '*'}\n    scope: {user: '{user_id}'}\n"
    stage.mapping = tmp_path / "mapping.yaml"
    stage.mapping.write_text(f"version: 1\ninfer: none\nwrite: batch\n{rules}")
    drains = Drains(stage)
    for number in range(6):
        tell(drains, [CallResult("ADD", stage.say(f"Said {number}"), f"Said {number}", {"user_id": stage.user})])
    paths: list[str] = []

    def note(seen: Seen) -> str:
        paths.extend([seen.path.rpartition("/")[2]] if seen.writes_fact else [])
        return "none"

    drained_through(drains, note)
    drains.outbox.close()
    assert ["batch"] == paths
    assert 7 == len(turns(stage))


def test_a_mark_that_was_lost_drains_the_log_again_and_sends_nothing_twice(drains: Drains) -> None:
    stage = drains.stage
    first = CallResult("ADD", stage.say("Said first"), "Said first", {"user_id": stage.user})
    changed = CallResult("UPDATE", first.mem0_id, "Said then", {"user_id": stage.user})
    gone = CallResult("ADD", "m-gone", "Said and taken back", {"user_id": stage.user})
    for result in (first, gone, changed, CallResult("DELETE", "m-gone", None, {"user_id": stage.user})):
        tell(drains, [result])
        drains.drain()
    before = turns(stage)
    with closing(store_at(stage.state).tables(NAME, DDL)) as tables:
        tables.change((f"DELETE FROM {tables.prefix}meta WHERE name IN ('drained', 'restart', 'marked', 'last')", [()]))
    drains.restart()
    drains.drain()
    assert before == turns(stage)
