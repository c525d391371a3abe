"""A key is never printed, logged or pickled."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest

from spectron_migrate.settings import Secret, Settings, load_settings

KEY = "sk-ctx-0123456789"


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose keys come from the environment."""
    monkeypatch.chdir(tmp_path)
    env = {"SPECTRON_ENDPOINT": "https://s.example", "SPECTRON_CONTEXT": "c"}
    return load_settings(None, env={**env, "SPECTRON_API_KEY": KEY, "MEM0_API_KEY": KEY}, overrides={})


def test_a_secret_is_never_printed() -> None:
    secret = Secret(KEY)
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>3}"):
        assert "***" == text
    assert "[***]" == f"{[secret]}"


def test_settings_print_no_key(loaded: Settings) -> None:
    assert KEY not in repr(loaded)
    assert KEY not in repr(loaded.spectron.require())


def test_a_secret_is_neither_json_nor_pickled() -> None:
    with pytest.raises(TypeError):
        json.dumps(Secret(KEY))
    with pytest.raises(TypeError):
        pickle.dumps(Secret(KEY))


def test_a_secret_equals_the_same_secret_and_no_text() -> None:
    secret = Secret(KEY)
    assert secret == Secret(KEY)
    assert secret != Secret("x")
    assert secret != KEY
    assert 1 == len({secret, Secret(KEY)})


def test_a_copy_of_settings_has_the_secret_itself(loaded: Settings) -> None:
    assert asdict(loaded)["spectron"]["api_key"] is loaded.spectron.api_key
