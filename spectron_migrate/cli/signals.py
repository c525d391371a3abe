"""Signals: SIGTERM ends a command as Ctrl-C does.

As process 1 without a handler, a command would ignore SIGTERM: `docker stop` and a drained node would wait for their
grace period and then kill it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from spectron_migrate.errors import ExitCode, Interrupted

_sigterm_received = False


def treat_sigterm_as_ctrl_c() -> None:
    """From now on SIGTERM does what Ctrl-C would do at that moment."""
    signal.signal(signal.SIGTERM, _raise_as_ctrl_c)


def stop_gracefully_with(interrupt: Callable[[ExitCode], object]) -> None:
    """In the running event loop, make a signal call `interrupt` with its exit code, instead of aborting.

    For a step that has to receive the answers to what it has already sent.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt, ExitCode.SIGINT)
    loop.add_signal_handler(signal.SIGTERM, interrupt, ExitCode.SIGTERM)


def interrupted(message: str = "interrupted", hint: str = "run it again: it continues where it stopped") -> Interrupted:
    """The error for the KeyboardInterrupt that ended a command. It knows which signal it was."""
    return Interrupted(message, hint=hint, sigterm=_sigterm_received)


def _raise_as_ctrl_c(number: int, frame: FrameType | None) -> None:
    global _sigterm_received
    _sigterm_received = True
    handler = signal.getsignal(signal.SIGINT)  # a running event loop has a handler of its own
    if callable(handler):
        handler(signal.SIGINT, frame)
    else:  # SIGINT is ignored, as in a script's background job
        raise KeyboardInterrupt
