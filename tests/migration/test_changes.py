"""What changed in Mem0 between two rounds of following, and who is behind then."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import cutover
from spectron_migrate.state.cutover_state import Step, acceptance_mark
from spectron_migrate.state.journal import record_step
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import texts
from tests.support.scene import Scene
from tests.support.spectron import replay

pytestmark = pytest.mark.slow

NOW = "2026-05-04T12:00:00.000000Z"


def test_a_reading_that_finds_a_memory_in_another_scope_than_it_was_sent_to_does_not_agree(scene: Scene) -> None:
    """Else reads of its new owner go to Spectron, where only the old one sees it."""
    scene.put(1, "a thing that changes hands")
    scene.round()
    scene.time.pass_(600)
    scene.store.put(1, "a thing that changes hands", f"{scene.user}new", scene.time.moment - timedelta(hours=2))
    done = scene.round(compare=True)
    assert done.compared is not None
    assert done.compared.total or f"{scene.user}new" in (done.behind or ())


def test_a_new_text_of_a_memory_that_changed_hands_is_not_called_agreement(scene: Scene) -> None:
    scene.put(1, "a thing that changes hands")
    scene.round()
    scene.time.pass_(600)
    at = scene.time.moment
    scene.store.put(1, "its newer text", f"{scene.user}new", at - timedelta(hours=2), edited=at - timedelta(minutes=5))
    done = scene.round(compare=True)
    assert done.compared is not None
    stored = texts(scene.server, scene.user) + texts(scene.server, f"{scene.user}new")
    assert "its newer text" in stored or done.compared.total or f"{scene.user}new" in (done.behind or ())


def test_the_owner_of_a_refused_newest_memory_stays_behind(
    scene: Scene,
) -> None:
    scene.put(1, "a thing that arrives")
    scene.round()
    scene.put(2, "a thing that is refused", ago=600)

    def refuse(seen: Seen) -> Fault:
        return refusing(422, "not this one") if seen.writes_fact else "none"

    with misbehaving(scene.server.base_url, refuse) as proxy:
        scene.endpoint = proxy.base_url
        done = scene.round(compare=True)
    assert 1 == done.refused
    assert done.behind is None or scene.user in done.behind


def test_only_accepting_that_refusal_lets_its_owner_catch_up(scene: Scene) -> None:
    record_step(scene.state, Step("start", NOW, "anna", migration="m"))
    scene.put(1, "a thing that arrives")
    scene.round()
    scene.put(2, "a thing that is refused", ago=600)

    def refuse(seen: Seen) -> Fault:
        return refusing(422, "not this one") if seen.writes_fact else "none"

    def is_behind() -> bool:
        done = scene.round(compare=True)
        assert 1 == done.refused
        return done.behind is None or scene.user in done.behind

    def accept(gate_name: str) -> None:
        with Ledger.open_for_reading(scene.state) as ledger:
            shown = cutover.refused_memories(ledger)
        about = " ".join(acceptance_mark(said) for said in shown.values())
        record_step(scene.state, Step("accept", NOW, "anna", "seen", gate=gate_name, ids=tuple(shown), about=about))

    with misbehaving(scene.server.base_url, refuse) as proxy:
        scene.endpoint = proxy.base_url
        assert is_behind()
        accept("will_not_expire")
        assert is_behind()
        accept("refused")
        assert not is_behind()
        scene.time.pass_(600)
        scene.put(2, "another text that is refused", ago=300)
        assert is_behind()


def test_a_clock_that_was_ahead_for_one_reading_hides_no_deletion(scene: Scene) -> None:
    """What was deleted after the clock was put right is not sent, and reconciling agrees again."""
    scene.put(1, "a thing that is deleted before it is sent")
    scene.put(2, "a thing that stays")
    scene.time.pass_(7200)

    def stopped(seen: Seen) -> Fault:
        return refusing(403, "not now") if seen.writes_fact else "none"

    with misbehaving(scene.server.base_url, stopped) as proxy:
        scene.endpoint = proxy.base_url
        scene.round()
    scene.endpoint = None
    scene.time.pass_(-7000)
    scene.store.drop(1)
    done = scene.rounds_until_none_is_held(compare=True)
    assert done.compared is not None
    assert ["a thing that stays"] == scene.texts
    assert 0 == done.compared.total


def test_a_replay_of_an_older_copy_of_the_dump_in_between_leaves_nothing_planned_for_good(
    scene: Scene, tmp_path: Path
) -> None:
    scene.put(1, "a thing that arrives")
    older = shutil.copytree(scene.export(), tmp_path / "older")
    scene.time.pass_(60)
    scene.put(2, "a thing that waits")
    scene.export()

    def stopped(seen: Seen) -> Fault:
        return refusing(403, "not now") if seen.writes_fact else "none"

    with misbehaving(scene.server.base_url, stopped) as proxy:
        scene.endpoint = proxy.base_url
        scene.round()
    scene.endpoint = None
    replay(scene.server, scene.state, [older])
    scene.time.pass_(60)
    done = scene.round(compare=True)
    assert ["a thing that arrives", "a thing that waits"] == sorted(scene.texts), done
