"""What a process of a test may no longer do: write where permissions forbid it, or more than a full disk takes."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable
from functools import partial

_CAPABILITIES_VERSION_3, _CAP_DAC_OVERRIDE, _PR_CAPBSET_DROP = 0x20080522, 1, 24


def obey_permissions() -> None:
    """Even as root, write only where the permissions allow it; programs that are started from here too."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert 0 == libc.capget(header, sets)
    for number in range(3):  # effective, permitted, inheritable
        sets[number] &= ~(1 << _CAP_DAC_OVERRIDE)
    assert 0 == libc.capset(header, sets)


def full_disk(largest: int) -> Callable[[], None]:
    """No file may grow beyond so many bytes, as on a disk that is full, or nearly."""
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (largest, largest))
