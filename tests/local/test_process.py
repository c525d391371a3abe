"""The server as a process: start, kill -9, restart, refused options and data."""

from __future__ import annotations

import http.client
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from spectron_migrate.local.schema import FORMAT
from spectron_migrate.local.server import StoreRefused, create_app, store_path
from spectron_migrate.local.testing import RunningServer, ServerFailed, running_server
from tests.local.support import spectron

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """A server shared by the tests that only send requests."""
    with running_server() as running:
        yield running


def client(server: RunningServer, **options: Any) -> httpx.Client:
    return httpx.Client(
        base_url=f"{server.base_url}/api/v1/{server.context}",
        headers={"authorization": f"Bearer {server.api_key}"},
        **options,
    )


def test_a_killed_server_keeps_memories_keys_and_port(tmp_path: Path) -> None:
    with running_server(tmp_path, context="acme", api_key="sk-other") as server:
        with client(server) as http:
            session = http.post("/sessions").json()["id"]
            body = {"text": "Lives in Berlin", "session_id": session}
            first = http.post("/facts", json=body, headers={"idempotency-key": "k"})
        url = server.base_url
        server.kill()
        with pytest.raises(httpx.ConnectError), client(server) as http:
            http.get("/me")
        server.restart()
        with client(server) as http:
            again = http.post("/facts", json=body, headers={"idempotency-key": "k"})
            turns = http.get(f"/sessions/{session}/turns").json()["turns"]

        assert url == server.base_url
        assert first.content == again.content
        assert ["Lives in Berlin"] == [turn["content"] for turn in turns]
        assert "date" in again.headers
        assert again.headers["x-trace-id"] != first.headers["x-trace-id"]


def test_the_documented_views_can_be_read_while_it_runs(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        with client(server) as http:
            http.post("/scopes", json={"path": "user/alice"})
            made = http.post("/facts", json={"text": "Lives in Berlin", "scopes": [["user/alice"]]}).json()
            http.post("/facts", json={"text": "tea", "infer": "none"}, headers={"idempotency-key": "k"})
        with sqlite3.connect(f"file:{server.database}?mode=ro", uri=True) as db:

            def rows(query: str) -> list[Any]:
                return db.execute(query).fetchall()

            assert (made["turnId"], made["sessionId"], 1, "Lives in Berlin", '[["user/alice/"]]') in rows(
                "SELECT id, session, seq, content, scopes FROM turns"
            )
            assert {("Lives in Berlin",), ("tea",)} == set(rows("SELECT text FROM passages"))
            assert [("person/user", "lives_in", "Berlin")] == rows("SELECT entity, key, value FROM facts")
            assert [(1,), (1,)] == rows("SELECT turns FROM sessions")
            assert [("k",)] == rows("SELECT key FROM idempotency")
        db.close()


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        with pytest.raises(ServerFailed, match="in use by another"), running_server(tmp_path):
            pass
        with client(server) as http:
            assert 200 == http.get("/me").status_code


def test_a_port_in_use_or_a_wrong_option_exits_with_2_and_names_it(server: RunningServer) -> None:
    port = int(server.base_url.rsplit(":", 1)[1])
    with pytest.raises(ServerFailed, match="in use"), running_server(port=port):
        pass
    with pytest.raises(ValueError, match="not a context id"):
        create_app(context="a b")
    with pytest.raises(ValueError, match="API version"):
        create_app(api="9")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("PRAGMA user_version = 99", "newer version"),
        ("UPDATE meta SET value = 'elsewhere' WHERE name = 'context'", "holds context elsewhere"),
        ("UPDATE meta SET value = '3' WHERE name = 'dimensions'", "holds dimensions 3"),
        ("PRAGMA user_version = 0", "not a store"),
    ],
)
def test_data_of_another_context_or_format_is_refused_unchanged(tmp_path: Path, spoil: str, message: str) -> None:
    with spectron(data=tmp_path):
        pass
    db = sqlite3.connect(store_path(tmp_path, "local"))
    db.execute(spoil)
    db.commit()
    db.close()

    with pytest.raises(StoreRefused, match=message), spectron(data=tmp_path):
        pass


def test_a_file_that_is_no_database_is_refused_unchanged(tmp_path: Path) -> None:
    store_path(tmp_path, "local").write_text("no database at all, but long enough to look at\n" * 50)

    with pytest.raises(ServerFailed, match="not a store"), running_server(tmp_path):
        pass
    assert store_path(tmp_path, "local").read_text().startswith("no database")


@pytest.mark.parametrize("place", ["file", "/proc/nope"])
def test_an_unusable_data_directory_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerFailed, match="cannot be written"), running_server(tmp_path / place):
        pass


def test_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    data = tmp_path / "new"
    with running_server(data) as server, client(server) as http:
        http.post("/sessions")
        modes = {path.name: path.stat().st_mode & 0o777 for path in [data, *data.iterdir()]}

    assert {"new": 0o700} == {name: mode for name, mode in modes.items() if mode != 0o600}


def test_a_store_records_its_format(tmp_path: Path) -> None:
    with spectron(data=tmp_path):
        pass
    db = sqlite3.connect(store_path(tmp_path, "local"))
    assert (FORMAT,) == db.execute("PRAGMA user_version").fetchone()
    db.close()


def test_small_answers_are_not_delayed_by_nagles_algorithm(server: RunningServer) -> None:
    with client(server) as http:
        http.get("/me")
        took = sum(http.get("/me").elapsed.total_seconds() for _ in range(20))

    assert took < 20 * 0.03


def test_a_client_that_disconnects_does_not_stop_the_server(server: RunningServer) -> None:
    host, port = server.base_url.removeprefix("http://").split(":")
    torn = http.client.HTTPConnection(host, int(port))
    torn.putrequest("POST", f"/api/v1/{server.context}/facts")
    torn.putheader("Authorization", f"Bearer {server.api_key}")
    torn.putheader("Content-Length", "1000")
    torn.endheaders(b'{"text": "half')
    torn.close()

    with client(server) as again:
        assert [] == again.post("/query", json={"query": "half"}).json()["hits"]


def test_the_testing_module_imports_nothing_of_the_server() -> None:
    code = "import sys, spectron_migrate.local.testing; print([m for m in ('numpy', 'starlette') if m in sys.modules])"

    assert "[]" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("path", [b"/\xff\xfe", b"/api/v1/\xff/me", b"/api/v1/local/entities/%ff/%00", b"/api/v1//me"])
def test_an_undecodable_path_is_no_500(server: RunningServer, path: bytes) -> None:
    host, port = server.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer sk-local\r\n\r\n"
        )
        status = raw.makefile("rb").readline().split()[1]

    assert status in (b"400", b"404", b"422")


def test_the_documented_fixture_runs_in_another_project(tmp_path: Path) -> None:
    blocks = (Path(__file__).parents[2] / "docs" / "local-spectron.md").read_text().split("```python\n")[1:]
    fixture = next(block.split("```")[0] for block in blocks if "running_server" in block)
    (tmp_path / "test_theirs.py").write_text(
        fixture + "\n\ndef test_it_answers(spectron):\n"
        "    import httpx\n"
        "    url = f'{spectron.base_url}/api/v1/{spectron.context}/me'\n"
        "    assert 200 == httpx.get(url, headers={'authorization': f'Bearer {spectron.api_key}'}).status_code\n"
    )
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_theirs.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert 0 == finished.returncode, finished.stdout
