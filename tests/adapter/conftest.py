"""A real Mem0 with real embeddings, a real local Spectron, and the migration between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spectron_migrate.local.testing import RunningServer, running_server
from tests.adapter.drains import Drains
from tests.adapter.support import TEA, Stage


@pytest.fixture
def stage(spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """An application with an empty Mem0, on the server that all tests share."""
    with Stage.open(tmp_path, spectron, user, monkeypatch) as stage:
        yield stage


@pytest.fixture
def own_stage(user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """The same with a server of its own, to be killed."""
    with (
        running_server(tmp_path / "spectron", context="tests") as server,
        Stage.open(tmp_path, server, user, monkeypatch) as stage,
    ):
        yield stage


@pytest.fixture
def drains(stage: Stage) -> Iterator[Drains]:
    """A cutover by outbox whose base is in Spectron, and which is drained when the test says so."""
    made = Drains(stage)
    yield made
    made.outbox.close()


@pytest.fixture
def done(stage: Stage) -> Stage:
    """A completed migration of two memories."""
    stage.say(TEA, metadata={"kind": "taste"})
    stage.say("Lives in Lisbon near the river", run_id="r1")
    stage.to_spectron()
    stage.step("closing")
    stage.step("complete")
    return stage
