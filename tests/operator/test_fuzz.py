"""Whatever a file or a server contains: no traceback, no hang, and a documented exit code.

More of it: FUZZ_EXAMPLES=1000 python -m pytest tests/operator/test_fuzz.py --timeout 7200
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectron_migrate.cli.app import run
from spectron_migrate.errors import ExitCode
from tests.support import output
from tests.support.spectron import memory, write_raw

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "12")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
VOCABULARY = """
version rules when scope user org user_id {user_id} agent_id * all_of any_of infer full none category knowledge
unmapped skip session by run_id size labels lookup file key value metadata.x {a}:{b} mem0 oss config default
spectron endpoint context api_key ${HOME} ${NOTHING} timeout 120s replay max_in_flight verify reports cutover
query expect results memory id created_at 2025-01-01T00:00:00Z 1970-01-01 relations
"""
WORDS = st.sampled_from(VOCABULARY.split())
SCALARS = st.one_of(
    WORDS, st.none(), st.booleans(), st.integers(-3, 10**12), st.floats(), st.text(max_size=6), st.just("=1+1")
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(WORDS, SCALARS), inner, max_size=4)),
    max_leaves=12,
)
RULES = st.fixed_dictionaries(
    {"version": st.just(1), "rules": st.lists(TREES, min_size=1, max_size=3)},
    optional={"infer": TREES, "labels": TREES},
)
YAML = st.one_of(TREES, RULES).map(lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode())
ROWS = st.lists(
    st.fixed_dictionaries(
        {"id": SCALARS, "memory": SCALARS},
        optional=dict.fromkeys(("user_id", "agent_id", "run_id", "metadata", "created_at", "updated_at"), TREES),
    ),
    max_size=4,
)
JSON = st.one_of(ROWS, ROWS.map(lambda rows: {"results": rows}), TREES).map(
    lambda tree: json.dumps(tree, default=str).encode()
)
BYTES = st.binary(max_size=60)


@pytest.fixture(autouse=True)
def in_a_directory_with_a_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_raw(tmp_path / "get_all.json", [memory(0, "anna"), memory(1, "bo")])


def run_checked(capsys: pytest.CaptureFixture[str], *words: str) -> int:
    """Run one command and check its exit code and its object on stdout; returns the exit code."""
    capsys.readouterr()
    code = run([*words, "--json"])
    printed = capsys.readouterr()
    output.check(json.loads(printed.out))
    assert code in set(ExitCode)
    assert code != ExitCode.BUG, Path(".spectron-migrate/log.jsonl").read_text().splitlines()[-1]
    assert "Traceback" not in printed.err
    return code


@FUZZ
@given(content=st.one_of(YAML, BYTES))
def test_any_mapping_is_read_or_refused(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mapping.yaml").write_bytes(content)
    assert run_checked(capsys, "replay", "--dump", "get_all.json", "--dry-run", "--mapping", "mapping.yaml") in (0, 2)


@FUZZ
@given(content=st.one_of(YAML, BYTES), command=st.sampled_from(["status", "export", "dual-verify"]))
def test_any_settings_end_in_a_documented_exit_code(
    content: bytes, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("settings.yaml").write_bytes(content)
    run_checked(capsys, command, "--config", "settings.yaml")


@FUZZ
@given(content=st.one_of(JSON, BYTES))
def test_any_raw_file_of_mem0_is_read_or_refused(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("raw.json").write_bytes(content)
    assert run_checked(capsys, "replay", "--dump", "raw.json", "--dry-run") in (0, 2)


@FUZZ
@given(content=st.one_of(JSON, BYTES), suffix=st.sampled_from([".txt", ".jsonl", ".csv", ".yaml", ".exe"]))
def test_any_file_of_queries_is_refused_as_input(
    content: bytes, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(f"queries{suffix}")
    file.write_bytes(content)
    assert ExitCode.INPUT == run_checked(capsys, "dual-verify", "--queries", str(file))


@FUZZ
@given(
    name=st.sampled_from(["manifest.json", "memories.jsonl"]),
    at=st.integers(0, 3000),
    put=st.binary(max_size=8),
    cut=st.booleans(),
)
def test_a_damaged_dump_is_read_or_refused(
    name: str, at: int, put: bytes, cut: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("dump").exists():
        assert 0 == run_checked(capsys, "export", "--from", "get_all.json")
        Path("whole").mkdir()
        for file in Path("dump").glob("*.json*"):
            Path("whole", file.name).write_bytes(file.read_bytes())
    whole = Path("whole", name).read_bytes()
    at %= len(whole)
    Path("dump", name).write_bytes(whole[:at] + put + (b"" if cut else whole[at + len(put) :]))
    assert run_checked(capsys, "replay", "--dump", "dump", "--dry-run") in (0, 2)
    Path("dump", name).write_bytes(whole)


class Garbage(BaseHTTPRequestHandler):
    """A server that gives the same answer to every request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave together: else each answer waits for a delayed acknowledgement
    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"")

    def do_GET(self) -> None:
        status, headers, body = self.answer
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def garbage(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Garbage]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Garbage)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("SPECTRON_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("SPECTRON_CONTEXT", "garbage")
    monkeypatch.setenv("SPECTRON_API_KEY", "sk-local")
    monkeypatch.setattr("spectron_migrate.spectron.api.READ_TRIES", 1)
    yield Garbage
    server.shutdown()
    server.server_close()


ANSWERS = st.one_of(
    BYTES,
    TREES.map(lambda tree: json.dumps(tree, default=str).encode()),
    st.fixed_dictionaries(
        {"principalId": SCALARS, "effectiveGrants": TREES}, optional={"scopes": TREES, "id": SCALARS, "turns": TREES}
    ).map(lambda tree: json.dumps(tree, default=str).encode()),
    st.just(
        json.dumps({"principalId": "p", "effectiveGrants": {"memory:read": ["*"], "memory:write": ["*"]}}).encode()
    ),
)


@FUZZ
@given(
    status=st.sampled_from([200, 201, 204, 301, 400, 401, 403, 404, 409, 418, 422, 500, 502]),
    body=ANSWERS,
    date=st.sampled_from(["", "Thu, 01 Jan 1970 00:00:00 GMT", "yesterday", "2026-01-01"]),
    command=st.sampled_from([("doctor",), ("replay", "--dump", "get_all.json", "--max-seconds", "1")]),
)
def test_any_answer_of_a_server_ends_in_a_documented_exit_code(
    status: int,
    body: bytes,
    date: str,
    command: tuple[str, ...],
    garbage: type[Garbage],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if status == 204:
        body = b""
    garbage.answer = (status, {"Date": date} if date else {}, body)
    run_checked(capsys, *command)
