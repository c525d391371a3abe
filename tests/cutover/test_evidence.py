"""What is gathered for the gates."""

from __future__ import annotations

from spectron_migrate.records import Filters
from spectron_migrate.state.store import read_object, write_object
from spectron_migrate.verify.options import VerifyOptions
from tests.cutover.support import Operator, gate
from tests.verify.support import verify


def test_a_report_about_some_users_passes_neither_verdict_nor_leaks(operator: Operator) -> None:
    scene = operator.scene
    operator.make_ready()
    assert gate(operator.check(), "verdict").passed
    options = VerifyOptions(filters=Filters(users=frozenset({scene.user})))
    verify(scene.server, scene.state, [scene.settings.dump], now=scene.time.now, options=options)
    whole, some = read_object(scene.state, "dual-verify.json"), read_object(scene.state, "dual-verify-some.json")
    assert whole is not None
    assert [] == whole["options"]["users"], "it has a document of its own"
    assert some is not None
    assert [scene.user] == some["options"]["users"]
    write_object(scene.state, "dual-verify.json", some)
    assert not gate(operator.check(), "verdict").passed
    assert not gate(operator.check(), "leaks").passed
