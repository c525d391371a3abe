"""`routing.json`: the same decision in every language, replaced atomically, and never the reason a read fails."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.files import locks
from spectron_migrate.records import format_time
from spectron_migrate.state import routing_reader
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.directory import DirectoryState
from spectron_migrate.state.journal import record_step
from spectron_migrate.state.routing import (
    BUCKETS,
    FILE,
    Routing,
    bucket_of,
    name_of,
    read_routing,
    write_routing,
)
from spectron_migrate.state.routing_reader import TRUSTED_S, RoutingReader, RoutingUnreadable
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

SCHEMA = json.loads((Path(__file__).parents[2] / "configs" / "routing.schema.json").read_text("utf-8"))
NOW = 1_800_000_000.0
HALF = Routing(
    migration="0123456789abcdef", phase="shift", percent=50, epoch=3, fresh_until=NOW + 60, behind=frozenset()
)


PAGE = (Path(__file__).parents[2] / "docs" / "routing.md").read_text("utf-8")


def readers_own_lines() -> Callable[[dict[str, Any], str, float], bool]:
    """The Python of the documentation, as an application would copy it."""
    block = next(each for each in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "reads_from_spectron" in each)
    lines: dict[str, Any] = {}
    exec(block, lines)
    return cast("Callable[[dict[str, Any], str, float], bool]", lines["reads_from_spectron"])


reads_from_spectron = readers_own_lines()
ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def routings(draw: st.DrawFn) -> tuple[Routing, list[str]]:
    users = draw(st.lists(ids, min_size=1, max_size=8, unique=True))
    migration = draw(st.text("0123456789abcdef", min_size=16, max_size=16))

    def some() -> frozenset[str]:
        return frozenset(name_of(migration, user) for user in draw(st.lists(st.sampled_from(users), unique=True)))

    pinned_to_spectron = some()
    routing = Routing(
        migration=migration,
        phase="shift",
        percent=draw(st.integers(0, 10_000)) / 100,
        pinned_to_spectron=pinned_to_spectron,
        pinned_to_mem0=some() - pinned_to_spectron,
        epoch=draw(st.integers(0, 1000)),
        fence="2026-11-22T10:00:00.000000Z",
        as_of="2026-11-22T11:00:00.000000Z",
        fresh_until=draw(st.one_of(st.none(), st.floats(NOW - 100, NOW + 100))),
        behind=draw(st.one_of(st.none(), st.just(some()))),
        updated_at="2026-11-22T11:00:00.000000Z",
    )
    return routing, users


@given(routings())
def test_the_file_follows_its_schema_and_the_documented_python_decides_alike(
    drawn: tuple[Routing, list[str]],
) -> None:
    routing, users = drawn
    written = json.loads(json.dumps(routing.to_json()))
    jsonschema_rs.validator_for(SCHEMA).validate(written)
    assert routing == Routing.from_json(written)
    for user in users:
        assert reads_from_spectron(written, user, NOW) == (routing.route(user_id=user, now=NOW) == "spectron")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js to run the TypeScript of the documentation")
def test_the_documented_typescript_decides_as_we_do(tmp_path: Path) -> None:
    lines = next(iter(re.findall(r"```typescript\n(.*?)```", PAGE, re.DOTALL)))
    routing = replace(HALF, percent=37.5, behind=frozenset({name_of(HALF.migration, "ü3")})).to_json()
    users = [f"ü{number}" for number in range(300)]
    script = tmp_path / "reads.mjs"
    asks = f"{json.dumps(users)}.map((user) => readsFromSpectron({json.dumps(routing)}, user, {NOW}))"
    script.write_text(f"{re.sub(r': (any|string|number|boolean)', '', lines)}\nconsole.log(JSON.stringify({asks}))")
    done = subprocess.run(["node", script], capture_output=True, text=True, timeout=60, check=True)
    assert [reads_from_spectron(routing, user, NOW) for user in users] == json.loads(done.stdout)


def test_a_bucket_is_the_published_one_and_a_rising_share_only_adds_users() -> None:
    published = int.from_bytes(hashlib.sha256(b"0123456789abcdef:alice").digest()[:8], "big") % 10000
    assert published == bucket_of(name_of("0123456789abcdef", "alice"))
    read = [
        {user for user in map(str, range(2000)) if replace(HALF, percent=share).route(user_id=user, now=NOW) != "mem0"}
        for share in (0, 0.5, 5, 25, 50, 99.99, 100)
    ]
    assert all(fewer <= more for fewer, more in pairwise(read))
    assert 0 == len(read[0])
    assert 2000 == len(read[-1])
    assert 900 < len(read[4]) < 1100
    assert 10_000 == BUCKETS


def test_the_id_is_the_user_else_the_agent_else_the_run_else_the_app() -> None:
    routing = replace(HALF, percent=0, pinned_to_spectron=frozenset({name_of(HALF.migration, "a")}))
    for ids_given, route in (
        ({"user_id": "a", "agent_id": "b"}, "spectron"),
        ({"user_id": "b", "agent_id": "a"}, "mem0"),
        ({"agent_id": "a", "run_id": "b"}, "spectron"),
        ({"run_id": "a", "app_id": "b"}, "spectron"),
        ({"app_id": "a"}, "spectron"),
        ({}, "mem0"),
    ):
        assert route == routing.route(**ids_given, now=NOW), ids_given


def test_a_user_who_is_behind_and_everybody_after_expiry_is_read_from_mem0() -> None:
    everybody = replace(HALF, percent=100)
    alice = name_of(HALF.migration, "alice")
    assert "spectron" == everybody.route(user_id="alice", now=NOW)
    assert "behind" == replace(everybody, behind=frozenset({alice})).route(user_id="alice", now=NOW)
    assert "behind" == replace(everybody, behind=None).route(user_id="alice", now=NOW)
    assert "behind" == everybody.route(user_id="alice", now=NOW + 61)
    assert "spectron" == replace(everybody, fresh_until=None).route(user_id="alice", now=NOW + 10**9)
    assert "mem0" == Routing().route(user_id="alice")


def test_the_file_contains_no_id_in_clear_text(tmp_path: Path) -> None:
    names = frozenset({name_of(HALF.migration, "alice@example.org")})
    write_routing(tmp_path, replace(HALF, pinned_to_spectron=names, behind=names))
    assert "alice" not in (tmp_path / FILE).read_text()


def test_a_reader_sees_a_change_within_a_second_and_checks_the_file_only_twice_a_second(tmp_path: Path) -> None:
    moment = [0.0]
    write_routing(tmp_path, HALF)
    reader = RoutingReader(tmp_path, clock=lambda: moment[0])
    assert HALF == reader.current()
    write_routing(tmp_path, replace(HALF, epoch=4, percent=0))
    moment[0] = 0.4
    assert 3 == reader.current().epoch
    moment[0] = 0.6
    assert 4 == reader.current().epoch


@pytest.mark.parametrize("ahead_s", [0.0, 3600.0])
def test_a_routing_that_is_not_renewed_expires_whatever_the_wall_clock_shows(tmp_path: Path, ahead_s: float) -> None:
    as_of = time.time() + ahead_s
    routing = Routing(
        migration="m",
        phase="shift",
        percent=100,
        epoch=2,
        as_of=format_time(datetime.fromtimestamp(as_of, UTC)),
        fresh_until=as_of + 60,
        behind=frozenset(),
    )
    write_routing(tmp_path, routing)
    moment = [0.0]
    reader = RoutingReader(tmp_path, clock=lambda: moment[0])
    assert "spectron" == reader.current().route(user_id="alice")
    moment[0] = 61.0
    assert "behind" == reader.current().route(user_id="alice")
    write_routing(tmp_path, routing)  # following goes on
    moment[0] = 62.0
    assert "spectron" == reader.current().route(user_id="alice")


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"schema": 2}',
        b"[" * 100_000,
        b"\xff\xfe",
        json.dumps({**HALF.to_json(), "percent": 101}).encode(),
        json.dumps({**HALF.to_json(), "percent": float("nan")}).encode(),
        json.dumps({**HALF.to_json(), "epoch": float("inf")}).encode(),
        json.dumps({**HALF.to_json(), "behind": "everybody"}).encode(),
        json.dumps({**HALF.to_json(), "phase": "whatever"}).encode(),
        json.dumps({**HALF.to_json(), "epoch": 2}).encode(),
        None,
    ],
    ids=lambda each: (each or b"missing")[:12].hex(),
)
def test_a_broken_missing_or_older_file_leaves_the_last_good_one_in_force_and_is_logged_once(
    tmp_path: Path, broken: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    moment = [0.0]
    path = tmp_path / FILE
    write_routing(tmp_path, HALF)
    reader = RoutingReader(path, clock=lambda: moment[0])
    reader.current()
    if broken is None:
        path.unlink()
    else:
        path.write_bytes(broken)
    for moment[0] in (1.0, 2.0, 3.0):
        assert HALF == reader.current()
    assert str(path) in (reader.problem or "")
    assert 1 == len(caplog.records)
    write_routing(tmp_path, replace(HALF, epoch=9))
    moment[0] = 4.0
    assert 9 == reader.current().epoch
    assert reader.problem is None


def test_a_write_waits_for_the_first_step_of_a_cutover_and_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is there before its line is: that looks like a cutover whose files were lost."""
    begun, looked = threading.Event(), threading.Event()
    append = DirectoryState.append_line

    def append_later(state: DirectoryState, *given: Any, **named: Any) -> bool:
        begun.set()
        looked.wait(20)
        return append(state, *given, **named)

    def is_held(path: Path) -> bool:
        looked.set()
        return locks.is_held(path)

    monkeypatch.setattr(DirectoryState, "append_line", append_later)
    monkeypatch.setattr(routing_reader, "is_held", is_held)
    step = Step("start", format_time(datetime.now(UTC)), "a test", migration="m", catch_up="follow")
    taking = threading.Thread(target=record_step, args=(tmp_path, step))
    taking.start()
    begun.wait(20)
    try:
        assert "started" == RoutingReader(tmp_path).for_write().phase
    finally:
        looked.set()
        taking.join()


