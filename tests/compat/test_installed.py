"""The short version of tests/compat/check.py, beside the Mem0 that is installed here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.compat.check import Setup, check

pytestmark = pytest.mark.slow


def test_an_application_and_an_export_do_not_disturb_each_other(tmp_path: Path) -> None:
    result = check(Setup(Path(sys.executable), tmp_path), rows=15, seconds=2)

    assert "0 missing, 0 altered, 0 invented, 0 errors" in result
