"""The privacy report names what Mem0 no longer has and Spectron still holds."""

from __future__ import annotations

import json
import stat
from datetime import timedelta

import pytest

from spectron_migrate.cutover.privacy import FILE as REPORT
from spectron_migrate.cutover.privacy import renew_privacy_report, write_privacy_report
from spectron_migrate.records import format_time
from spectron_migrate.state.store import store_at
from tests.cutover.support import Operator
from tests.support.scene import Scene

pytestmark = pytest.mark.slow


def report_of(scene: Scene) -> str:
    written = store_at(scene.state).read(REPORT)
    assert written is not None
    return written.decode()


def test_deleted_and_replaced_texts_are_named_with_whether_they_can_be_erased_exactly(operator: Operator) -> None:
    scene = operator.scene
    lone = scene.store.put(50, "gone with its scope", f"{scene.user}gone", scene.time.moment - timedelta(hours=1))
    changed = scene.put(51, "an old text", ago=3000)
    operator.make_ready()
    scene.store.drop(50)
    scene.store.drop(1)
    scene.put(51, "a new text", ago=3000, edited=scene.time.moment - timedelta(seconds=100))
    operator.shift(5)
    summary = operator.check().privacy
    assert summary is not None
    assert 2 == summary.deleted
    assert 1 == summary.replaced
    assert 1 == summary.exact
    assert store_at(scene.state).describe(REPORT) == summary.path
    rows = {row["id"]: row for row in json.loads(report_of(scene))["memories"]}
    assert "deleted in Mem0" == rows[lone]["why"]
    assert rows[lone]["exact"]
    assert "replaced by a newer text" == rows[changed]["why"]
    assert not rows[changed]["exact"]
    assert "gone with" not in report_of(scene), "no text is in the report"


def test_memories_that_mem0_no_longer_shows_count_as_deleted(scene: Scene) -> None:
    mem0_id = scene.put(1, "for a while only", expiration_date="2026-05-05")
    scene.round()
    scene.time.pass_(3 * 86400)
    scene.round()
    summary = write_privacy_report(scene.state, now=format_time(scene.time.now()))
    assert summary is not None
    assert 1 == summary.deleted
    assert 0 == summary.replaced
    assert 1 == summary.exact
    [row] = json.loads(report_of(scene))["memories"]
    assert mem0_id == row["id"]
    assert "expired in Mem0" == row["why"]


def test_the_report_is_as_new_as_the_last_round_that_found_something(operator: Operator) -> None:
    scene = operator.scene
    operator.make_ready()
    gone = scene.put(60, "gone later", ago=3000)
    scene.round()
    scene.round()
    renew_privacy_report(scene.state, now="2026-01-01")
    assert gone not in report_of(scene)
    scene.store.drop(60)
    scene.round()
    renew_privacy_report(scene.state, now="2026-01-02")
    assert gone in report_of(scene)
    assert "2026-01-02" == json.loads(report_of(scene))["at"]


def test_before_a_cutover_no_round_writes_a_report(scene: Scene) -> None:
    scene.put(1, "a text", ago=3000)
    scene.round()
    renew_privacy_report(scene.state, now="2026-01-01")
    assert None is store_at(scene.state).read(REPORT)


@pytest.mark.ledger_file  # a row has no mode
def test_the_report_is_for_its_owner_alone(scene: Scene) -> None:
    scene.put(1, "a text")
    scene.round()
    write_privacy_report(scene.state, now="2026-01-01")
    assert 0o600 == stat.S_IMODE((scene.state / REPORT).stat().st_mode)
