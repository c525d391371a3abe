"""Real Mem0 stores for the readers to read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.mem0.app import config, serve
from tests.support import warm

DATA = Path(__file__).parent.parent / "data" / "mem0"
NOW = datetime(2026, 11, 23, tzinfo=UTC)
VERSIONS = ("0.1.118", "1.0.11", "2.2.1")


class App:
    """A process that holds a Mem0 store open."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.config = settings
        home = folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        (folder / "mem0.json").write_text(json.dumps(settings))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("OPENAI")},
            "HOME": str(home),
            "MEM0_DIR": str(home / ".mem0"),
            "MEM0_TELEMETRY": "False",
        }
        self._orders, theirs = warm.pipe()
        path = str(folder / "mem0.json")
        self._process = warm.start(serve, path, theirs, folder=folder, environment=environment)
        theirs.close()
        assert "ready" == self.answer()

    def __call__(self, *call: Any) -> Any:
        self.begin(*call)
        return self.answer()

    def begin(self, *call: Any) -> None:
        """Start a call and do not wait for its answer."""
        self._orders.send(json.dumps(call))

    def answer(self) -> Any:
        """The answer to the call that was begun first."""
        return json.loads(self._orders.recv())

    def close(self) -> None:
        """End it in order."""
        self._orders.close()
        self._process.join(30)


@pytest.fixture
def mem0_app(tmp_path: Path) -> Iterator[Callable[..., App]]:
    """Starts applications of Mem0 2.x whose stores lie under the test's own directory."""
    running: list[App] = []

    def start(name: str = "app", **store: Any) -> App:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        running.append(App(folder, config(folder, **store)))
        return running[-1]

    yield start
    for app in running:
        app.close()


def sample_config(version: str) -> dict[str, Any]:
    """A store that this version of Mem0 wrote."""
    folder = DATA / f"{version}-qdrant"
    return {
        "vector_store": {"provider": "qdrant", "config": {"collection_name": "mem0", "path": str(folder / "store")}},
        "history_db_path": str(folder / "history.db"),
    }


def sample_rows(version: str) -> dict[str, dict[str, Any]]:
    """What that store holds, as Mem0's own vector store listed it."""
    rows = json.loads((DATA / f"{version}-qdrant" / "raw.json").read_text("utf-8"))
    return {row["id"]: row["payload"] for row in rows}
