"""The program as a whole: its global options, and a reader that goes away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spectron_migrate.cli.app import app, run

COMMANDS = [str(each.name) for each in app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_global_options_last(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run([command, "--help"])
    last_section = capsys.readouterr().out.rpartition("\n\n")[2]
    assert last_section.startswith("Global options:")
    assert [] == [
        option for option in ("--config", "--state", "--json", "--quiet", "--verbose") if option not in last_section
    ]


def test_a_closed_pipe_is_not_a_traceback(tmp_path: Path) -> None:
    piped = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m spectron_migrate --help | head -c 1 > /dev/null"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in piped.stderr
