"""Text from outside is shown on a terminal and never obeyed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.cli.terminal import TerminalReporter

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"
OBEYED = {"\x1b", "\x07", "\u202e"}
"""The characters of it that a terminal would act on."""


def test_control_characters_of_an_id_are_shown_escaped_in_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRON_CONTEXT", "c")
    rows = [{"id": f"m{ESCAPE}", "user_id": "u"}, {"id": "n", "memory": ESCAPE, "user_id": ESCAPE}]
    (tmp_path / "all.json").write_text(json.dumps(rows))
    run(["replay", "--dump", "all.json", "--dry-run"])
    shown = "".join(capfd.readouterr())
    assert r"m\x1b]0;owned\x07\x1b[2J\x202e" in shown
    assert set() == OBEYED & set(shown)


def test_a_reporter_shows_control_characters_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    TerminalReporter().info(ESCAPE)
    assert set() == OBEYED & set(capfd.readouterr().err)
