"""Which command is legal in which phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spectron_migrate.cutover.phases import LEGAL
from spectron_migrate.errors import ExitCode, NotLegal
from spectron_migrate.state.journal import FILE, read_journal
from spectron_migrate.state.routing import PHASES, Phase
from spectron_migrate.state.store import store_at
from tests.cutover.support import STEPS_TO, Operator

COMMANDS: dict[str, Callable[[Operator], Any]] = {
    "start": lambda operator: operator.start(),
    "shift": lambda operator: operator.shift(5),
    "accept": lambda operator: operator.accept("refused"),
    "revert": lambda operator: operator.revert(),
    "complete": lambda operator: operator.complete(),
    "abort": lambda operator: operator.abort(),
}
ILLEGAL = [(phase, command) for phase in PHASES for command in COMMANDS if command not in LEGAL[phase]]


@pytest.mark.parametrize(("phase", "command"), ILLEGAL)
def test_an_illegal_command_names_the_legal_ones_and_changes_nothing(
    operator: Operator, phase: Phase, command: str
) -> None:
    operator.record(*STEPS_TO[phase])
    before = read_journal(operator.scene.state)
    with pytest.raises(NotLegal) as refused:
        COMMANDS[command](operator)
    assert ExitCode.NOT_LEGAL == refused.value.exit_code
    assert f"`cutover {command}` is not legal" in refused.value.message
    for each in LEGAL[phase]:
        assert f"cutover {each}" in (refused.value.hint or "")
    assert before == read_journal(operator.scene.state)


def test_an_operator_is_warned_of_a_journal_that_was_edited_by_hand(operator: Operator) -> None:
    operator.record("start", "shift", "revert")
    store = store_at(operator.scene.state)
    lines = store.lines(FILE)
    store.write_lines(FILE, [line.replace(b'"percent":100.0', b'"percent":10.0') for line in lines])
    operator.revert()
    assert ["the journal of the cutover was edited by hand: line 3 does not follow the one before"] == (
        operator.scene.reporter.warnings
    )