def test_without_any_file_everything_is_read_from_mem0(tmp_path: Path) -> None:
    reader = RoutingReader(tmp_path)
    assert "mem0" == reader.current().route(user_id="alice")
    assert reader.problem is not None


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    write_routing(tmp_path, HALF)
    done = threading.Event()

    def write() -> None:
        for epoch in range(3, 120):
            names = frozenset(name_of(HALF.migration, str(number)) for number in range(epoch * 5))
            write_routing(tmp_path, replace(HALF, epoch=epoch, behind=names))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not done.is_set():
        routing = read_routing(tmp_path)
        assert routing is not None
        assert routing.epoch == 3 or len(routing.behind or ()) == routing.epoch * 5
        seen += 1
    writer.join()
    assert seen > 10
    assert [FILE] == [each.name for each in tmp_path.iterdir()]


@contextmanager
def served(answers: dict[str, Any]) -> Iterator[str]:
    """An http server of one resource, which the test changes while it runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers["asked"].append(self.headers.get("If-None-Match"))
            etag = answers.get("etag")
            same = etag is not None and self.headers.get("If-None-Match") == etag
            status = 304 if same else answers.get("status", 200)
            self.send_response(status)
            if etag:
                self.send_header("ETag", etag)
            if status == 302:
                self.send_header("Location", answers["location"])
            body = b"" if same else answers["body"]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    answers["asked"] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/routing.json"
        finally:
            server.shutdown()
            thread.join()


def body(routing: Routing) -> bytes:
    return json.dumps(routing.to_json()).encode()


def test_an_address_is_fetched_with_its_etag_and_outages_leave_the_last_good_one() -> None:
    answers: dict[str, Any] = {"body": body(HALF), "etag": '"one"'}
    with served(answers) as address:
        reader = RoutingReader(address)
        reader.fetch()
        reader.fetch()
        assert [None, '"one"'] == answers["asked"]
        assert reader.problem is None
        answers.update(body=body(replace(HALF, epoch=4)), etag='"two"')
        reader.fetch()
        assert 4 == reader._last.routing.epoch
        for trouble in ({"status": 500}, {"status": 200, "body": b"{"}, {"status": 302, "location": address}):
            answers.update({"etag": None, **trouble})
            reader.fetch()
            assert 4 == reader._last.routing.epoch, trouble
            assert reader.problem is not None, trouble
        answers.update(status=200, body=body(replace(HALF, epoch=5)))
        reader.fetch()
        assert 5 == reader._last.routing.epoch
        assert reader.problem is None
    reader.fetch()
    assert 5 == reader._last.routing.epoch
    assert reader.problem is not None


def test_an_address_that_is_older_than_the_ledger_in_the_state_refuses_writes(tmp_path: Path) -> None:
    """Where the journal is not there either; as long as the ledger knows no more, nothing is refused."""
    noted: list[str] = []

    def lost_journal(knows_of_one: bool, changed_at: str | None) -> str | None:
        return noted[0] if noted and knows_of_one else None

    answers: dict[str, Any] = {"body": body(HALF)}
    with served(answers) as address:
        reader = RoutingReader(address, state=tmp_path, lost_journal=lost_journal)
        reader.fetch()
        assert "shift" == reader.for_write().phase
        noted.append("the ledger says that a cutover was completed")
        reader.look()
        with pytest.raises(RoutingUnreadable, match="a cutover was completed"):
            reader.for_write()
        reader.close()


def test_a_read_never_waits_for_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {"body": body(HALF)}
    with served(answers) as address:
        reader = RoutingReader(address, check_every_s=0.02)
        fetch, may_answer = reader.fetch, threading.Event()
        monkeypatch.setattr(reader, "fetch", lambda: may_answer.wait() and fetch())
        assert Routing() == reader.current()
        may_answer.set()
        wait_until(lambda: reader.current() == HALF)
        reader.close()


@pytest.mark.parametrize("address", ["http://example.org/routing.json", "ftp://localhost/x", "file:///etc/passwd"])
def test_an_address_must_be_https_or_on_this_machine(address: str) -> None:
    with pytest.raises(ValueError, match="https"):
        RoutingReader(address)


def test_an_import_loads_nothing_heavy() -> None:
    heavy = ["typer", "rich", "tqdm", "httpx", "aiohttp", "mem0", "yaml", "sqlite3", "asyncio", "urllib.request"]
    code = f"import sys, spectron_migrate.state.routing; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


def test_an_answer_of_before_the_host_slept_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`time.monotonic` stands still while a host is suspended; the others complete the cutover meanwhile."""
    with served({"body": body(HALF), "etag": '"one"'}) as address:
        reader = RoutingReader(address)
        reader.fetch()
    assert reader.unreadable is None
    read = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda clock: read(clock) + TRUSTED_S)
    assert reader.unreadable is not None
