"""How many examples a property test tries."""

from __future__ import annotations

import os

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "repeatable")
"""`repeatable`: the same examples in every run. `random`: others each time."""


def examples(most: int) -> int:
    """All of them where they are new, in `make chaos`; 40 % where every run repeats the same ones."""
    return most if PROFILE == "random" else most * 2 // 5
