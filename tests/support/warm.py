"""Processes that are forked from one that has imported what they need.

Each is a process of its own and can be killed; only the imports are shared, which cost one or two seconds of a
processor. Where it matters how a program starts, what it prints or how it takes a signal, `subprocess` starts it as a
user does.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest import mock

from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.support.command import command

IMPORTED = [
    "mem0",
    "mem0.utils.factory",
    "mem0.vector_stores.pgvector",
    "mem0.vector_stores.qdrant",
    "wordllama",
    "spectron_migrate.mem0.wordllama_embedder",
    "spectron_migrate.adapter.memory_adapter",
    "spectron_migrate.cli.app",
    "spectron_migrate.cli.erase",
    "spectron_migrate.cli.replay",
    "spectron_migrate.cli.replay_adopt",
    "spectron_migrate.cli.replay_follow",
    "spectron_migrate.migration.replay",
    "spectron_migrate.migration.follow",
]
"""What applications of Mem0 and the commands that are killed begin with."""


@cache
def _context() -> ForkServerContext:
    """With its server running, which met no variable of ours and has a home of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    home = tempfile.mkdtemp(prefix="warm-")
    settings = {"HOME": home, "MEM0_DIR": home, "MEM0_TELEMETRY": "False", "PYTHONWARNINGS": "ignore"}
    with mock.patch.dict(os.environ, clean_environment(os.environ) | settings, clear=True):
        ensure_running()
    return context


def pipe() -> tuple[Any, Any]:
    """Two ends, one of which may be given to a process."""
    return _context().Pipe()


def start(
    main: Callable[..., object],
    *given: object,
    folder: Path,
    environment: Mapping[str, str],
    stderr: Path = Path(os.devnull),
) -> ForkServerProcess:
    """Call a function of a module in a process of its own, which ends with this one at the latest."""
    process = _context().Process(target=_run, args=(main, given, folder, dict(environment), stderr), daemon=True)
    process.start()
    return process


def start_command(folder: Path, *words: str, environment: Mapping[str, str]) -> ForkServerProcess:
    """Start a command of ours whose output nobody reads."""
    return start(_command, *words, folder=folder, environment=environment)


def run_command(
    folder: Path, *words: str, environment: Mapping[str, str], before: Callable[[], None]
) -> CompletedProcess[str]:
    """Run a command of ours to its end, after `before` in the same process."""
    ours, theirs = pipe()
    process = start(_captured, theirs, before, *words, folder=folder, environment=environment)
    theirs.close()
    try:
        code, out, err = ours.recv()
    except EOFError:
        process.join(60)
        raise AssertionError(f"{words} ended with {process.exitcode} and without an answer") from None
    process.join(60)
    return CompletedProcess(words, code, out, err)


def _run(
    main: Callable[..., object], given: tuple[object, ...], folder: Path, environment: dict[str, str], stderr: Path
) -> None:
    for number, path in ((1, os.devnull), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    main(*given)


def _command(*words: str) -> None:
    from spectron_migrate.cli import main

    sys.argv[1:] = words
    main()


def _captured(answer: Any, before: Callable[[], None], *words: str) -> None:
    before()
    ended = command(Path.cwd(), *words, environment=dict(os.environ))
    answer.send((ended.returncode, ended.stdout, ended.stderr))
