"""A command in this process, for a test of what it says and leaves: a process of its own would cost a start."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

from spectron_migrate.cli.app import run


def command(folder: Path, *words: str, environment: Mapping[str, str]) -> CompletedProcess[str]:
    """Run it in a directory, with these variables alone and nobody at a keyboard; how it ended."""
    out, said = io.StringIO(), io.StringIO()
    with (
        chdir(folder),
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch("sys.stdin", io.StringIO()),
        redirect_stdout(out),
        redirect_stderr(said),
    ):
        try:
            code = run(words)
        except SystemExit as left:  # as completion ends
            code = int(left.code or 0)
    return CompletedProcess(words, code, out.getvalue(), said.getvalue())
