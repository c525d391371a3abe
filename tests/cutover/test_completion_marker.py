"""A state that was lost, or restored from before `complete`, learns from Spectron that the cutover is complete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from spectron_migrate.delivery.marker import COMPLETE, is_marker
from spectron_migrate.errors import ExitCode, NotLegal, Unreachable, WrongLedger
from spectron_migrate.ledger import Ledger
from spectron_migrate.mapping.segments import MARKER
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.state.journal import FILE as JOURNAL
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.routing import FILE as ROUTING
from spectron_migrate.state.routing_reader import RoutingReader
from spectron_migrate.state.store import store_at
from tests.cli.support import environment_for
from tests.cutover.support import Operator, gate
from tests.support.command import command
from tests.support.copies import copy_state, lose_state
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.spectron import replay

pytestmark = pytest.mark.slow

ADOPT = ReplayOptions(adopt=True)


@pytest.fixture
def ready(operator: Operator) -> Operator:
    """A cutover in which all users are read from Spectron; the gates are not asked."""
    operator.start()
    operator.scene.follow(max_seconds=12)
    operator.record("shift")
    return operator


@pytest.fixture
def completed(ready: Operator) -> Operator:
    """A cutover that is complete and sealed."""
    seal(ready)
    return ready


def seal(ready: Operator) -> None:
    """Completes it, as a run after one that was killed while it did."""
    ready.record("closing", "complete")
    assert ready.complete().state.sealed


def markers(operator: Operator) -> list[str]:
    """The markers of the completion on the server."""

    async def listed() -> list[str]:
        async with operator.scene.api() as api:
            return [node.path for node in await api.scopes()]

    name = f"{MARKER}{operator.migration}-{COMPLETE}"
    return [path for path in asyncio.run(listed()) if path.endswith(name)]


def phase_for_writes(state: Path) -> str:
    """What an application that is started now would take for the place to write to; an exception if it would raise."""
    store = store_at(state)
    reader = RoutingReader(store.folder or store)
    reader.fetch()
    try:
        return reader.for_write().phase
    finally:
        reader.close()


def replay_dump(operator: Operator, options: ReplayOptions | None = None, mapping: Path | None = None) -> object:
    scene = operator.scene
    return replay(
        scene.server,
        scene.state,
        [scene.export()],
        endpoint=scene.endpoint,
        options=options,
        mapping=mapping,
        reporter=scene.reporter,
    )


def test_complete_leaves_a_marker_that_is_no_target_and_no_abort_does(ready: Operator) -> None:
    ready.record("closing")
    ready.abort()
    assert [] == markers(ready)
    ready.record("start", "shift")
    seal(ready)
    [path] = markers(ready)
    assert is_marker(path)


@pytest.mark.both_engines
def test_a_lost_state_that_adopts_ends_complete_and_writes_nothing_twice(completed: Operator) -> None:
    before = completed.scene.texts
    lose_state(completed.scene.state)
    replay_dump(completed, ADOPT)
    assert before == completed.scene.texts
    assert "complete" == completed.state.phase
    assert completed.state.sealed
    assert completed.migration == completed.state.migration
    assert "complete" == phase_for_writes(completed.scene.state)
    assert any("the cutover of this migration is complete" in text for text in completed.scene.reporter.warnings)
    assert ExitCode.DONE == completed.check().exit_code
    with pytest.raises(NotLegal):
        completed.start()


@pytest.mark.both_engines
def test_a_plain_replay_of_a_new_state_is_refused_and_the_state_knows_it(completed: Operator) -> None:
    before = completed.scene.texts
    lose_state(completed.scene.state)
    with pytest.raises(WrongLedger, match="completed with another ledger") as raised:
        replay_dump(completed)
    assert "--adopt" in str(raised.value.hint)
    assert "complete" == phase_for_writes(completed.scene.state)
    with pytest.raises(WrongLedger):
        replay_dump(completed)
    assert before == completed.scene.texts
    replay_dump(completed, ADOPT)
    assert before == completed.scene.texts


def test_what_is_learned_is_sealed_in_the_same_step(completed: Operator) -> None:
    """Otherwise a crash would leave a state that counts what Mem0 has lost since as deleted."""
    lose_state(completed.scene.state)
    completed.check(migration=lambda: completed.migration)
    [step] = read_journal(completed.scene.state).steps
    assert "complete" == step.step
    assert completed.state.sealed


def test_a_check_tells_an_empty_state_before_anything_else_works_there(completed: Operator) -> None:
    lose_state(completed.scene.state)
    checked = completed.check(migration=lambda: completed.migration)
    assert "complete" == checked.state.phase
    assert "complete" == phase_for_writes(completed.scene.state)


def lose_journal(state: Path, *, routing: bytes | None = None) -> None:
    """The ledger is there, and the journal is not; nor is the routing, unless there is an older one."""
    store = store_at(state)
    store.write_lines(JOURNAL, [])
    store.remove(ROUTING)
    if routing is not None:
        store.write(ROUTING, routing)


def routing_of_before(operator: Operator) -> bytes:
    """As a backup of before `complete` holds it."""
    written = store_at(operator.scene.state).read(ROUTING)
    assert written is not None
    return json.dumps({**json.loads(written), "phase": "shift", "epoch": 2}).encode()


@pytest.mark.both_engines
@pytest.mark.parametrize("take", ["check", "follow", "adopt"])
def test_an_older_routing_without_its_journal_does_not_keep_a_state_from_learning_it(
    completed: Operator, take: str
) -> None:
    lose_journal(completed.scene.state, routing=routing_of_before(completed))
    with suppress(NotLegal, WrongLedger):
        globals()[take](completed)
    assert "complete" == completed.state.phase
    assert "complete" == phase_for_writes(completed.scene.state)


@pytest.mark.both_engines
def test_no_step_back_is_taken_where_the_ledger_says_that_the_cutover_was_completed(completed: Operator) -> None:
    """It would be the first line of a new journal, and applications would write to Mem0 alone."""
    lose_journal(completed.scene.state, routing=routing_of_before(completed))
    for back in (completed.revert, completed.abort):
        with pytest.raises(NotLegal, match="a cutover was completed, and its journal"):
            back()
    assert 0 == completed.state.epoch


def test_start_learns_it_as_a_check_does(completed: Operator) -> None:
    scene = completed.scene
    lose_journal(scene.state)
    settings = {"version": 1, "mem0": {"oss": {"config": "mem0.json"}}}
    (scene.folder / "mem0.json").write_text(json.dumps(scene.store.config))
    (scene.folder / "spectron-migrate.yaml").write_text(json.dumps(settings))
    ended = command(
        scene.folder, "cutover", "start", "--state", str(scene.state), environment=environment_for(scene.server)
    )
    assert ExitCode.NOT_LEGAL == ended.returncode, ended
    assert "cutover is complete and cannot be undone" in ended.stderr
    assert "complete" == completed.state.phase


@pytest.mark.parametrize("fault", ["cut_before", refusing(403, "no scopes:read")], ids=["cut", "403"])
def test_a_check_that_cannot_ask_does_not_say_that_no_cutover_has_begun(completed: Operator, fault: Fault) -> None:
    lose_state(completed.scene.state)
    is_listing = lambda seen: seen.method == "GET" and seen.path.endswith("/scopes")  # noqa: E731
    with misbehaving(completed.scene.server.base_url, lambda seen: fault if is_listing(seen) else "none") as proxy:
        completed.scene.endpoint = proxy.base_url
        checked = completed.check(migration=lambda: completed.migration)
    expected = ExitCode.UNREACHABLE if fault == "cut_before" else ExitCode.KEY
    assert expected == checked.exit_code
    assert "nobody knows whether this migration is complete already: " in checked.note
    assert (proxy.base_url if fault == "cut_before" else "the list of scopes: 403") in checked.note
    assert "no cutover has begun" not in gate(checked, "base").hint
    assert not checked.ready


def shift(operator: Operator) -> object:
    return operator.shift(100, "somebody")


def accept(operator: Operator) -> object:
    return operator.accept("verdict")


def complete(operator: Operator) -> object:
    return operator.complete()


def check(operator: Operator) -> object:
    return operator.check()


def follow(operator: Operator) -> object:
    return operator.scene.follow(max_seconds=12)


def adopt(operator: Operator) -> object:
    return replay_dump(operator, ADOPT)


@pytest.mark.parametrize("take", [shift, accept, complete, check, follow, replay_dump, adopt])
@pytest.mark.parametrize("changed", [False, True], ids=["nothing to send", "something to send"])
def test_a_backup_of_before_complete_learns_it_from_whatever_is_run(
    ready: Operator, tmp_path: Path, take: Callable[[Operator], object], changed: bool
) -> None:
    copy_state(ready.scene.state, tmp_path / "backup")
    seal(ready)
    lose_state(ready.scene.state)
    copy_state(tmp_path / "backup", ready.scene.state)
    if changed:
        ready.scene.put(50, "written by a pod that has the old state", ago=0)
    with suppress(NotLegal, WrongLedger):
        take(ready)
    assert "complete" == ready.state.phase
    assert "complete" == phase_for_writes(ready.scene.state)


def test_an_emptied_mem0_hides_nothing_where_an_older_backup_adopts(ready: Operator, tmp_path: Path) -> None:
    copy_state(ready.scene.state, tmp_path / "backup")
    seal(ready)
    lose_state(ready.scene.state)
    copy_state(tmp_path / "backup", ready.scene.state)
    for number in range(5):
        ready.scene.store.drop(number)
    replay_dump(ready, ADOPT)
    with Ledger.open_for_reading(ready.scene.state) as ledger:
        gone = ledger.db.execute("SELECT count(*) AS n FROM memory WHERE tombstoned_at IS NOT NULL").fetchone()
    assert 0 == gone["n"]


def test_a_key_that_may_not_leave_the_marker_is_warned_of(ready: Operator) -> None:
    def refuse(seen: Seen) -> Fault:
        return refusing(403, "no grant") if seen.path.endswith("/scopes") and b"-complete" in seen.body else "none"

    with misbehaving(ready.scene.server.base_url, refuse) as proxy:
        ready.scene.endpoint = proxy.base_url
        seal(ready)
    ready.scene.endpoint = None
    assert [] == markers(ready)
    assert any("does not learn that the cutover is complete" in text for text in ready.scene.reporter.warnings)
    ready.check()
    assert 1 == len(markers(ready)), "the key may by now"


def test_a_complete_that_could_not_leave_the_marker_is_finished_by_the_next(ready: Operator) -> None:
    def away(seen: Seen) -> Fault:
        return refusing(503, "later", "86400") if b"-complete" in seen.body else "none"

    with misbehaving(ready.scene.server.base_url, away) as proxy:
        ready.scene.endpoint = proxy.base_url
        with pytest.raises(Unreachable):
            seal(ready)
    ready.scene.endpoint = None
    assert "complete" == ready.state.phase
    assert not ready.state.sealed
    assert ready.complete().state.sealed
    assert 1 == len(markers(ready))


def test_a_cutover_that_an_earlier_version_completed_is_marked_by_a_check(ready: Operator) -> None:
    ready.record("closing", "complete", "sealed")
    assert [] == markers(ready)
    ready.check()
    assert 1 == len(markers(ready))
    lose_state(ready.scene.state)
    replay_dump(ready, ADOPT)
    assert "complete" == ready.state.phase


def test_a_migration_into_another_prefix_knows_nothing_of_it(completed: Operator, tmp_path: Path) -> None:
    """Such as a run of CI, with the same Mem0 and the same context."""
    lose_state(completed.scene.state)
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {ci7: '{user_id}'}\n")
    replay_dump(completed, mapping=mapping)
    assert "mem0" == completed.state.phase
    assert "mem0" == phase_for_writes(completed.scene.state)


def test_the_state_that_completed_goes_on_as_before(completed: Operator) -> None:
    completed.scene.put(60, "a late one", ago=0)
    done, left = completed.bring_late_writes()
    assert (1, 0) == (done.written, left.count)
    assert 1 == len(markers(completed))
