"""A ledger that is older than the server: restored from a backup, or copied, and used once the keys are forgotten."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.delivery.older_ledger import check_ledger_age
from spectron_migrate.delivery.own_work import OwnWork
from spectron_migrate.errors import ExitCode, NotLegal, WrongLedger
from spectron_migrate.ledger import Ledger, plan
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.spectron.hits import hit_of
from spectron_migrate.spectron.rows import Recall
from tests.support.copies import copy_state
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import BATCH, NONE, is_write, mapping_file
from tests.support.spectron import memory, replay, turns_of, write_raw

pytestmark = pytest.mark.slow

A_DAY_S = 25 * 3600.0


def no_markers(user: str) -> dict[str, Any]:
    """A key that may create the scopes of users, and no marker beside them."""
    own = [f"user/{user}{number}" for number in range(3)]
    wide = {verb: ["user/*"] for verb in ("memory:read", "memory:write", "scope:read")}
    return {"narrow": {"key": "sk-narrow", "grants": {**wide, "scope:create": own}}}


@dataclass
class Play:
    """A server, a Mem0 that grows, a state directory, and copies of it."""

    server: RunningServer
    folder: Path
    user: str
    key: str | None = None
    mapping: Path | None = None
    more: dict[str, Any] = field(default_factory=dict)
    """What each memory has besides."""

    def dump(self, count: int) -> Path:
        """A file with so many memories of three users."""
        rows = [memory(number, f"{self.user}{number % 3}", run_id=self.run_of(number)) for number in range(count)]
        return write_raw(self.folder / "all.json", rows)

    def run_of(self, number: int) -> str | None:
        """The run of a memory."""
        return f"r{number}" if self.more.get("runs") else None

    def replay(self, state: str, count: int, **more: Any) -> int:
        """Replay so many memories; returns how many were written."""
        return replay(
            self.server, self.folder / state, [self.dump(count)], api_key=self.key, mapping=self.mapping, **more
        ).written

    @property
    def state(self) -> Path:
        """The directory that is copied."""
        return self.folder / "state"

    def copy_at_write(self, at: int) -> Callable[[Seen], Fault]:
        """Copies the state before the n-th write is answered, while the run goes on."""
        writes = 0

        def choose(seen: Seen) -> Fault:
            nonlocal writes
            if seen.method == "POST" and ("/facts" in seen.path):
                writes += 1
                if writes == at:
                    copy_state(self.state, self.folder / "copy")
            return "none"

        return choose

    def texts(self) -> Counter[str]:
        """How many times the server has each text of the three users."""
        return sum((Counter(t.content for t in turns_of(self.server, f"{self.user}{n}")) for n in range(3)), Counter())

    def pass_a_day(self) -> None:
        """The server forgets its keys."""
        self.server.change_faults(ahead_s=A_DAY_S)


@contextmanager
def playing(folder: Path, user: str, *, markers: bool = True, mapping: str = "", runs: bool = False) -> Iterator[Play]:
    """A play on a server of its own; without `markers` the key may not make them."""
    with server_here(folder / "data", context="tests", principals=no_markers(user), fault_settings={}) as server:
        yield Play(
            server,
            folder,
            user,
            key=None if markers else "sk-narrow",
            mapping=mapping_file(folder, mapping + ("session: {by: run_id}\n" if runs else "")),
            more={"runs": runs},
        )


def assert_refused_and_nothing_written(play: Play, state: str, count: int) -> None:
    """The copy ends with exit code 2 before it writes anything, run after run."""
    before = play.texts()
    for _ in range(2):
        with pytest.raises(WrongLedger) as refused:
            play.replay(state, count)
        assert ExitCode.INPUT == refused.value.exit_code
        assert "--state" in str(refused.value.hint)
    assert before == play.texts()
    assert set(before.values()) <= {1}


def test_a_restored_ledger_is_refused_once_the_server_has_forgotten_its_keys(user: str, tmp_path: Path) -> None:
    with playing(tmp_path, user) as play:
        play.replay("state", 6)
        copy_state(play.state, tmp_path / "backup")
        assert 6 == play.replay("state", 12)
        play.pass_a_day()
        assert_refused_and_nothing_written(play, "backup", 12)
        assert 0 == play.replay("state", 12)


def test_of_two_copies_of_a_ledger_the_second_to_write_is_refused(user: str, tmp_path: Path) -> None:
    with playing(tmp_path, user) as play:
        play.replay("state", 3)
        copy_state(play.state, tmp_path / "copy")
        assert 6 == play.replay("copy", 9)
        play.pass_a_day()
        assert_refused_and_nothing_written(play, "state", 9)
        assert 3 == play.replay("copy", 12)


@pytest.mark.parametrize("mapping", ["", NONE, BATCH], ids=["full", "none", "batch"])
@pytest.mark.parametrize("more", [0, 1], ids=["the same memories", "one with an older memory"])
def test_two_copies_that_begin_at_the_same_moment_write_nothing_twice(
    user: str, tmp_path: Path, mapping: str, more: int
) -> None:
    """Both have listed the scopes before either leaves its marker; the older memory cuts the batches elsewhere."""
    both = threading.Barrier(2, timeout=60)
    passed: set[str] = set()
    rows = [memory(number, f"{user}0") for number in range(80)]
    with playing(tmp_path, user, mapping=mapping) as play:
        files = [write_raw(tmp_path / f"{name}.json", rows) for name in ("state", "copy")]
        if more:
            write_raw(files[1], [memory(90, f"{user}0", at="2024-01-01T00:00:00+00:00"), *rows])
        first = write_raw(tmp_path / "first.json", rows[:3])
        replay(play.server, play.state, [first], mapping=play.mapping)
        copy_state(play.state, tmp_path / "copy")

        def begin(name: str, file: Path) -> ExitCode:
            def choose(seen: Seen) -> Fault:
                if seen.method == "POST" and b"x---m" in seen.body and name not in passed:
                    passed.add(name)
                    both.wait()
                return "none"

            with misbehaving(play.server.base_url, choose) as proxy:
                try:
                    done = replay(play.server, tmp_path / name, [file], endpoint=proxy.base_url, mapping=play.mapping)
                except WrongLedger as error:
                    return error.exit_code
                return done.exit_code

        with ThreadPoolExecutor(2) as pool:
            codes = list(pool.map(begin, ("state", "copy"), files))

        assert {1} == set(play.texts().values())
        # One by one, both may be done: the same bytes under the same key, in the same session.
        assert mapping != BATCH or ExitCode.INPUT in codes, codes
        done = replay(
            play.server, tmp_path / "copy", [files[1]], mapping=play.mapping, options=ReplayOptions(adopt=True)
        )
        assert ExitCode.DONE == done.exit_code
        assert ({1}, 80 + more) == (set(play.texts().values()), play.texts().total())


@pytest.mark.parametrize("markers", [True, False], ids=["with markers", "without markers"])
@pytest.mark.parametrize("mapping", ["", NONE, BATCH], ids=["full", "none", "batch"])
@pytest.mark.parametrize("runs", [False, True], ids=["a session a user", "a session a memory"])
@pytest.mark.parametrize("at", [4, 31])
def test_a_copy_taken_in_the_middle_of_a_run_is_refused(
    user: str, tmp_path: Path, markers: bool, mapping: str, runs: bool, at: int
) -> None:
    """The run goes on under the number that the copy knows, so its sessions and scopes must show what it wrote."""
    count, at = (246, 2) if mapping == BATCH else (66, at)
    with playing(tmp_path, user, markers=markers, mapping=mapping, runs=runs) as play:
        play.replay("state", 6)
        with misbehaving(play.server.base_url, play.copy_at_write(at)) as proxy:
            assert count - 6 == play.replay("state", count, endpoint=proxy.base_url)
        play.pass_a_day()
        assert_refused_and_nothing_written(play, "copy", count)
        assert 0 == play.replay("state", count)


@pytest.mark.parametrize("mapping", ["", NONE, BATCH], ids=["full", "none", "batch"])
def test_a_copy_that_is_used_within_a_day_meets_its_keys(user: str, tmp_path: Path, mapping: str) -> None:
    count = 240 if mapping == BATCH else 60
    with playing(tmp_path, user, markers=False, mapping=mapping) as play:
        with misbehaving(play.server.base_url, play.copy_at_write(2)) as proxy:
            assert count == play.replay("state", count, endpoint=proxy.base_url)
        assert_refused_and_nothing_written(play, "copy", count)


def test_a_key_that_this_ledger_never_sent_and_the_server_knows_ends_the_run(user: str, tmp_path: Path) -> None:
    """Nothing but the keys tells, where the key may make no marker and the scopes may exist."""
    with playing(tmp_path, user, markers=False) as play:
        play.replay("state", 3)
        with pytest.raises(WrongLedger, match="never sent: another ledger"):
            play.replay("lost", 3, options=ReplayOptions(into_existing=True))
        assert {1} == set(play.texts().values())


def test_a_refused_memory_that_is_tried_again_may_meet_its_own_key(user: str, tmp_path: Path) -> None:
    refused = True

    def refuse_first(seen: Seen) -> Fault:
        nonlocal refused
        if is_write(seen) and refused:
            return refusing(422, "not now")
        return refusing(409, "idempotency key was used with another body") if is_write(seen) else "none"

    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with server_here(tmp_path / "data", context="tests") as server:
        with misbehaving(server.base_url, refuse_first) as proxy:
            assert 1 == replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url).refused
            refused = False
            again = ReplayOptions(retry_failed=True)
            for _ in range(2):
                summary = replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url, options=again)
                assert ExitCode.REFUSED == summary.exit_code
        assert 1 == replay(server, tmp_path / "state", [dump], options=again).written


def test_a_run_that_only_tries_refused_memories_again_looks_for_markers(user: str, tmp_path: Path) -> None:
    def refuse(seen: Seen) -> Fault:
        return refusing(422, "not now") if is_write(seen) else "none"

    with playing(tmp_path, user) as play:
        with misbehaving(play.server.base_url, refuse) as proxy:
            play.replay("state", 3, endpoint=proxy.base_url)
        copy_state(play.state, tmp_path / "copy")
        again = ReplayOptions(retry_failed=True)
        assert 3 == play.replay("state", 3, options=again)
        play.pass_a_day()
        with pytest.raises(WrongLedger):
            play.replay("copy", 3, options=again)
        assert {1} == set(play.texts().values())


def test_an_equal_text_that_another_worker_sends_meanwhile_is_of_this_ledger(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    """It is there when the scope is searched, and was intended after the search began."""
    state, text = tmp_path / "state", f"{user} likes tea"
    rows = [memory(0, user), memory(1, user, text), memory(2, user, text)]
    replay(spectron, state, [write_raw(tmp_path / "all.json", rows)], options=ReplayOptions(limit=1))
    with Ledger.open_for_writing(state) as ledger:
        ledger.db.execute("UPDATE session SET state = 'closed'")  # nothing but the search shows the server

        class OtherWorkerSends:
            endpoint, context = "here", "tests"
            searches = 0

            async def query(self, *_: object, **__: object) -> Recall:
                self.searches += 1
                ledger.db.execute(
                    "UPDATE fact SET state = 'intended', was_sent = 1, position = 9,"
                    " session = (SELECT max(id) FROM session)"
                    " WHERE id = (SELECT id FROM version WHERE mem0_id = ?)",
                    (rows[2]["id"],),
                )
                return Recall((hit_of({"id": "p1", "source": "memory_chunk", "text": text}),), "")

        api, last = OtherWorkerSends(), plan.last_plan(ledger)
        assert last is not None
        own = OwnWork("2999-01-01T00:00:00Z")
        asyncio.run(check_ledger_age(ledger, api, own, last[0], applications_write=False))  # type: ignore[arg-type]
        assert 1 == api.searches


def test_a_server_that_was_restored_to_an_older_state_is_refused(user: str, tmp_path: Path) -> None:
    """Its newest session is whole; an older one that was used since lacks a turn."""
    with playing(tmp_path, user) as play:
        play.replay("state", 6)
    shutil.copytree(tmp_path / "data", tmp_path / "restored" / "data")
    with playing(tmp_path, user) as play:
        play.replay("state", 7)
    with server_here(tmp_path / "restored" / "data", context="tests") as server:
        play.server = server
        with pytest.raises(WrongLedger, match=r"1 of 3 turns .* not listed"):
            play.replay("state", 12)
        assert 6 == play.texts().total()


@pytest.mark.parametrize("mapping", ["", NONE, BATCH], ids=["full", "none", "batch"])
@pytest.mark.parametrize("state", ["copy", "lost"])
@pytest.mark.parametrize("day", [False, True], ids=["within a day", "later"])
def test_what_was_refused_goes_on_with_adopt(user: str, tmp_path: Path, mapping: str, state: str, day: bool) -> None:
    """The hint works; the original is refused from then on."""
    count = 246 if mapping == BATCH else 66
    with playing(tmp_path, user, mapping=mapping) as play:
        play.replay("state", 6)
        with misbehaving(play.server.base_url, play.copy_at_write(4 if mapping != BATCH else 2)) as proxy:
            play.replay("state", count, endpoint=proxy.base_url)
        if day:
            play.pass_a_day()
        with pytest.raises((WrongLedger, NotLegal)) as refused:
            play.replay(state, count + 6)
        assert "--adopt" in str(refused.value.hint)
        play.replay(state, count + 6, options=ReplayOptions(adopt=True))
        assert {1} == set(play.texts().values())
        assert count + 6 == play.texts().total()
        assert 3 == play.replay(state, count + 9)
        if state == "copy":  # of raw files nobody knows that a lost ledger with another file was about the same Mem0
            assert_refused_and_nothing_written(play, "state", count + 12)
