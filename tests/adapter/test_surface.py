"""What an application's type checker, log and shutdown see of the adapters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import spectron_migrate
from spectron_migrate import InputError, MigrateError, NotInSpectron, Unreachable
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.adapter.support import TEA, Stage, environment
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
GOOD = """\
from __future__ import annotations
import asyncio
from typing import Any
from spectron_migrate import (
    AsyncMemoryAdapter, InputError, KeyRefused, MemoryAdapter, MigrateError, NotInSpectron, NotLegal, OtherMapping,
    RoutingUnreadable, SpectronClient, Unreachable,
)

def use(client: Any) -> list[str]:
    with MemoryAdapter(client, state=".spectron-migrate", mapping="mapping.yaml") as a:
        a.add("I like tea", user_id="alice", metadata={"kind": "taste"}, infer=False)
        a.add([{"role": "user", "content": "I like tea"}, {"role": "assistant", "content": "Noted"}], user_id="alice")
        found = a.search("tea", filters={"user_id": "alice"}, top_k=5)
        texts = [str(row["memory"]) for row in found["results"]]
        a.search("tea", user_id="alice", limit=5)["results"]
        a.get("id")["memory"]
        a.get_all(filters={"user_id": "alice"})["results"]
        a.update("id", "text")
        a.update("id", data="text")
        a.update("id", text="text", metadata={"a": 1})
        a.delete("id")
        a.delete(memory_id="id")
        a.delete_all(user_id="alice")
        for event in a.history("id"):
            print(event["event"])
        a.reset()
        a.mem0.config
        try:
            a.delete("id")
        except (NotInSpectron, NotLegal, InputError, KeyRefused, Unreachable, OtherMapping, RoutingUnreadable) as error:
            print(error.hint)
        except MigrateError as error:
            print(error)
    return texts

async def use_async(client: Any, spectron: SpectronClient) -> str:
    async with AsyncMemoryAdapter(client, spectron) as a:
        await a.add("I like tea", "alice")
        await a.add("I like tea", user_id="alice", infer=False)
        found = await a.search("tea", "alice", use_spectron=True)
        found["results"]
        await a.get("id")
        (await a.get_all(user_id="alice"))["results"]
        await a.update("id", "text")
        await a.delete("id")
        await a.delete_all(user_id="alice")
        [event["event"] for event in await a.history("id")]
        await a.reset()
        await a.close()
    return found.formatted

asyncio.run(use_async(None, SpectronClient(base_url="x", api_key="y")))
"""
BAD = """\
from spectron_migrate import AsyncMemoryAdapter, MemoryAdapter

def use(a: MemoryAdapter, b: AsyncMemoryAdapter) -> None:
    a.serch("tea")
    b.serch("tea")
    a.get(1)
    a.get()
    a.add("x", usr_id="alice")
    a.history("id")["event"]
    a.search("tea").formattd
    a.reset("x")

async def use_async(b: AsyncMemoryAdapter) -> None:
    b.get_all(user_id="alice")["results"]
    await b.get_al()
    await b.add("x", usr_id="alice")
    await b.delete()
