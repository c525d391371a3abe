"""What the tests of the cutover need."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.cutover.support import Operator
from tests.mem0.conftest import mem0_app
from tests.support.scene import Scene

__all__ = ["mem0_app"]


@pytest.fixture
def operator(scene: Scene) -> Operator:
    """An operator on a scene with a few memories of two users."""
    for number in range(6):
        user = scene.user if number % 2 else f"{scene.user}b"
        at = scene.time.moment - timedelta(hours=2, minutes=-number)
        scene.store.put(number, f"{user} keeps thing number {number}", user, at)
    return Operator(scene)
