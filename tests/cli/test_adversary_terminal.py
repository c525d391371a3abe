"""What a hostile reviewer tried on what people see: foreign words are shown, never obeyed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.cli.progress import TerminalReporter
from spectron_migrate.cli.status import _next
from spectron_migrate.ledger.read.plans import NamedFact
from spectron_migrate.ledger.read.status import MigrationStatus
from spectron_migrate.ledger.shards import Found

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"


def test_a_warning_shows_what_an_id_would_do_to_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRON_CONTEXT", "c")
    rows = [{"id": f"m{ESCAPE}", "user_id": "u"}, {"id": "n", "memory": ESCAPE, "user_id": ESCAPE}]
    (tmp_path / "all.json").write_text(json.dumps(rows))
    run(["replay", "--dump", "all.json", "--dry-run"])
    told = "".join(capfd.readouterr())
    assert r"m\x1b]0;owned\x07\x1b[2J\x202e" in told
    assert not set(ESCAPE) & {"\x1b", "\x07", "\u202e"} & set(told)


def test_a_reporter_shows_what_is_no_letter(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter()
    reporter.info(ESCAPE)
    assert not {"\x1b", "\x07", "\u202e"} & set(capfd.readouterr().err)


def test_the_next_command_is_one_that_can_be_pasted_into_a_shell() -> None:
    named = [NamedFact("$(reboot); a b", 1, "undecidable", "")]
    standing = MigrationStatus(None, {"undecidable": 1}, {}, 0, 0, [], {}, 0, named, [], [], {})
    assert "--resolve '$(reboot); a b'=present" in (_next(Found(()), standing, []) or "")
