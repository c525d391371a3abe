"""A wrong ledger, server, key or option is refused before any memory is called missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.errors import InputError, KeyRefused, WrongLedger
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.verify.options import VerifyOptions
from tests.support.here import server_here
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import Filled, verify


def test_options_out_of_range_are_refused(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(0, user)])
    replay(spectron, tmp_path / "state", [dump])
    with pytest.raises(InputError) as refused:
        verify(spectron, tmp_path / "state", [dump], VerifyOptions(top_k=51, sample=0, margin=2.0))
    assert all(part in refused.value.message for part in ("3 problems", "top_k is 51", "sample is 0", "margin is 2.0"))


def test_a_ledger_of_another_context_is_refused(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(0, user)])
    replay(spectron, tmp_path / "state", [dump])
    with Ledger.open_for_writing(tmp_path / "state") as ledger, ledger.transaction() as db:
        db.execute("UPDATE migration SET context = 'elsewhere'")
    with pytest.raises(WrongLedger, match="belongs to context elsewhere"):
        verify(spectron, tmp_path / "state", [dump])


def test_without_a_ledger_there_is_nothing_to_verify(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(0, user)])
    with pytest.raises(InputError, match="there is no ledger"):
        verify(spectron, tmp_path / "state", [dump])


def test_a_key_without_read_grant_is_refused(tmp_path: Path) -> None:
    grants = {"memory:write": ["*"], "scope:read": ["*"], "scope:create": ["*"]}
    principals = {"writer": {"grants": grants, "key": "sk-writer"}}
    with server_here(tmp_path / "spectron", context="grants", principals=principals) as server:
        dump = write_raw(tmp_path / "all.json", [memory(0, "anna")])
        replay(server, tmp_path / "state", [dump])
        server.api_key = "sk-writer"
        with pytest.raises(KeyRefused, match="lacks memory:read for 1 scope"):
            verify(server, tmp_path / "state", [dump])


def test_a_server_without_our_sessions_is_refused(filled: Filled, tmp_path: Path) -> None:
    with (
        server_here(tmp_path / "empty", context="tampered") as other,
        pytest.raises(WrongLedger, match="has none of the turns"),
    ):
        verify(other, filled.state, [filled.dump])
