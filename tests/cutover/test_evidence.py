"""What is gathered for the gates."""

from __future__ import annotations

import json

import pytest

from spectron_migrate.records import Filters
from spectron_migrate.verify.options import VerifyOptions
from tests.cutover.support import Operator, gate
from tests.verify.support import verify


@pytest.mark.ledger_file
def test_a_report_about_some_users_passes_neither_verdict_nor_leaks(operator: Operator) -> None:
    scene = operator.scene
    operator.make_ready()
    assert gate(operator.check(), "verdict").passed
    options = VerifyOptions(filters=Filters(users=frozenset({scene.user})))
    verify(scene.server, scene.state, [scene.settings.dump], now=scene.time.now, options=options)
    whole = scene.state / "dual-verify.json"
    assert [] == json.loads(whole.read_text())["options"]["users"], "it has a file of its own"
    some = scene.state / "dual-verify-some.json"
    assert [scene.user] == json.loads(some.read_text())["options"]["users"]
    some.replace(whole)
    assert not gate(operator.check(), "verdict").passed
    assert not gate(operator.check(), "leaks").passed
