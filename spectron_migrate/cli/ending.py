"""SIGTERM ends a command as Ctrl-C does, in order and with a word.

As process 1 of a container a command without a handler would not be ended by it at all: `docker stop` and a drained
node would wait out their grace period and kill.
"""

from __future__ import annotations

import signal
from types import FrameType

from spectron_migrate.errors import Interrupted

_came: list[int] = []


def by_sigterm_too() -> None:
    """From here on SIGTERM does what Ctrl-C would do at that moment. A step that handles both itself comes first."""
    signal.signal(signal.SIGTERM, _as_interrupt)


def interrupted() -> Interrupted:
    """What is told where a KeyboardInterrupt ended a command."""
    return Interrupted("interrupted", hint="run it again, it goes on where it stopped", sigterm=bool(_came))


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    _came.append(number)
    handler = signal.getsignal(signal.SIGINT)  # an event loop has its own while it runs
    if callable(handler):
        handler(signal.SIGINT, frame)
    else:  # ignored, as in the background of a script
        raise KeyboardInterrupt