"""
MYPY = ["-m", "mypy", "--strict", "--no-error-summary", "--python-executable", sys.executable]
PYRIGHT = ["-m", "basedpyright", "--level", "error", "--pythonpath", sys.executable]


def lines_with_errors(folder: Path, checker: list[str], texts: dict[str, str]) -> dict[str, set[int]]:
    """The lines of each file with which a type checker, asked once, finds fault."""
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard"}))
    ended = subprocess.run([sys.executable, *checker, *texts], cwd=folder, capture_output=True, text=True, timeout=110)
    assert ended.returncode in (0, 1), ended
    found = [line for line in ended.stdout.splitlines() if " error" in line]
    return {
        name: {int(line.split(f"{name}:")[1].split(":")[0]) for line in found if f"{name}:" in line} for name in texts
    }


@pytest.mark.parametrize("checker", [MYPY, PYRIGHT], ids=["mypy", "pyright"])
def test_type_checkers_know_mem0s_methods_and_find_misspelled_ones(tmp_path: Path, checker: list[str]) -> None:
    wrong = {number for number, line in enumerate(BAD.splitlines(), 1) if line.startswith("    ")}
    expected = {"application.py": set(), "misspelled.py": wrong}
    assert expected == lines_with_errors(tmp_path, checker, {"application.py": GOOD, "misspelled.py": BAD})


def test_every_error_an_application_may_meet_is_exported_and_says_its_hint() -> None:
    exported = [getattr(spectron_migrate, name) for name in spectron_migrate.__all__ if name != "__version__"]
    errors = {each for each in exported if isinstance(each, type) and issubclass(each, Exception)}
    assert {NotInSpectron, InputError, Unreachable, MigrateError} < errors
    for error in errors:
        assert "it failed (hint: do this)" == str(error("it failed", hint="do this"))
        assert "it failed" == str(error("it failed"))


def test_what_the_client_has_beside_mem0s_methods_is_reached(stage: Stage) -> None:
    adapter = stage.adapter()
    assert stage.mem0.config is adapter.config  # type: ignore[attr-defined] - not part of the typed surface
    assert stage.mem0 is adapter.mem0
    with pytest.raises(AttributeError):
        adapter.serch  # type: ignore[attr-defined] # noqa: B018 - that it raises is the point


APPLICATION = """
import asyncio, gc, os, sys
from spectron_migrate import AsyncMemoryAdapter, MemoryAdapter
class Mem0:
    def search(self, query, *, top_k=20, filters=None, **kwargs): raise AssertionError("Mem0 was asked")
    add = search
user = sys.argv[1]
asked = {"filters": {"user_id": user}}
async def run(adapter):
    assert (await adapter.search("green tea", user))["results"]
    assert "forgetful" in sys.argv or await adapter.close() is None
"""
CLOSED = """
with MemoryAdapter(Mem0()) as adapter:
    assert adapter.search("green tea", **asked)["results"]
async def use():
    async with AsyncMemoryAdapter(Mem0()) as adapter:
        assert (await adapter.search("green tea", user))["results"]
asyncio.run(use())
"""
FORGETFUL = """
adapter = MemoryAdapter(Mem0())
assert adapter.search("green tea", **asked)["results"]
asyncio.run(run(AsyncMemoryAdapter(Mem0())))
"""
COLLECTED = """
adapter = MemoryAdapter(Mem0())
assert adapter.search("green tea", **asked)["results"]
del adapter
gc.collect()
"""
FORKING = """
adapter = MemoryAdapter(Mem0())
assert adapter.search("green tea", **asked)["results"]
child = os.fork()
gc.collect()
assert adapter.search("green tea", **asked)["results"]
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert adapter.search("green tea", **asked)["results"]
"""


@pytest.mark.ledger_file  # it starts a process
@pytest.mark.parametrize(
    "text", [CLOSED, FORGETFUL, COLLECTED, FORKING], ids=["closed", "never closed", "collected", "forking"]
)
def test_an_application_ends_without_a_word_about_connections(done: Stage, text: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", APPLICATION + text, done.user, "forgetful"],
        cwd=done.folder,
        env={**clean_environment(os.environ), **environment(done.server), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (0, "") == (ended.returncode, ended.stderr)


def test_closing_twice_and_from_another_thread_is_harmless(done: Stage) -> None:
    adapter = done.adapter()
    assert [TEA] == [row["memory"] for row in adapter.search("green tea", user_id=done.user, limit=1)["results"]]
    thread = adapter._core.spectron_thread
    adapter.close()
    adapter.close()
    assert 0 == thread.under_way


STARTER = """
import sys, time
from spectron_migrate.local.testing import running_server
with running_server() as server:
    print(server.process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_server_of_a_test_run_that_was_killed_ends_too(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as starter:
        assert starter.stdout is not None
        server = int(starter.stdout.readline())
        starter.send_signal(how)
        starter.wait(30)
    wait_until(lambda: not is_alive(server), seconds=30)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_server_goes_on_while_its_test_run_lives(spectron: RunningServer) -> None:
    assert is_alive(spectron.process.pid)
